"""Which path arrays of each library take: the compiled kernels, or the reference implementation."""

from __future__ import annotations

from .._util.checks import check_choice
from ..arrays.dtypes import SOURCE_DTYPES
from ..formats import Block, Format, Overflow, parse
from ..kernels import cpu, enabled
from ..kernels.gpu.availability import refusal as gpu_refusal
from ..kernels.plan import plan_of, refusal_of
from ..reference.context import Target
from ..rounding import Rounding
from .arguments import check_representable, policy_of

COMPILED = "compiled kernels"

WITHOUT_KERNELS = (
    ("registered rounding modes and scale rules", "everywhere"),
    ("squeezed formats (S2FP8)", "everywhere"),
    ("rule=ggml_signed, ggml_minimum (BLK-19)", "everywhere"),
    ("given scales, scales= (BLK-16)", "GPUs"),
    ("tables, posits, takums under scales, and top= (BLK-15)", "GPUs"),
    ("searched scales: rule=mse, four_over_six (BLK-17)", "GPUs"),
    ("rule=mse of tables in other modes than nearest_even", "everywhere"),
    ("rule=ggml (BLK-18)", "GPUs"),
    ("stochastic tables with neighbours 2^62 units apart", "everywhere"),
)
"""What the kernels do not support, and where: lines of `qemu-swalp info`."""


def kernel_paths(
    format: Format | str,
    rounding: Rounding | str = "nearest_even",
    *,
    dtype: str = "float32",
    overflow: Overflow | None = None,
    given_scales: bool = False,
) -> dict[str, str]:
    """Which path `quantize` takes in each array library: compiled kernels or the reference
    implementation, which gives the same bits and is slower.

    Parameters
    ----------
    format, rounding, overflow : as for `quantize`.
    dtype : of the arrays: "float16", "bfloat16", "float32" or "float64".
    given_scales : whether the call gives `scales=`.

    Returns
    -------
    dict : for "numpy", "torch", "tensorflow" and "jax", of arrays on a CPU, and for "cuda", of
        arrays of CuPy and PyTorch on a GPU: "compiled kernels", or "reference implementation: " and
        why. Whether TensorFlow and JAX of the installed versions call the kernels, and whether
        arrays that XLA divides between devices do, `qemu-swalp info` tells.

    Raises
    ------
    TypeError: if the dtype does not represent the format's values.
    ValueError: if the format, rounding, policy or dtype is unknown.

    >>> for library, path in kernel_paths("mxfp4", "stochastic").items():
    ...     print(library, path)  # doctest: +SKIP
    numpy compiled kernels
    torch compiled kernels
    tensorflow compiled kernels
    jax compiled kernels
    cuda reference implementation: CuPy is not installed
    """
    format, rounding = parse(format), Rounding.parse(rounding)
    check_choice("dtype", dtype, tuple(SOURCE_DTYPES))
    source = SOURCE_DTYPES[dtype]
    check_representable(format, source)
    # which words among the axes of blocks stand for, no plan asks
    if isinstance(format, Block):
        policy = format.overflow_in_force(overflow)
    else:
        policy = policy_of(format, overflow)
    target = Target(format, policy, rounding)
    plan = plan_of(source, target, given_scales)
    reason = refusal_of(source, target, given_scales)
    host = reason or _refusal(cpu.refusal())
    on_gpus = reason or _refusal(gpu_refusal() or "")
    if not on_gpus and plan is not None and plan.host_only:
        on_gpus = "GPUs have no kernel for it"
    reasons = {
        "numpy": host,
        "torch": host,
        "tensorflow": host,
        "jax": host,
        "cuda": on_gpus,
    }
    return {
        library: f"reference implementation: {why}" if why else COMPILED
        for library, why in reasons.items()
    }


def _refusal(reason: str) -> str:
    return reason if enabled() else "QEMU_SWALP_KERNELS is off"
