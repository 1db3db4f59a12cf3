"""Compiled kernels for CPUs with AVX-512; `kernels/` has their source."""
