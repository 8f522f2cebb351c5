"""Which call of a module made a node of autograd's graph."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple

from .._compat import next_node_number, node_number
from .frames import Frame


class Place(NamedTuple):
    """A module, and whether the recipe rounds its products and elementwise operations."""

    name: str
    products: bool
    elementwise: bool


class Origins:
    """What was being called when nodes were made.

    Autograd numbers the nodes of a thread, and makes that of an operator before it dispatches the
    operator: nodes with numbers between those at two operators belong to the second. Nodes that a
    backward makes, with create_graph=True, are where the node is whose backward it is.
    """

    def __init__(self) -> None:
        self.numbers, self.places = [next_node_number()], list[Place | None]([None])

    def add(self, frame: Frame | None, node: Any) -> None:
        """Note that an operator was dispatched in that frame, or in the backward of that node."""
        number = next_node_number()
        if number <= self.numbers[-1]:
            return
        place = None
        if node is not None:
            place = self.find(node_number(node))
        elif frame is not None:
            place = Place(frame.name, frame.products is not None, frame.functions is not None)
        self.numbers.append(number)
        self.places.append(place)

    def find(self, number: int) -> Place | None:
        """Where the node of that number was made; None if it was not while this object watched."""
        index = bisect_right(self.numbers, number)
        return self.places[index] if index < len(self.places) else None

    def __len__(self) -> int:
        return sum(place is not None for place in self.places)
