"""The folder of an index: who holds it, its manifest, its files."""
