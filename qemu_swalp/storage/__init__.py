"""Quantized tensors on disk and in other libraries' dtypes."""
