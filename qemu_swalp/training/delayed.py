"""Delayed scaling: the scale of an operand from the greatest magnitudes of steps before."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .._util.checks import check_choice, check_int

AMAX = ("max", "most_recent")
FLOAT32_MAX = (2.0 - 2.0**-23) * 2.0**127
"""What (max/amax)/2^margin is at most."""


@dataclass(frozen=True)
class Delayed:
    """How a scale follows the history of an operand, written `delayed<HISTORY>` and what differs
    from the defaults, as in "delayed<16,amax=most_recent>".

    The scale of a step is 1/((max/amax)/2^margin) in float32, max the greatest value of the format
    and amax that of the history before the step; 1 as long as that is 0 or not finite, or what it
    was. What overflows within is the greatest number of float32, in Keras 2^126. After that the
    step's own amax enters the history (TransformerEngine's `DelayedScaling`).

    Parameters
    ----------
    history : how many steps are remembered.
    margin : binades that are left free above the greatest magnitude.
    amax : "max", the greatest of the history, or "most_recent".
    lag : 1 for scales that are computed before the step's amax enters the history, as in Keras,
        and so are a step older.

    Raises
    ------
    TypeError, ValueError: if an argument is none of these.

    >>> Delayed.parse("delayed<16,margin=1>")
    Delayed(history=16, margin=1, amax='max', lag=0)
    """

    history: int = 1024
    margin: int = 0
    amax: str = "max"
    lag: int = 0

    def __post_init__(self) -> None:
        check_int("history", self.history, 1, 1 << 20)
        check_int("margin", self.margin, -64, 64)
        check_choice("amax", self.amax, AMAX)
        check_int("lag", self.lag, 0, 1)

    @staticmethod
    def parse(text: Delayed | str) -> Delayed:
        """From itself or its string. TypeError or ValueError for what is neither."""
        if isinstance(text, Delayed):
            return text
        if not isinstance(text, str):
            raise TypeError(
                f"delayed scaling must be a Delayed or a string such as 'delayed<1024>', got"
                f" {text!r}"
            )
        option = r"(?:,margin=(-?\d+))?(?:,amax=(\w+))?(?:,lag=(\d+))?"
        found = re.fullmatch(rf"delayed<(\d+){option}>", text.replace(" ", ""))
        if found is None:
            raise ValueError(
                f"cannot read {text!r}; delayed scaling looks like 'delayed<1024>' or"
                " 'delayed<16,margin=1,amax=most_recent,lag=1>'"
            )
        history, margin, amax, lag = found.groups()
        return Delayed(int(history), int(margin or 0), amax or "max", int(lag or 0))

    def __str__(self) -> str:
        margin = f",margin={self.margin}" if self.margin else ""
        amax = f",amax={self.amax}" if self.amax != "max" else ""
        lag = f",lag={self.lag}" if self.lag else ""
        return f"delayed<{self.history}{margin}{amax}{lag}>"
