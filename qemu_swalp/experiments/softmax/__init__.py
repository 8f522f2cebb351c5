"""Softmax regression on the core, on PyTorch and on Keras."""
