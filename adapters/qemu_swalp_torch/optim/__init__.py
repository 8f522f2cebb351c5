"""Quantized optimizers: hooks on any optimizer of PyTorch, and our SGD."""
