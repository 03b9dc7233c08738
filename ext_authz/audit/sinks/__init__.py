"""What a destination of events promises; one file per kind beside this one.

Law: `deliver` returns when the sink HAS all but what it refuses for good; everything else is an exception, and the
exporter keeps the events. Delivering again what a sink already has is allowed and happens.
Non-goal: retrying (delivery.py does, without end).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson


class Item:
    """One event on its way: `line` is its native canonical JSON without newline."""

    __slots__ = ("_event", "line")

    def __init__(self, line: bytes) -> None:
        self.line = line
        self._event: Mapping[str, Any] | None = None

    @property
    def event(self) -> Mapping[str, Any]:
        """What the line says, read once. A line that is no JSON object is told of as `schema: unreadable`."""
        if self._event is None:
            try:
                event = orjson.loads(self.line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                event = {"schema": "unreadable", "text": self.line.decode("utf-8", "replace")}
            if not isinstance(event.get("event_id"), str) or not event["event_id"]:
                event["event_id"] = f"sha256:{hashlib.sha256(self.line).hexdigest()}"
            self._event = event
        return self._event

    @property
    def event_id(self) -> str:
        """The name by which a receiver may drop duplicates; the line's hash where it has none."""
        return str(self.event["event_id"])

    @property
    def log_id(self) -> str:
        """The log that the event is of."""
        return self.event_id.rpartition(":")[0]

    @property
    def seq(self) -> int:
        """The event's number in its log; -1 where it has none."""
        seq = self.event.get("seq")
        return seq if type(seq) is int else -1


Encode = Callable[[Item], bytes]
"""One of `formats`: an item as the sink wants it, without newline in it or after it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A final no to one item. `reason` is ours, in a few words: it must not repeat what the event says.

    Where the receiver does not say which it refused, `index` is the first of the `among` items that it is one of.
    """

    index: int
    reason: str
    among: int = 1


class Retry(Exception):  # noqa: N818  an outcome
    """It may work later: the same items come again, not before `after_seconds` where the receiver asked for that."""

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class Split(Exception):  # noqa: N818  an outcome
    """The batch as a whole was refused: too large, or something in it is wrong. Halves come next."""


class Hold(Exception):  # noqa: N818  an outcome
    """The configuration is wrong, here or there: nothing is dropped, and somebody must look."""


class Sink(Protocol):
    """One destination, used by one thread; blocking is fine."""

    name: str
    """Stable over restarts, without secrets: the cursor goes by it, metrics show it."""
    best_effort: bool
    """Whether there is no acknowledgement: events may be lost between us and what is written there."""

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Deliver items of one log, in order. Raises Retry, Split, Hold; any other exception counts as Retry."""
        ...

    def close(self) -> None:
        """Let go of the destination."""
        ...
