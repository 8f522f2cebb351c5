"""Rounding inside a model: its activations, products and elementwise operations."""
