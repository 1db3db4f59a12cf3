"""`HybridIndex`: find, score, rank, ingest, open."""
