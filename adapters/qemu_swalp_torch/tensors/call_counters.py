"""Steps of the random bits where a model rounds, and how a recomputation finds those of the calls
that it repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qemu_swalp import stream_id

from .._compat import backward_id, constant, forward_pre_hooks
from .custom_ops import Rule, refuse_capture, tick


class Position(NamedTuple):
    """Where a site stands in a model, and with it which random bits it draws."""

    clock: Clock
    name: str
    """Of the module, for errors and monitors."""
    module_index: int
    """Among all modules of the model."""
    seed: int


class Site:
    """Where a model rounds tensors. The number of the call is the step of its random bits."""

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
        ):  # a tensor, since compiled graphs take an int for a constant
            self.count = torch.zeros((), dtype=torch.int64, device="cpu")

    @property
    def calls(self) -> int:
        """How often the site was called."""
        return int(self.count)

    @calls.setter
    def calls(self, value: int) -> None:
        self.count.fill_(value)

    def rule(self, role: str, quantizer: str | None, step: int | Tensor) -> Rule | None:
        """The rule by which a tensor of this site is rounded in a role, at the step that `turn`
        gave.
        """
        if quantizer is None:
            return None
        return Rule(quantizer, self.seed, stream(role, self.index), step, site=self.name, role=role)

    def turn(self) -> int | Tensor:
        """Step of this call's random bits; a recomputation in a backward repeats the forward's."""
        if not self.stochastic:
            return 0
        if torch.compiler.is_compiling():
            traced: Tensor = tick(self.count)
            return traced
        if not self.clock.replaying and backward_id() != -1:
            self.clock.check_repeats(self)
            return self.repeatable
        step = self._step()
        self.count.add_(1)
        if self.clock.with_gradient or torch.is_grad_enabled():
            self.repeatable = step
            self.times += 1
        return step

    def _step(self) -> int | Tensor:
        """The present count; a tensor where the host is not to read it."""
        if self.unread:
            return self.count.clone()
        refuse_capture(
            f"stochastic rounding of {self.name!r}", "call the handle's count_on(device) before"
        )
        return self.calls


class Clock:
    """Pre-hook of the whole model: notes where each forward begins, so that a recomputation knows
    what it repeats.
    """

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.replaying = False
        self.task = -1
        self.with_gradient = True
        """Whether the present forward has one: parts of it may run without, under reentrant
        checkpointing.
        """
        self.forwards = 0
        """Forwards with gradient since the last backward that recomputed."""
        self.candidates = 0
        """Forwards that the present backward may be recomputing."""

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling() or backward_id() != -1:
            return
        self.with_gradient = torch.is_grad_enabled()
        if self.with_gradient:
            self.forwards += 1
            for site in self.sites:
                site.times = 0

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


class Beginning:
    """Context of a checkpointed forward: notes how often each site was called before."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.counts: list[Tensor] = []

    def __enter__(self) -> None:
        self.counts = [site.count.clone() for site in self.clock.sites]

    def __exit__(self, *exception: object) -> None:
        pass


class Replay:
    """Context of its recomputations: counts calls from there, and at the end from where it was."""

    def __init__(self, beginning: Beginning) -> None:
        self.beginning = beginning
        self.interrupted: list[tuple[list[Tensor], bool]] = []

    def __enter__(self) -> None:
        clock = self.beginning.clock
        clock.note_backward()
        self.interrupted.append(([site.count.clone() for site in clock.sites], clock.replaying))
        self._go_to(self.beginning.counts, True)

    def __exit__(self, *exception: object) -> None:
        self._go_to(*self.interrupted.pop())

    def _go_to(self, counts: list[Tensor], replaying: bool) -> None:
        clock = self.beginning.clock
        clock.replaying = replaying
        for site, count in zip(clock.sites, counts, strict=True):
            site.count.copy_(count)


def clock_of(model: nn.Module) -> Clock:
    """The clock that a model's sites share, so that a recomputation repeats them all; a new one at
    first.
    """
    return (
        next((hook for hook in forward_pre_hooks(model).values() if isinstance(hook, Clock)), None)
        or Clock()
    )


def join(model: nn.Module, clock: Clock, sites: Sequence[Site]) -> None:
    """Add sites to a model's clock, which runs before all else once random bits depend on it."""
    clock.sites += sites
    if clock not in forward_pre_hooks(model).values() and any(site.stochastic for site in sites):
        model.register_forward_pre_hook(clock, prepend=True)


def leave(model: nn.Module, sites: Sequence[Site]) -> None:
    """Take the sites out of their clock, and the clock off the model with the last of those that
    need it.
    """
    for clock in {site.clock for site in sites}:
        clock.sites = [site for site in clock.sites if site not in sites]
        if not any(site.stochastic for site in clock.sites):
            hooks = forward_pre_hooks(model)
            for key in [key for key, hook in hooks.items() if hook is clock]:
                del hooks[key]


@constant
def stream(role: str, index: int) -> int:
    """`stream_id` of an activation."""
    return stream_id(role, index)
