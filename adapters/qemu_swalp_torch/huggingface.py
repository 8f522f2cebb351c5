"""A callback that keeps averages and random bits in the checkpoints of transformers' Trainer.

Accelerate needs none: `accelerator.register_for_checkpointing(averager, handle)`, before
`save_state` and `load_state`, is all that it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch

from qemu_swalp._util.extras import require

from .averaging.attachment import Attachment
from .averaging.averager import Averager
from .model.handle import SiteHandle

FILE = "qemu_swalp.pt"
"""In a checkpoint's folder, beside the optimizer's."""

ATTACHED: WeakSet[Attachment] = WeakSet()
"""What trainings have attached. The Trainer tells nobody when one ends by an exception: the next
one, also with another callback, takes it away.
"""


def checkpoint_callback(
    averager: Averager | Sequence[Averager] | None = None,
    handles: Sequence[SiteHandle] | SiteHandle = (),
) -> Any:
    """A `transformers.TrainerCallback` that updates averagers after every step of the optimizer,
    and keeps them and the handles' calls and seeds in the Trainer's checkpoints.

    A run that resumes has the bits of an uninterrupted one. The optimizer's own emulation state is
    in its state dict, which the Trainer keeps by itself.

    Parameters
    ----------
    averager : of the model, or of a module in it; or several of them, in the same order at each
        run; None: no average.
    handles : what `quantize_activations`, `quantize_gemms` and `quantize_elementwise` returned, in
        the same order at each run.

    Raises
    ------
    TypeError: if an averager is not an Averager, or a handle not a SiteHandle.
    ImportError: if transformers is not installed.
    ValueError: when training resumes, from a checkpoint that holds nothing of ours, or was moved
        since; `callback.load(folder)` before `train` reads that of another folder. When training
        starts, if the Trainer has two such callbacks.

    `Trainer(callbacks=[checkpoint_callback(averager, handles)])` is all that it takes.
    """
    parts: list[SiteHandle] = [handles] if isinstance(handles, SiteHandle) else list(handles)
    given = averager if isinstance(averager, Sequence) else [averager]
    averagers: list[Any] = [] if averager is None else list(given)
    for each in averagers:
        if not isinstance(each, Averager):
            raise TypeError(
                "averager must be a qemu_swalp_torch.Averager, several of them or None, got"
                f" {type(each).__qualname__}"
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
            theirs = [len(saved["averagers"]), len(saved["handles"])]
            if theirs != [len(averagers), len(parts)]:
                raise ValueError(
                    f"{path} is of {theirs[0]} averagers and {theirs[1]} handles, this callback of"
                    f" {len(averagers)} averagers and {len(parts)} handles; make it as it was for"
                    " the checkpoint"
                )
            for each, state in zip(averagers, saved["averagers"], strict=True):
                each.load_state_dict(state)
            for handle, state in zip(parts, saved["handles"], strict=True):
                handle.load_state_dict(state)
            self.loaded = True

        def on_train_begin(
            self, args: Any, state: Any, control: Any, optimizer: Any = None, **rest: Any
        ) -> None:
            self.leave()
            self.progress = args, state
            ours = state.stateful_callbacks.get(type(self).__name__)
            if isinstance(ours, list):
                raise ValueError(
                    f"the Trainer has {len(ours)} checkpoint_callbacks, which would write one file;"
                    " make one of all averagers and handles, as in checkpoint_callback([first,"
                    " second], handles)"
                )
            if state.global_step and not self.loaded:
                if ours is None:
                    raise ValueError(
                        "the checkpoint holds no average and no calls of quantized modules, since"
                        " its run had no checkpoint_callback; leave the callback out, or call its"
                        " load(folder) before train"
                    )
                self.load(ours["attributes"]["saved_in"])
            self.loaded = False
            for each in averagers:
                ATTACHED.add(each.attach(optimizer))

        def leave(self, *_: Any, **__: Any) -> None:
            """Count no more steps."""
            for each in averagers:
                for attachment in each.attachments.standing():
                    if attachment in ATTACHED:
                        attachment.remove()

        on_train_end = leave

        def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.is_world_process_zero:
                saved = {
                    "averagers": [each.state_dict() for each in averagers],
                    "handles": [handle.state_dict() for handle in parts],
                }
                torch.save(saved, _folder(args, state) / FILE)

    return QemuSwalpCallback()


def _folder(args: Any, state: Any) -> Path:
    """Of the checkpoint that the Trainer saves at the present step."""
    return Path(args.output_dir).absolute() / f"checkpoint-{state.global_step}"
