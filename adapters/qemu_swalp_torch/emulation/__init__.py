"""A whole recipe applied in one call."""
