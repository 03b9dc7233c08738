"""Checks that wait for something from elsewhere, each for a short time, and are then run again.

Law: every parked check is run again exactly once: when what it waits for has come, or by its deadline. Non-goal:
what is waited for (key_waits.py, token_waits.py), and asking for it.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SECONDS: Final = 0.2
"""Less than the 250 ms after which the generated Envoy configurations give up."""
MAX_PARKED: Final = 64

Again = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Parked:
    """A check that waits for `name` of `issuer` until `due` (monotonic seconds)."""

    issuer: str
    name: str
    due: float
    again: Again


class Parking:
    """One thread watches the deadlines. Whoever holds `condition` may look at what is awaited."""

    def __init__(self, name: str, seconds: float, limit: int) -> None:
        self.seconds, self._limit = seconds, limit
        self.condition = threading.Condition()
        self.stopping = False
        self._parked: list[Parked] = []
        self._thread = threading.Thread(target=self._expire, name=name, daemon=True)

    @property
    def waiting(self) -> int:
        """How many checks are parked."""
        return len(self._parked)

    @property
    def full(self) -> bool:
        """Whether no further check may be parked."""
        return self.stopping or len(self._parked) >= self._limit

    def start(self) -> None:
        """Begin to watch deadlines."""
        self._thread.start()

    def stop(self) -> None:
        """Run everything parked again, now."""
        with self.condition:
            self.stopping = True
            self.condition.notify()
        self.run(lambda _: True)

    def park(self, issuer: str, name: str, again: Again, *, awaited: Callable[[], bool] = lambda: True) -> None:
        """Call `again` once its time has come, on another thread; at once where it is not `awaited` any more."""
        with self.condition:
            waits = awaited() and not self.stopping
            if waits:
                self._parked.append(Parked(issuer, name, time.monotonic() + self.seconds, again))
                self.condition.notify()
        if not waits:
            again()

    def run(self, ready: Callable[[Parked], bool]) -> None:
        """Run again what is ready."""
        with self.condition:
            due = [each for each in self._parked if ready(each)]
            self._parked = [each for each in self._parked if each not in due]
        for each in due:
            with contextlib.suppress(Exception):  # one caller's broken connection is not the others' affair
                each.again()

    def _expire(self) -> None:
        while True:
            with self.condition:
                if self.stopping:
                    return
                first = min((each.due for each in self._parked), default=None)
                if first is None or first > time.monotonic():
                    self.condition.wait(None if first is None else max(0.001, first - time.monotonic()))
            self.run(lambda each: each.due <= time.monotonic())
