"""Training of the small demo checkpoint in BGE-M3's format."""
