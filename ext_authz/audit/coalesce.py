"""Denials of strangers while the trail is nearly full: one event for each source and second, with their number.

Law: a flood by callers without identity takes bounded space and memory, and every denial is still counted in an event.
What was counted and not yet recorded is lost with the process. Non-goal: when (appending.py says), writing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

MAX_SOURCES: Final = 1024
"""Sources told apart in one second; those beyond are one source together."""
OTHERS: Final = ""

_T = TypeVar("_T")


@dataclass(slots=True)
class _Counted(Generic[_T]):
    last: _T
    count: int = 1


class Coalescer(Generic[_T]):
    """Counts by source within the second of the last denial. Used under its caller's lock.

    `write(last, count)` records one event for `count` denials, of which `last` is the last; False where it could not.
    """

    def __init__(self, write: Callable[[_T, int], bool], max_sources: int = MAX_SOURCES) -> None:
        self._write = write
        self._max_sources = max_sources
        self._second = 0
        self._counted: dict[str, _Counted[_T]] = {}

    def add(self, source: str, denial: _T, now_ns: int) -> None:
        """Count a denial; what was counted in earlier seconds is recorded first."""
        self.flush(now_ns)
        known = self._counted.get(source)
        if known is None and len(self._counted) >= self._max_sources:
            source = OTHERS
            known = self._counted.get(source)
        if known is None:
            self._counted[source] = _Counted(denial)
        else:
            known.last, known.count = denial, known.count + 1

    def flush(self, now_ns: int) -> None:
        """Record what was counted before the second of `now_ns`; what cannot be recorded now is kept for later."""
        second = now_ns // 1_000_000_000
        if second == self._second or not self._counted:
            self._second = second
            return
        self._second = second
        for source, each in list(self._counted.items()):
            if not self._write(each.last, each.count):
                return
            del self._counted[source]

    @property
    def waiting(self) -> int:
        """How many denials are counted and not recorded yet."""
        return sum(each.count for each in self._counted.values())
