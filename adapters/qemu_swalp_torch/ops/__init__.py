"""Rounded operations on tensors: products, sums, elementwise arithmetic."""
