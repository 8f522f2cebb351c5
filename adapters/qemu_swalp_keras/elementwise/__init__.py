"""Rounding of elementwise operations while a layer is called."""
