"""Every call of the Qdrant Edge engine, and the checks of its files."""
