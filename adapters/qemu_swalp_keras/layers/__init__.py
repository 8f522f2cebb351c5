"""Rounding inside a model: layers, and models rebuilt with them."""
