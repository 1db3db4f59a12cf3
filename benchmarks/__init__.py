"""Measured comparisons with other BGE-M3 encoders; each script prints a table and writes JSON."""
