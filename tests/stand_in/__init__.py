"""What stands in for a GPU where there is none: `python -m pytest -p tests.stand_in.plugin PATHS`.

No GPU runs anything here, and no figure of it is one of a GPU. The module `cupy` is replaced by
one whose arrays lie in the host's memory, and whose `RawModule` runs the very kernels of
`src/cuda`, compiled for the CPU (`tests/helpers/emulated.py`). PyTorch's CPU tensors can be
marked as CUDA's, and its graphs are recorded and replayed.

What it shows: that the Python layer above CuPy and `torch.cuda` calls both as they are called,
gives every kernel the right memory and structure, on the device where it is, and keeps memory for
as long as a launch or a graph reads it. Memory that is given back is overwritten and used again, as
CuPy's pools do. What real libraries refuse is refused: implicit copies to the host, allocation and
waiting while a graph is captured, which spoils it, memory of another device, deprecated calls.

What it does not show: speed, races between streams or threads, flush-to-zero arithmetic, and
whether CuPy, NVRTC or a driver accept what they are given.
"""

NAME = "stand-in, no GPU"
"""What its libraries call their device."""
