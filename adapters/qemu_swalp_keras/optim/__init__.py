"""Quantized optimizers: a wrapper around any optimizer of Keras, and our SGD."""
