"""Copies of what does not change in a device's memory: the tables of plans, and layouts."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from ctypes import Structure
from threading import RLock
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from weakref import WeakValueDictionary

LIMIT = 1 << 27
"""Bytes of the copies that a device keeps for later calls."""
MOST = 1 << 14
"""Keys for which it keeps some: other keys may need the same copies, and then no more bytes."""

S = TypeVar("S", bound=Structure)


class Memory(NamedTuple):
    """Of a copy."""

    size: int
    owner: Any


class Copy:
    """Bytes in a device's memory. copies : what they point to there."""

    def __init__(
        self, address: int, memory: Memory, copies: tuple[Copy, ...], given_back: list[Memory]
    ) -> None:
        self.address, self.copies, self.size = address, copies, memory.size
        self._memory, self._given_back = memory, given_back

    def __del__(self) -> None:
        self._given_back.append(self._memory)


class Placed(NamedTuple, Generic[S]):
    """A structure, and the copies that it points to."""

    structure: S
    copies: tuple[Copy, ...]


class Place(Protocol):
    """Of a device, what copies need."""

    def place(self, data: bytes) -> tuple[int, Any]:
        """(address of a copy that every stream may read, its owner)."""

    def refuse_capture(self) -> None:
        """RuntimeError while this thread captures a CUDA graph: nothing is placed or awaited."""

    def captured_elsewhere(self) -> bool:
        """Whether other threads may be capturing on the device, whose graph a wait would spoil."""

    def wait(self) -> None:
        """Until all that was launched on the device is done."""


class Copies:
    """The copies on a device.

    A copy lives as long as something points to it: what is kept for later calls, of which the least
    recently used goes where all need more than `limit` bytes or `most` keys; a call, until its
    kernels are launched; a graph that was captured, for ever. Nothing else may keep one for later
    calls. A kernel that was launched may read it still, on any stream: its memory is given back
    after the device has done everything. While another thread may be capturing, up to `limit` bytes
    wait for that.
    """

    def __init__(self, device: Place, limit: int = LIMIT, most: int = MOST) -> None:
        self.limit, self.most = limit, most
        self._device = device
        self._found: WeakValueDictionary[bytes, Copy] = WeakValueDictionary()
        self._recent: OrderedDict[Hashable, Copy | Placed[Any]] = OrderedDict()
        self._holders: Counter[Copy] = Counter()
        """How many of `_recent` hold a copy."""
        self._size = 0
        """Bytes of those."""
        self._given_back: list[Memory] = []
        self._of_graphs: dict[int, Any] = {}
        self._lock = RLock()

    def copy(self, data: bytes, copies: tuple[Copy, ...] = ()) -> Copy:
        """A copy of bytes that point to others; the same ones are one. To be called by what
        `recent` calls.
        """
        found = self._found.get(data)
        if found is None:
            self._device.refuse_capture()
            self._give_back()
            address, owner = self._device.place(data)
            found = Copy(address, Memory(len(data), owner), copies, self._given_back)
            self._found[data] = found
        return found

    def recent(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made for a key, or is made now: a `Copy`, or what is `Placed`."""
        with self._lock:
            found = self._recent.get(key)
            if found is not None:
                self._recent.move_to_end(key)
                return found
            found = make()
            self._recent[key] = found
            for copy in _held(found):
                self._size += 0 if self._holders[copy] else copy.size
                self._holders[copy] += 1
            while self._too_much() and len(self._recent) > 1:
                self._forget(self._recent.popitem(last=False)[1])
            return found

    def _too_much(self) -> bool:
        return self._size > self.limit or len(self._recent) > self.most

    def keep_for_graph(self, *used: Any) -> None:
        """What replays of a graph read or write, whose end nobody is told of."""
        self._of_graphs.update((id(each), each) for each in used)

    def _forget(self, oldest: Copy | Placed[Any]) -> None:
        for copy in _held(oldest):
            self._holders[copy] -= 1
            if not self._holders[copy]:
                del self._holders[copy]
                self._size -= copy.size

    def _give_back(self) -> None:
        count = len(self._given_back)  # from now on others may be added
        size = sum(size for size, _ in self._given_back[:count])
        bound = self.limit if self._device.captured_elsewhere() else self.limit // 8
        if size > bound:
            self._device.wait()
            del self._given_back[:count]


def _held(found: Copy | Placed[Any]) -> set[Copy]:
    """Copies that live as long, itself included."""
    copies = {copy for each in found.copies for copy in _held(each)}
    return copies | {found} if isinstance(found, Copy) else copies
