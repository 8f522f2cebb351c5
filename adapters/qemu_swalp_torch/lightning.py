"""A callback that keeps an average in Lightning's training loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any
from zlib import crc32

from torch import nn

from qemu_swalp._util.checks import check_bool, check_int
from qemu_swalp._util.extras import require
from qemu_swalp.interop.torch import is_dtensor

from .averaging.averager import Averager
from .averaging.update_bn import update_bn
from .model.handle import disabled

KEY = "qemu_swalp_torch.Average: "
"""What the keys of our states in Lightning's checkpoints begin with."""

ITERATE = "iterate"
"""Key within them: the weights that training goes on from, where the average stands in the model's
place.
"""


def average_callback(
    averager: Averager,
    *,
    validate: bool | None = None,
    optimizer: int = 0,
    batchnorm_data: Iterable[Any] | None = None,
    call_fn: Callable[[nn.Module, Any], Any] | None = None,
    name: str | None = None,
    save_average: bool = False,
) -> Any:
    """A `lightning.pytorch.Callback` that updates an averager after every step of one of the
    trainer's optimizers.

    Parameters
    ----------
    averager : of the LightningModule, or of a module in it; its start and cycle count optimizer
        steps. It goes into Lightning's checkpoints and comes back from them.
    validate : whether validation, testing and prediction see the average, computed without rounding
        of activations, as soon as there is one. None: of several averages of one model the first
        one listed, unless another has True.
    optimizer : index of the optimizer, in the order of `configure_optimizers`.
    batchnorm_data, call_fn : loader by which `update_bn` sets the statistics of batch normalization
        each time that the average is shown, and how the averaged module is called; None: for models
        without batch normalization.
    name : under which checkpoints hold the state; None: the averager's policy and the names of its
        parameters. Averages that have both in common need a name each.
    save_average : whether checkpoints hold the average as the model's weights, as soon as there is
        one, so that whoever loads them has it. The weights that training goes on from are beside
        it, in the callback's state. A callback resumes from either kind, whatever its own.

    Raises
    ------
    TypeError: if `averager` is not an Averager, or an argument has another type.
    ImportError: if neither lightning nor pytorch_lightning is installed.
    ValueError: when training starts, if there is no optimizer of that index, or if two averages of
        one model have `validate=True` or `save_average=True`; when a checkpoint is loaded that has
        averages, and not this; when one is saved that has other names than the model.

    `Trainer(callbacks=[average_callback(averager)])` is all that it takes.
    """
    if not isinstance(averager, Averager):
        raise TypeError(
            f"averager must be a qemu_swalp_torch.Averager, got {type(averager).__qualname__}"
        )
    if validate is not None:
        check_bool("validate", validate)
    check_bool("save_average", save_average)
    check_int("optimizer", optimizer, 0, 2**31)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a string or None, got {name!r}")
    model = averager.source.model
    if batchnorm_data is not None and model is None:
        raise TypeError(
            "batchnorm_data needs an averager of a module, whose batch normalizations it sets; this"
            " one is of named tensors"
        )
    kind: Any = require("lightning.pytorch.callbacks", "lightning").Callback

    class Average(kind):  # type: ignore[misc]
        """See `average_callback`."""

        def __init__(self) -> None:
            self.averager, self.validate, self.shows = averager, validate, bool(validate)
            self.save_average = save_average
            self.shown = ExitStack()
            self.attached: Any = None

        @property
        def state_key(self) -> str:
            rule, names = json.dumps(averager.rule.record()), " ".join(averager.parameters)
            return f"{KEY}{name or f'{rule}, {crc32(names.encode()):x}'}"

        def setup(self, trainer: Any, module: Any, stage: str) -> None:
            ours = [c for c in trainer.callbacks if _is_ours(c)]
            self.shows = averager in shown_of(ours)
            check_saved(ours)
            save_with_averages(trainer)

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.leave()
            if optimizer >= len(trainer.optimizers):
                raise ValueError(
                    f"optimizer={optimizer} is the index of none of the trainer's"
                    f" {len(trainer.optimizers)} optimizers; the first one has the index 0"
                )
            self.attached = averager.attach(trainer.optimizers[optimizer])

        def leave(self, *_: Any, **__: Any) -> None:
            """Take everything back: also what a run that was interrupted left behind."""
            self.hide()
            if self.attached is not None:
                self.attached.remove()
                self.attached = None

        def show(self, trainer: Any, module: Any) -> None:
            self.hide()
            if self.shows and averager.n_averaged:
                with ExitStack() as stack:
                    stack.enter_context(averager.swap())
                    stack.enter_context(disabled(module))
                    if batchnorm_data is not None and model is not None:
                        update_bn(
                            batchnorm_data,
                            model,
                            call_fn=call_fn,
                            device=None if call_fn else module.device,
                        )
                    self.shown = stack.pop_all()

        def hide(self, *_: Any) -> None:
            self.shown.close()

        on_train_end = on_exception = teardown = leave
        on_validation_start = on_test_start = on_predict_start = show
        on_validation_end = on_test_end = on_predict_end = hide

        def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
            ours = [k for k in checkpoint.get("callbacks", {}) if str(k).startswith(KEY)]
            if ours and self.state_key not in ours:
                raise ValueError(
                    f"the checkpoint has no state of the average {self.state_key!r}, but of"
                    f" {', '.join(ours)}; make the callbacks with the checkpoint's policies and"
                    " names"
                )

        def state_dict(self) -> dict[str, Any]:
            iterate = {ITERATE: averager.iterate()} if save_average and averager.n_averaged else {}
            return averager.state_dict() | iterate

        def load_state_dict(self, state: dict[str, Any]) -> None:
            averager.load_state_dict({k: x for k, x in state.items() if k != ITERATE})
            if ITERATE in state:
                averager.set_iterate(state[ITERATE])

    return Average()


