"""What `qemu-swalp reproduce digits` lets a user choose."""

from __future__ import annotations

from dataclasses import dataclass

from ..common.settings import Settings as Common, option


@dataclass(frozen=True)
class Settings(Common):
    """Options of `qemu-swalp reproduce digits`."""

    fractions: tuple[int, ...] = option(
        (2, 4, 6, 8),
        "part one: fractional bits of the weights; the word has 4 more",
        quick=(4,),
        above=0,
        most=20,
    )
    epochs: int = option(200, "part one: passes over the training images", quick=4, above=0)
    start: int = option(
        50, "part one: epochs before averaging, which then takes every step", quick=2, above=-1
    )
    learning_rate: float = option(0.5, "part one: constant learning rate", above=0)
    batch: int = option(32, "part one: samples in a mini-batch", above=0)
    decay: float = option(1e-3, "part one: λ of the L2 term λ/2 ‖W‖²", above=0)
    framework: str = option(
        "torch",
        "part two: where to run; Keras on the backend that KERAS_BACKEND names",
        choices=("torch", "keras"),
    )
    words: tuple[int, ...] = option(
        (8, 6, 4), "part two: bits of a block floating point number", quick=(4,), above=1, most=24
    )
    network_epochs: int = option(20, "part two: passes over the training images", quick=2, above=0)
    network_start: int = option(
        10, "part two: epochs before averaging, which then takes every step", quick=1, above=-1
    )
    network_rate: float = option(0.2, "part two: constant learning rate", above=0)
    network_batch: int = option(32, "part two: samples in a mini-batch", quick=128, above=0)
    network_decay: float = option(5e-4, "part two: weight decay", above=-1)
    momentum: float = option(0.9, "part two: momentum", above=-1)
    hidden: int = option(64, "part two: hidden units", quick=16, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network_start >= self.network_epochs:
            raise ValueError(
                "--network-start must be less than --network-epochs, or nothing is averaged; got "
                f"{self.network_start} and {self.network_epochs}"
            )
