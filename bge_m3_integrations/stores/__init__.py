"""Stores keep records and embeddings, find candidates and score ids; `base` is the contract."""
