"""Names of optimizer state: those that PyTorch's optimizers use, and those that nobody keeps."""

from __future__ import annotations

import warnings

from torch.optim import Optimizer

from .param_plan import MOMENTA, Entry
from .wrappers import inner_optimizers

KEPT_BY_PYTORCH = frozenset(
    (
        "exp_avg_sq",
        "max_exp_avg_sq",
        "square_avg",
        "grad_avg",
        "acc_delta",
        "sum",
        "exp_inf",
        "ax",
        "eta",
        "mu",
        "prev",
        "step_size",
        "old_dirs",
        "old_stps",
        "ro",
        "al",
        "d",
        "row_var",
        "col_var",
        "variance",
        *MOMENTA,
    )
)
"""State of the optimizers in `torch.optim`: a recipe may name it for whichever it meets."""


def warn_of_unknown_state(optimizer: Optimizer, rounded: list[Entry]) -> None:
    """Warn of state that the recipe names and the optimizer, after a step, does not keep."""
    wanted = {
        name for entry in rounded for name, quantizer in entry.recipe.state if quantizer is not None
    }
    wanted -= KEPT_BY_PYTORCH
    holders = (optimizer, *inner_optimizers(optimizer).values())
    states = [state for holder in holders for state in holder.state.values()]
    present = {name for state in states if isinstance(state, dict) for name in state}
    if wanted - present:
        warnings.warn(
            f"the recipe quantizes the optimizer state {', '.join(sorted(wanted - present))}, which"
            f" {type(optimizer).__name__} does not keep; it keeps"
            f" {', '.join(sorted(present)) or 'none'}",
            stacklevel=2,
        )
