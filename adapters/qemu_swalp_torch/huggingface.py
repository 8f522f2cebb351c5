"""A callback that keeps averages and random bits in the checkpoints of transformers' Trainer.

Accelerate needs none: `accelerator.register_for_checkpointing(averager, handle)`, before
`save_state` and `load_state`, is all that it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from qemu_swalp._util.extras import require

from .averaging.averager import Averager
from .model.handle import SiteHandle

FILE = "qemu_swalp.pt"
"""In a checkpoint's folder, beside the optimizer's."""


def checkpoint_callback(
    averager: Averager | None = None, handles: Sequence[SiteHandle] | SiteHandle = ()
) -> Any:
    """A `transformers.TrainerCallback` that updates an averager after every step of the optimizer,
    and keeps it and the handles' calls and seeds in the Trainer's checkpoints.

    A run that resumes has the bits of an uninterrupted one. The optimizer's own emulation state is
    in its state dict, which the Trainer keeps by itself.

    Parameters
    ----------
    averager : of the model, or of a module in it; None: no average.
    handles : what `quantize_activations`, `quantize_gemms` and `quantize_elementwise` returned, in
        the same order at each run.

    Raises
    ------
    TypeError: if `averager` is not an Averager, or a handle not a SiteHandle.
    ImportError: if transformers is not installed.
    ValueError: when training resumes, from a checkpoint that holds nothing of ours, or was moved
        since; `callback.load(folder)` before `train` reads that of another folder.

    `Trainer(callbacks=[checkpoint_callback(averager, handles)])` is all that it takes.
    """
    parts: list[SiteHandle] = [handles] if isinstance(handles, SiteHandle) else list(handles)
    if averager is not None and not isinstance(averager, Averager):
        raise TypeError(
            "averager must be a qemu_swalp_torch.Averager or None, got"
            f" {type(averager).__qualname__}"
        )
    for handle in parts:
        if not isinstance(handle, SiteHandle):
            raise TypeError(
                "handles must be what quantize_activations, quantize_gemms or quantize_elementwise"
                f" returned, got {type(handle).__qualname__}"
            )
    library: Any = require("transformers.trainer_callback", "huggingface")

    class QemuSwalpCallback(library.TrainerCallback, library.ExportableState):  # type: ignore[misc]
        """See `checkpoint_callback`."""

        def __init__(self) -> None:
            self.attached: Any = None
            self.loaded = False
            self.progress: tuple[Any, Any] | None = None
            """Arguments and state of the present training."""

        def state(self) -> dict[str, Any]:
            """What the Trainer writes into `trainer_state.json`: where our file is."""
            place = {} if self.progress is None else {"saved_in": str(_folder(*self.progress))}
            return {"args": {}, "attributes": place}

        def load(self, folder: str | Path) -> None:
            """Load what a checkpoint's folder holds of ours. ValueError where it lacks it."""
            path = Path(folder) / FILE
            if not path.is_file():
                raise ValueError(
                    f"{path} does not exist, without which averages and random bits do not go on;"
                    " if the checkpoint was moved, call load(folder) of the callback before train"
                )
            saved = torch.load(path, weights_only=True)
            if (saved["averager"] is None) != (averager is None) or len(saved["handles"]) != len(
                parts
            ):
                raise ValueError(
                    f"{path} is of {'no' if saved['averager'] is None else 'an'} averager and"
                    f" {len(saved['handles'])} handles, this callback of"
                    f" {'no' if averager is None else 'an'} averager and {len(parts)}; make it"
                    " as it was for the checkpoint"
                )
            if averager is not None:
                averager.load_state_dict(saved["averager"])
            for handle, state in zip(parts, saved["handles"], strict=True):
                handle.load_state_dict(state)
            self.loaded = True

        def on_train_begin(
            self, args: Any, state: Any, control: Any, optimizer: Any = None, **rest: Any
        ) -> None:
            self.progress = args, state
            if state.global_step and not self.loaded:
                ours = state.stateful_callbacks.get(type(self).__name__)
                if ours is None:
                    raise ValueError(
                        "the checkpoint holds no average and no calls of quantized modules, since"
                        " its run had no checkpoint_callback; leave the callback out, or call its"
                        " load(folder) before train"
                    )
                self.load(ours["attributes"]["saved_in"])
            self.loaded = False
            if averager is not None:
                inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps optimizers
                if not isinstance(inner, Optimizer):
                    raise TypeError(
                        f"the Trainer's optimizer must be a torch.optim.Optimizer, got {inner!r}"
                    )
                self.attached = averager.attach(inner)

        def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if self.attached is not None:
                self.attached.remove()

        def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.is_world_process_zero:
                saved = {
                    "averager": None if averager is None else averager.state_dict(),
                    "handles": [handle.state_dict() for handle in parts],
                }
                torch.save(saved, _folder(args, state) / FILE)

    return QemuSwalpCallback()


def _folder(args: Any, state: Any) -> Path:
    """Of the checkpoint that the Trainer saves at the present step."""
    return Path(args.output_dir).absolute() / f"checkpoint-{state.global_step}"
