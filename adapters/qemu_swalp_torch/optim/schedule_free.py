"""Optimizers of schedulefree (Defazio et al. 2024, arXiv 2405.15682), which hold other weights in
training than in evaluation.
"""

from __future__ import annotations

import warnings

from torch.optim import Optimizer

MODE = "train_mode"
"""Key of their param_groups: whether the model holds the weights that steps are made from."""


def check_set_up(optimizer: Optimizer) -> None:
    """ValueError where the model holds the weights of evaluation, which steps do not begin from.

    Otherwise a warning, for such an optimizer, that those are not rounded.
    """
    if not changes_weights(optimizer):
        return
    name = type(optimizer).__name__
    if optimizer.state and not in_training(optimizer):
        raise ValueError(
            f"this {name} was put into evaluation by eval(), so that the model holds its average"
            " and not the weights that it trains; call its train() before quantize_optimizer"
        )
    warnings.warn(
        f"{name}.eval() puts an average of its own into the model, which no recipe rounds; train()"
        " takes it out again",
        stacklevel=4,
    )


def check_step(optimizer: Optimizer) -> None:
    """RuntimeError where a step would begin from the weights of evaluation."""
    if not in_training(optimizer):
        raise RuntimeError(
            f"this {type(optimizer).__name__} was put into evaluation by eval(), or never into"
            " training; call its train() before step()"
        )


def changes_weights(optimizer: Optimizer) -> bool:
    """Whether train() and eval() of the optimizer write other weights into the model."""
    return any(MODE in group for group in optimizer.param_groups)


def in_training(optimizer: Optimizer) -> bool:
    """Whether the model holds the weights that steps are made from."""
    return all(group.get(MODE, True) for group in optimizer.param_groups)
