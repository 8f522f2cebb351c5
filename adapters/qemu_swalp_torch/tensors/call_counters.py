"""Steps of the random bits where a model rounds, and how a recomputation finds those of the calls
that it repeats.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qemu_swalp import stream_id

from .._compat import backward_id, constant, forward_pre_hooks, outside_transforms
from .custom_ops import Rule, is_stochastic, refuse_capture, tick
from .scripting import NotScriptable

BITS = 30
"""Of a step that number the calls of one mode; the two above them say the mode."""

MODES = ("training", "evaluation", "training without gradient", "evaluation without gradient")
"""What the model is doing, which counts the calls of each by themselves: looking at a model between
two training steps does not change the random bits of the next (clause RNG-5).
"""


class Position(NamedTuple):
    """Where a site stands in a model, and with it which random bits it draws."""

    clock: Clock
    name: str
    """Of the module, for errors and monitors."""
    module_index: int
    """Among all modules of the model."""
    seed: int


class Site(NotScriptable):
    """Where a model rounds tensors. Mode and number of the call are the step of its random bits:
    call n (n = 0, 1, …) of mode m in `MODES` has step m·2^30 + n.
    """

    stochastic = False

    def __init__(self, position: Position) -> None:
        self.clock, self.name, self.index, self.seed = position
        self.enabled, self.unread = True, False
        self.repeatable: int | Tensor = 0
        self.times = 0
        """Step of the last call that a backward may recompute, and number of such calls in the last
        forward.
        """
        with torch.inference_mode(
            False
        ):  # tensors, since compiled graphs take an int for a constant
            self.steps = [
                torch.full((), mode << BITS, dtype=torch.int64, device="cpu")
                for mode in range(len(MODES))
            ]
        """Of the next call in each mode."""

    def record(self) -> dict[str, Any]:
        """Seed of the random bits, and how often the site was called in each mode."""
        counts = (int(step) - (mode << BITS) for mode, step in enumerate(self.steps))
        return {"seed": self.seed, **dict(zip(MODES, counts, strict=True))}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Inverse of `record`."""
        self.seed = record["seed"]
        for mode, name in enumerate(MODES):
            self.steps[mode].fill_(record[name] + (mode << BITS))

    @property
    def calls(self) -> int:
        """How often the site was called in training."""
        return int(self.steps[0])

    @calls.setter
    def calls(self, value: int) -> None:
        self.steps[0].fill_(value)

    def rule(self, role: str, quantizer: str | None, step: int | Tensor) -> Rule | None:
        """The rule by which a tensor of this site is rounded in a role, at the step that `turn`
        gave.
        """
        if quantizer is None:
            return None
        if not is_stochastic(quantizer):
            return Rule(quantizer, site=self.name, role=role)
        return Rule(quantizer, self.seed, stream(role, self.index), step, site=self.name, role=role)

    def turn(self) -> int | Tensor:
        """Step of this call's random bits; a recomputation in a backward repeats the forward's."""
        if not self.stochastic:
            return 0
        clock = self.clock
        if torch.compiler.is_compiling():
            traced: Tensor = tick(self.steps[clock.mode()])
            return traced
        if clock.replayed is None and backward_id() != -1:
            clock.check_repeats(self)
            return self.repeatable
        counter = self.steps[clock.mode()]
        with outside_transforms():
            step = self._read(counter)
            counter.add_(1)
        if clock.has_gradient or torch.is_grad_enabled():
            self.repeatable = step
            self.times += 1
        return step

    def _read(self, counter: Tensor) -> int | Tensor:
        """The counter's value; a tensor where the host is not to read it."""
        if self.unread:
            return counter.clone()
        refuse_capture(
            f"stochastic rounding of {self.name!r}", "call the handle's count_on(device) before"
        )
        return int(counter)