def _is_ours(callback: Any) -> bool:
    return isinstance(getattr(callback, "averager", None), Averager)


def shown_of(callbacks: list[Any]) -> list[Averager]:
    """The averagers that validation shows, none of which share a tensor.

    ValueError where several that do ask for it.
    """
    shown: dict[Averager, set[int]] = {}
    for asked in (True, None):
        for averager in [c.averager for c in callbacks if c.validate is asked]:
            ids = {id(p) for p in averager.parameters.values()}
            if all(ids.isdisjoint(others) for others in shown.values()):
                shown[averager] = ids
            elif asked:
                raise ValueError(
                    "validation shows one average of a model, and two callbacks have validate=True;"
                    " pass validate=False to one of them"
                )
    return list(shown)


def check_saved(callbacks: list[Any]) -> None:
    """ValueError where two averages that share a tensor are to be the weights of one checkpoint."""
    seen: set[int] = set()
    for averager in [c.averager for c in callbacks if c.save_average]:
        ids = {id(p) for p in averager.parameters.values()}
        if not seen.isdisjoint(ids):
            raise ValueError(
                "a checkpoint holds one average as the weights of a model, and two callbacks have"
                " save_average=True; pass it to one of them"
            )
        seen |= ids


def save_with_averages(trainer: Any) -> None:
    """Let the weights in a trainer's checkpoints be those that its callbacks of averages say."""
    strategy = trainer.strategy
    inner = strategy.lightning_module_state_dict
    if getattr(inner, "saves_averages", False):
        return

    def state_dict() -> dict[str, Any]:
        state: dict[str, Any] = inner()
        ours = filter(_is_ours, trainer.callbacks)
        for callback in sorted(ours, key=lambda c: c.save_average):  # averages over iterates
            _exchange(state, callback, strategy.lightning_module)
        return state

    state_dict.saves_averages = True  # type: ignore[attr-defined]
    strategy.lightning_module_state_dict = state_dict


def _exchange(state: dict[str, Any], callback: Any, module: nn.Module) -> None:
    """Put the average, or the iterate while the average stands in the model, into a state dict."""
    averager = callback.averager
    if callback.save_average == averager.swapped or not averager.n_averaged:
        return
    weights = averager.average() if callback.save_average else averager.iterate()
    keys: dict[int, list[str]] = {}
    for key, x in module.state_dict(keep_vars=True).items():  # tied weights have several
        keys.setdefault(id(x), []).append(key)
    tensors = averager.source.all_buffers() | averager.parameters
    for name, x in weights.items():
        whole = x.full_tensor() if is_dtensor(x) else x
        present = keys.get(id(tensors[name]), [])
        if not present and isinstance(tensors[name], nn.Parameter):
            raise ValueError(
                f"{name} is averaged, and the checkpoint has it under no name, so that nothing can"
                " be put in its place; average the LightningModule or a module of it, under a"
                " strategy that does not flatten parameters; or pass save_average=False"
            )
        saved = [key for key in present if key in state]
        if saved:
            like = state[saved[0]]
            value = (x if is_dtensor(like) else whole).to(like.device, like.dtype)
            state.update(dict.fromkeys(saved, value))
