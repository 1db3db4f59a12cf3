"""Encoders turn texts into embeddings; this folder's `base` holds what each must offer."""
