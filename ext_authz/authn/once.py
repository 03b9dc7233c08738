"""Values that count once: what remembers them until they would be refused anyway.

Law: one look remembers and answers; where nothing more can be remembered the value is refused. The table that all
workers of a sidecar share is server/once_table.py. Non-goal: what the values are (dpop.py).
"""

import threading
from enum import Enum
from typing import Final, Protocol

MAX_REMEMBERED: Final = 65536


class Spent(Enum):
    """What became of a value."""

    NOW = "now"  # it was new, and is remembered
    BEFORE = "before"
    UNKNOWN = "unknown"  # no room or no access: nobody can say


class Once(Protocol):
    """`spend` never waits long and never raises; `value` is any bytes, times are Unix seconds."""

    def spend(self, value: bytes, until: int, now: int) -> Spent:
        """Remember `value` until `until`, and say whether it was there already."""


class MemoryOnce:
    """The memory of one process: for tests, and for commands that look at one request."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._until: dict[bytes, int] = {}

    def spend(self, value: bytes, until: int, now: int) -> Spent:
        """As Once has it."""
        with self._lock:
            if self._until.get(value, now) > now:
                return Spent.BEFORE
            if len(self._until) >= self._limit:
                self._until = {each: end for each, end in self._until.items() if end > now}
            if len(self._until) >= self._limit:
                return Spent.UNKNOWN
            self._until[value] = until
            return Spent.NOW
