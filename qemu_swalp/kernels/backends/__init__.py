"""How each array library hands its arrays to the compiled kernels."""
