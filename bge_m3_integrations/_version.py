"""The version, which nothing else computes."""

__version__ = "0.1.0"
