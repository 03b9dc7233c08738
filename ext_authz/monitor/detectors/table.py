"""A bounded table from keys that strangers choose to what is known of them.

Law: never more than `capacity` keys, and a flood of keys seen but once cannot
push out one that has earned its place. Source: segmented LRU (Karedla, Love,
Wherry, 1994), promotion by the caller. Non-goal: telling apart a flood that earns its places.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from ext_authz.monitor.detectors.finding import SnapshotError

V = TypeVar("V")


class Table(Generic[V]):
    """Keys on probation (a quarter of the room, oldest out first) and keys that stay (least lately used out first)."""

    __slots__ = ("_probation", "_room", "_settled", "capacity", "evicted")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.evicted = 0
        self._room = max(capacity // 4, 1)
        self._probation: OrderedDict[str, V] = OrderedDict()
        self._settled: OrderedDict[str, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._probation) + len(self._settled)

    def __contains__(self, key: str) -> bool:
        return key in self._settled or key in self._probation

    def get(self, key: str) -> V | None:
        """Return what is known of `key`, and take that for a use of it."""
        value = self._settled.get(key)
        if value is not None:
            self._settled.move_to_end(key)
            return value
        value = self._probation.get(key)
        if value is not None:
            self._probation.move_to_end(key)
        return value

    def put(self, key: str, value: V) -> None:
        """Take a new key on probation."""
        self._probation[key] = value
        if len(self._probation) > self._room:
            self._probation.popitem(last=False)
            self.evicted += 1

    def settle(self, key: str) -> None:
        """Let a key stay; the least lately used of those that stay goes back on probation where there are too many."""
        value = self._probation.pop(key, None)
        if value is None:
            return
        self._settled[key] = value
        if len(self._settled) > self.capacity - self._room:
            self.put(*self._settled.popitem(last=False))

    def pop(self, key: str) -> None:
        """Forget a key."""
        self._probation.pop(key, None)
        self._settled.pop(key, None)

    def items(self) -> Iterator[tuple[str, V]]:
        """Return all, those that stay first."""
        yield from self._settled.items()
        yield from self._probation.items()

    def pack(self, row: Callable[[V], Any]) -> dict[str, Any]:
        """Return it as plain data, each value by `row`."""
        return {
            "settled": [[key, row(value)] for key, value in self._settled.items()],
            "probation": [[key, row(value)] for key, value in self._probation.items()],
        }

    def unpack(self, packed: Any, row: Callable[[Any], V]) -> None:  # noqa: ANN401  plain data from outside
        """Become what `pack` wrote, the newest keys where that were more than fit; raises SnapshotError."""
        try:
            settled = {str(key): row(value) for key, value in packed["settled"][-(self.capacity - self._room) :]}
            probation = {str(key): row(value) for key, value in packed["probation"][-self._room :]}
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise SnapshotError("not the state of a table") from error
        self._settled = OrderedDict(settled)
        self._probation = OrderedDict((key, value) for key, value in probation.items() if key not in settled)


class Quota:
    """How many keys of a table each owner may begin in a day, so that one who makes up names fills nobody's room."""

    __slots__ = ("_begun", "_most")

    def __init__(self, most: int, capacity: int) -> None:
        self._most = most
        self._begun: Table[list[int]] = Table(capacity)
        """By owner the day, and how many it began."""

    def may(self, owner: str, day: int) -> bool:
        """Whether the owner may begin another key on that day; takes it for begun."""
        known = self._begun.get(owner)
        if known is None:
            known = [day, 0]
            self._begun.put(owner, known)
        if day > known[0]:
            known[:] = [day, 0]
        if known[1] >= self._most:
            return False
        known[1] += 1
        if known[1] == self._most:
            self._begun.settle(owner)
        return True

    def pack(self) -> dict[str, Any]:
        """Return it as plain data."""
        return self._begun.pack(list)

    def unpack(self, packed: Any) -> None:  # noqa: ANN401  plain data from outside
        """Become what `pack` wrote; raises SnapshotError."""
        self._begun.unpack(packed, _day_and_number)


def _day_and_number(packed: Any) -> list[int]:  # noqa: ANN401
    day, number = map(int, packed)
    return [day, number]