class Clock(NotScriptable):
    """Hook around each forward of the whole model: tells its sites the mode, and notes where
    forwards begin, so that a recomputation knows what it repeats.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: weakref.ref[nn.Module] | None = weakref.ref(model)
        """Not in copies, which may be of a part of the model, until their first forward."""
        self.sites: list[Site] = []
        self.hooks: list[RemovableHandle] = []
        self.present: int | None = None
        """Mode of the present forward of the model: parts of it may run without gradient, under
        reentrant checkpointing or as frozen ones. None outside of it.
        """
        self.replayed: int | None = None
        """The mode of the forward that is recomputed, where its contexts say so."""
        self.task = -1
        self.forwards = 0
        """Forwards with gradient since the last backward that recomputed."""
        self.candidates = 0
        """Forwards that the present backward may be recomputing."""

    def register(self, model: nn.Module) -> None:
        """Run before and after all else in each forward of the model."""
        if not self.hooks:
            self.hooks = [
                model.register_forward_pre_hook(self, prepend=True),
                model.register_forward_hook(self.end, always_call=True),
            ]

    def remove(self) -> None:
        """Inverse of `register`."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []

    def mode(self) -> int:
        """What the model is doing, as an index of `MODES`. Whether it trains is said by the model
        as a whole, not by parts that are frozen in evaluation mode.
        """
        if self.replayed is not None:
            return self.replayed
        if self.present is not None:
            return self.present
        return _mode(None if self.model is None else self.model())

    @property
    def has_gradient(self) -> bool:
        """Whether the present forward of the model has one."""
        return self.present is not None and self.present < 2

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling():
            self.present = _mode(module)
            return
        if backward_id() != -1:
            return
        if self.model is None:
            self.model = weakref.ref(module)
        self.present = _mode(module)
        if self.has_gradient:
            self.forwards += 1
            for site in self.sites:
                site.times = 0

    def end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """The model's forward has ended, or was broken off."""
        self.present = None

    def note_backward(self) -> None:
        """At a recomputation: count the forwards made since the last backward, if this is another
        one.
        """
        task = backward_id()
        if task != self.task:
            self.task = task
            if self.forwards:
                self.candidates, self.forwards = self.forwards, 0

    def check_repeats(self, site: Site) -> None:
        """RuntimeError unless there is one call of the site that a recomputation can be
        repeating.
        """
        self.note_backward()
        if self.candidates > 1 or site.times != 1:
            calls = max(self.candidates, site.times)
            raise RuntimeError(
                f"activation checkpointing recomputes {site.name!r}, but which of {calls} calls is"
                " ambiguous, and so are its random bits; pass"
                " context_fn=handle.checkpoint_contexts to torch.utils.checkpoint.checkpoint (with"
                " use_reentrant=False), and run forwards that have no backward under"
                " torch.no_grad()"
            )

    def counters(self) -> tuple[int, list[Tensor]]:
        """The mode, and the counters' values in it."""
        mode = self.mode()
        return mode, [site.steps[mode].clone() for site in self.sites]

    def go_to(self, mode: int, steps: list[Tensor]) -> None:
        """Set the counters of a mode."""
        for site, step in zip(self.sites, steps, strict=True):
            site.steps[mode].copy_(step)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}


def _mode(model: nn.Module | None) -> int:
    """What a model is doing as an index of `MODES`; an unknown one trains."""
    return (model is not None and not model.training) + 2 * (not torch.is_grad_enabled())


class Beginning:
    """Context of a checkpointed forward: notes its mode, and how often each site was called
    before.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.mode, self.steps = 0, list[Tensor]()

    def __enter__(self) -> None:
        self.mode, self.steps = self.clock.counters()

    def __exit__(self, *exception: object) -> None:
        pass


class Replay:
    """Context of its recomputations: counts calls from there, and at the end from where it was."""

    def __init__(self, beginning: Beginning) -> None:
        self.beginning = beginning
        self.interrupted: list[tuple[int | None, list[Tensor]]] = []

    def __enter__(self) -> None:
        clock, mode = self.beginning.clock, self.beginning.mode
        clock.note_backward()
        replayed, clock.replayed = clock.replayed, mode
        self.interrupted.append((replayed, clock.counters()[1]))
        clock.go_to(mode, self.beginning.steps)

    def __exit__(self, *exception: object) -> None:
        clock = self.beginning.clock
        clock.replayed, steps = self.interrupted.pop()
        clock.go_to(self.beginning.mode, steps)


def clock_of(model: nn.Module) -> Clock:
    """The clock that a model's sites share, so that a recomputation repeats them all; a new one at
    first.
    """
    return next(
        (hook for hook in forward_pre_hooks(model).values() if isinstance(hook, Clock)), None
    ) or Clock(model)


def join(model: nn.Module, clock: Clock, sites: Sequence[Site]) -> None:
    """Add sites to a model's clock, which runs before all else once random bits depend on it."""
    clock.sites += sites
    if any(site.stochastic for site in sites):
        clock.register(model)


def leave(sites: Sequence[Site]) -> None:
    """Take the sites out of their clock, and the clock off the model with the last of those that
    need it.
    """
    for clock in {site.clock for site in sites}:
        clock.sites = [site for site in clock.sites if site not in sites]
        if not any(site.stochastic for site in clock.sites):
            clock.remove()


@constant
def stream(role: str, index: int) -> int:
    """`stream_id` of an activation."""
    return stream_id(role, index)
