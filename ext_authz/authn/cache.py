"""A bounded memory of verdicts that are expensive to reach and never change.

Law: what is remembered covers signature and parsing only; whatever depends on
the clock or on state is looked at again by the caller on each check.
Non-goal: expiry; an entry leaves when newer ones need its place.
"""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Verdicts(Generic[K, V]):
    """Least-recently-used within a factor of two: two generations of at most `entries` entries and `weight` units.

    A hit in the older generation moves to the younger one; when the younger is
    full it becomes the older. Every step is one dict operation, so threads
    under the GIL may share it: a race loses at most a remembered verdict.
    """

    __slots__ = ("_entries", "_old", "_room", "_weight", "_young")

    def __init__(self, entries: int, weight: int) -> None:
        self._entries = entries
        self._weight = weight
        self._room = weight
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """Return what is remembered of `key`, or None."""
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None and len(self._young) < self._entries:
                self._young[key] = found
        return found

    def put(self, key: K, value: V, weight: int = 1) -> None:
        """Remember `value`; one that weighs more than a whole generation is not remembered."""
        if weight > self._weight:
            return
        if len(self._young) >= self._entries or weight > self._room:
            self._old = self._young
            self._young = {}
            self._room = self._weight
        self._room -= weight
        self._young[key] = value

    def drop(self, key: K) -> None:
        """Forget `key`."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
