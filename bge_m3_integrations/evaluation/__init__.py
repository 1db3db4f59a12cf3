"""Measurements of models and searches."""
