"""The kernels on a GPU, compiled and launched by CuPy."""
