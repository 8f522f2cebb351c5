"""Rounding of PyTorch tensors: autograd, custom operators, counters, sharding."""
