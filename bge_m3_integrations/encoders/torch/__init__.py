"""The PyTorch encoder: any checkpoint in BGE-M3's format, on CPU, CUDA or MPS."""
