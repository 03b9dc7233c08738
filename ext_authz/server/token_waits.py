"""Checks of tokens that only their issuer can judge, parked for as long as its answer may take.

Law: one question a token at a time, a bounded number parked; a check that finds no place is refused at once, so a
slow issuer holds up its own callers only, and few of them. Half of the places are for tokens that were active before,
which no flood of made-up ones can fill. Non-goal: asking (asking_issuers.py, control process).
"""

import time
from collections.abc import Callable

from ext_authz.model import Question
from ext_authz.server.parking import MAX_PARKED, SECONDS, Again, Parking


class TokenWaits:
    """`ask` passes a question to the control process and must not wait."""

    def __init__(self, ask: Callable[[Question], None], *, seconds: float = SECONDS, limit: int = MAX_PARKED) -> None:
        self._ask, self._limit = ask, limit
        self._parking = Parking("token-waits", seconds, limit)
        self._asked: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many checks are parked."""
        return self._parking.waiting

    def start(self) -> None:
        """Begin to watch deadlines."""
        self._parking.start()

    def stop(self) -> None:
        """Run everything parked again, now."""
        self._parking.stop()

    def worth(self, question: Question) -> bool:
        """Whether to park a check for the answer; asks where nobody did of late."""
        now = time.monotonic()
        room = self._limit if question.known else (self._limit + 1) // 2
        with self._parking.condition:
            if self._parking.full or self._parking.waiting >= room:
                return False
            asked = self._asked.get(question.key)
            if asked is not None and now - asked < self._parking.seconds:
                return True
            if len(self._asked) >= room:
                self._asked = {key: at for key, at in self._asked.items() if now - at < self._parking.seconds}
            if len(self._asked) >= room:
                return False
            self._asked[question.key] = now
        self._ask(question)
        return True

    def park(self, question: Question, again: Again) -> None:
        """Call `again` once the answer has come (at once where it has), or at the deadline."""
        self._parking.park(question.issuer, question.key, again, awaited=lambda: question.key in self._asked)

    def arrived(self, key: str) -> None:
        """Run again what waits for the answer to this question."""
        with self._parking.condition:
            self._asked.pop(key, None)
        self._parking.run(lambda each: each.name == key)
