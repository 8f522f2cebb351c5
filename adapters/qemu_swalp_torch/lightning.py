"""A callback that keeps an average in Lightning's training loop."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from qemu_swalp._util.extras import require

from .averaging.averager import Averager
from .model.handle import disabled


def average_callback(averager: Averager, *, validate: bool = True) -> Any:
    """A `lightning.pytorch.Callback` that updates an averager after every step of the trainer's
    first optimizer.

    Parameters
    ----------
    averager : of the LightningModule, or of a module in it; its start and cycle count optimizer
        steps. It goes into Lightning's checkpoints and comes back from them.
    validate : whether validation and testing see the average, computed without rounding of
        activations, as soon as there is one; checkpoints hold the weights themselves.

    Raises
    ------
    TypeError: if `averager` is not an Averager.
    ImportError: if neither lightning nor pytorch_lightning is installed.

    `Trainer(callbacks=[average_callback(averager)])` is all that it takes.
    """
    if not isinstance(averager, Averager):
        raise TypeError(
            f"averager must be a qemu_swalp_torch.Averager, got {type(averager).__qualname__}"
        )
    kind: Any = require("lightning.pytorch.callbacks", "lightning").Callback

    class Average(kind):  # type: ignore[misc]
        """See `average_callback`."""

        def __init__(self) -> None:
            self.swapped = ExitStack()
            self.attached: Any = None

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.attached = averager.attach(trainer.optimizers[0])

        def on_train_end(self, trainer: Any, module: Any) -> None:
            self.attached.remove()

        def swap(self, trainer: Any, module: Any) -> None:
            if validate and averager.n_averaged:
                self.swapped.enter_context(averager.swap())
                self.swapped.enter_context(disabled(module))

        def restore(self, trainer: Any, module: Any) -> None:
            self.swapped.close()

        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            self.swapped.close()

        on_validation_start = on_test_start = swap
        on_validation_end = on_test_end = restore

        def state_dict(self) -> dict[str, Any]:
            return averager.state_dict()

        def load_state_dict(self, state: dict[str, Any]) -> None:
            averager.load_state_dict(state)

    return Average()
