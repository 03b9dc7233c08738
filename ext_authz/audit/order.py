"""Sources that are in order each, put into one order, and which numbers of a log came so far.

Law: what was passed over stays wanted, so that an event that only a later segment still has is not taken for seen.
Pure. Non-goal: what a source is.
"""

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self, TypeVar


class _Ordered(Protocol):
    def __lt__(self, other: Self, /) -> bool: ...

    def __le__(self, other: Self, /) -> bool: ...


_Place = TypeVar("_Place", bound=_Ordered)
_Item = TypeVar("_Item")


def merged(sources: Sequence[tuple[_Place, Iterator[_Item]]], place: Callable[[_Item], _Place]) -> Iterator[_Item]:
    """Yield what all sources yield in order of `place`; of two in the same place the earlier source's comes first.

    Each source comes with a place that none of its items is before, and the sources are in order of those. One is
    begun when all that is before it was taken, so that few are open at a time. Raises what they raise.
    """
    heap: list[tuple[_Place, int, _Item, Iterator[_Item]]] = []
    begun = 0
    while heap or begun < len(sources):
        while begun < len(sources) and (not heap or sources[begun][0] <= heap[0][0]):
            source = sources[begun][1]
            for item in source:
                heapq.heappush(heap, (place(item), begun, item, source))
                break
            begun += 1
        if not heap:
            return
        _, number, item, source = heap[0]
        yield item
        for item in source:
            heapq.heapreplace(heap, (place(item), number, item, source))
            break
        else:
            heapq.heappop(heap)


class Numbers:
    """The numbers of one log, met once each. `next` is the one behind the highest that was met or passed over."""

    __slots__ = ("_skipped", "next")

    def __init__(self) -> None:
        self.next = 0
        # What was passed over: first and last number of each range, ascending, and whether that needs no mention.
        self._skipped: list[tuple[int, int, bool]] = []

    def meet(self, number: int) -> bool:
        """Whether the number is met for the first time."""
        if number < self.next:
            return bool(self._skipped) and self._found(number)
        if number > self.next:
            self.skip_to(number)
        self.next = number + 1
        return True

    def skip_to(self, number: int, *, known: bool = False) -> None:
        """Go on with `number`, if that is ahead; `known`: why there is nothing before it is clear."""
        if number > self.next:
            self._skipped.append((self.next, number - 1, known))
            self.next = number

    def gaps(self) -> list[tuple[int, int]]:
        """Return the first and last of each range that was passed over, did not come later, and has no known cause."""
        return [(first, last) for first, last, known in self._skipped if not known]

    def _found(self, number: int) -> bool:
        at = bisect_right(self._skipped, number, key=_first) - 1
        if at < 0 or number > self._skipped[at][1]:
            return False
        first, last, known = self._skipped[at]
        left = [(a, b, known) for a, b in ((first, number - 1), (number + 1, last)) if a <= b]
        self._skipped[at : at + 1] = left
        return True


def _first(skipped: tuple[int, int, bool]) -> int:
    return skipped[0]
