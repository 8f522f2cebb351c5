"""Rounding of what a model's matrix products multiply, on every backend of Keras."""
