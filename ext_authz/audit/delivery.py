"""One sink's way through the trail, with a durable cursor.

Law: at least once, in order per log; a sink that fails is tried again without end. An event is given up only where the
sink has refused it while accepting others: then it stands in the dead letters, and in the trail as before.
Non-goal: other sinks, and what a sink is.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from ext_authz.audit.cursor import Cursor, Position
from ext_authz.audit.dead_letters import DeadLetters, Letter
from ext_authz.audit.sinks import Hold, Item, Refused, Retry, Sink, Split
from ext_authz.audit.source import Chunk, Source, Tally
from ext_authz.audit.trail import Segment
from ext_authz.envelope.errors import UnsupportedError

IDLE_SECONDS: Final = 0.1
FIRST_BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 60.0
MAX_RETRY_AFTER_SECONDS: Final = 300.0
SAVE_SECONDS: Final = 0.25
"""How often the cursor is saved while there is more to deliver."""
REPORTED_FAILURES: Final = 5
"""Failures in a row after which a sink is said to be down."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is given to a sink at once: at most `events` of about `bytes`, once full or `linger` seconds old."""

    events: int = 1000
    bytes: int = 256 * 1024
    linger: float = 0.0


@dataclass(frozen=True, slots=True)
class Outlet:
    """A sink, and how it likes its events."""

    sink: Sink
    batch: Batch = Batch()


@dataclass(frozen=True, slots=True)
class Condition:
    """How a sink is doing: `state` is `up`, `down` (it will be tried again) or `held` (somebody must look)."""

    state: str = "up"
    retries: int = 0
    failures_in_a_row: int = 0
    last_error: str = ""
    refused: int = 0
    waiting_since: float | None = None
    """Unix time of the oldest event that was still to be delivered at the last look, None where there was none."""


@dataclass(slots=True)
class _Sent:
    """Of a batch: the items judged so far from its beginning, and what stopped it there."""

    done: int = 0
    refused: list[Refused] = field(default_factory=list)
    error: Exception | None = None

    @property
    def accepted(self) -> int:
        return self.done - len(self.refused)


class Delivery:
    """`step` is one pass; the thread that `run`s only waits between passes."""

    def __init__(
        self,
        directory: Path,
        source: Source,
        outlet: Outlet,
        *,
        report: Callable[[str, str, str], None] = lambda _sink, _state, _reason: None,
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`report(sink, state, reason)` is called on the delivering thread when the state changes (see Condition)."""
        self.sink = outlet.sink
        self.condition = Condition()
        self._batch = outlet.batch
        self._source = source
        self._cursor = Cursor(directory, self.sink.name)
        self._letters = DeadLetters(directory, self.sink.name)
        self._report = report
        self._reported = "up"
        self._jitter = jitter
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._gone = Position()
        self._unsaved = False
        self._saved = 0.0
        self._accepted = self._accepted_before = 0
        self._doubted: dict[str, int] = {}
        self._noticed: dict[str, float] = {}

    def step(self, *, final: bool = False) -> bool:
        """Deliver up to one chunk of each log; return whether a log had more than that to give.

        `final` waits for no batch to fill. Raises what kept something from being delivered.
        """
        found = self._source.segments()
        self._forget({each.name for each in found})
        last = {each.log_id: each.name for each in found}
        more: set[str] = set()
        waiting: set[str] = set()
        kept: Hold | None = None
        moved = finished = False
        try:
            for segment in found:
                if segment.log_id in more or segment.log_id in waiting:
                    continue
                hurry = final or last[segment.log_id] != segment.name
                try:
                    progress, rest = self._deliver(segment, hurry=hurry)
                except _OneLogError as error:
                    kept, progress, rest = Hold(str(error)), False, "waits"
                moved = moved or progress
                if rest:
                    (more if rest == "more" else waiting).add(segment.log_id)
            finished = True
        finally:
            self._unsaved = self._unsaved or moved
            # With more to come at once the cursor may lag a moment: a crash then repeats what it lags by.
            late = self._monotonic() - self._saved >= SAVE_SECONDS
            if self._unsaved and (late or not more or not finished):
                self._cursor.save()
                self._unsaved = False
                self._saved = self._monotonic()
        if kept is not None:
            raise kept
        if not more and not waiting:
            self.condition = replace(self.condition, waiting_since=None)
        return bool(more)

    def failed(self, error: Exception) -> float:
        """Take note of what `step` raised; return the seconds to wait."""
        was = self.condition
        held = isinstance(error, Hold)
        state = "held" if held else "down"
        reason = _reason(error)
        # A sink that takes some of what it is given between its failures is not to wait ever longer for the rest.
        row = was.failures_in_a_row + 1 if self._accepted == self._accepted_before else 1
        self._accepted_before = self._accepted
        self.condition = replace(was, state=state, retries=was.retries + 1, failures_in_a_row=row, last_error=reason)
        if state != self._reported and (held or self.condition.failures_in_a_row >= REPORTED_FAILURES):
            self._reported = state
            self._report(self.sink.name, state, reason)
        wait = self.backoff()
        if isinstance(error, Retry) and error.after_seconds is not None:
            wait = max(wait, min(error.after_seconds, MAX_RETRY_AFTER_SECONDS))
        return wait

    def well(self) -> None:
        """Take note of a pass without failure."""
        self.condition = replace(self.condition, state="up", failures_in_a_row=0, last_error="")
        if self._reported != "up":
            self._reported = "up"
            self._report(self.sink.name, "up", "")

    def backoff(self) -> float:
        """Return the seconds to wait after this many failures in a row (full jitter)."""
        most = FIRST_BACKOFF_SECONDS * 2.0 ** min(self.condition.failures_in_a_row - 1, 16)
        return self._jitter() * min(most, MAX_BACKOFF_SECONDS)

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set, then what is there by then; a sink that fails then is left alone."""
        try:
            while True:
                stopping = stop.is_set()
                try:
                    again = self.step(final=stopping)
                except Exception as error:  # noqa: BLE001  a sink may fail in any way; the trail waits for it
                    pause, again = self.failed(error), False
                else:
                    self.well()
                    pause = 0.0 if again else IDLE_SECONDS
                if stopping and not again:
                    return
                if pause:
                    stop.wait(pause)
        finally:
            with contextlib.suppress(Exception):
                self.sink.close()

    def has(self, segment: Segment) -> bool:
        """Whether the durable cursor stands behind all that is in the segment."""
        with self._lock:
            at = self._cursor.positions.get(segment.name)
            if at is None or self._unsaved:
                return False
            offset = at.offset
        return self._source.tally(segment, Tally(offset)).lines == 0

    def counts(self) -> tuple[dict[str, tuple[int, int]], Position]:
        """Return (delivered, dropped) by segment, and the sums of segments that were removed."""
        with self._lock:
            by_segment = {name: (at.delivered, at.dropped) for name, at in self._cursor.positions.items()}
            return by_segment, Position(0, self._gone.delivered, self._gone.dropped)

    def _deliver(self, segment: Segment, *, hurry: bool) -> tuple[bool, str]:
        """Return whether anything was done, and what is left of the segment: "", "more", or a rest that "waits"."""
        with self._lock:
            at = self._cursor.at(segment.name)
        there = self._source.size(segment)
        if there <= at.offset or (not hurry and self._lingers(segment.log_id, there - at.offset)):
            return False, "" if there <= at.offset else "waits"
        try:
            chunk = self._source.read(segment, at.offset, self._batch.bytes)
        except (OSError, UnsupportedError) as error:
            why = (error.strerror or "failed").lower() if isinstance(error, OSError) else str(error)
            raise _OneLogError(f"`{segment.name}` cannot be read: {why}") from None
        start = 0
        while start < len(chunk.lines):
            stop = min(start + self._batch.events, len(chunk.lines))
            self._deliver_lines(segment, at, chunk, start, stop)
            start = stop
        moved = chunk.end > at.offset or bool(chunk.lines)
        with self._lock:
            self._unsaved = self._unsaved or moved
            at.dropped += chunk.damaged[-1]
            at.offset = chunk.end
        self._noticed.pop(segment.log_id, None)
        # Nothing read and yet something there: an event's end is still to be written.
        return moved, "more" if moved and there > chunk.end else ""

    def _deliver_lines(self, segment: Segment, at: Position, chunk: Chunk, start: int, stop: int) -> None:
        items = [Item(line) for line in chunk.lines[start:stop]]
        self.condition = replace(self.condition, waiting_since=_time(items[0]))
        sent = self._send(items)
        if sent.refused and not sent.accepted and self._doubts(segment.log_id):
            raise sent.error or _OneLogError(f"every event is refused: {sent.refused[0].reason}")
        if sent.accepted:
            self._accepted += sent.accepted
            self._doubted.pop(segment.log_id, None)
        if sent.refused:
            offsets = (at.offset, *chunk.ends) if start == 0 else chunk.ends[start - 1 :]
            self._letters.write(
                [
                    Letter(items[no.index].event_id, no.reason, no.among, segment.name, offsets[no.index])
                    for no in sent.refused
                ]
            )
            self.condition = replace(self.condition, refused=self.condition.refused + len(sent.refused))
        if sent.done:
            with self._lock:
                self._unsaved = True  # before anybody sees the position: `has` speaks of the durable one
                at.offset = chunk.ends[start + sent.done - 1]
                at.delivered += sent.accepted
                at.dropped += len(sent.refused) + sum(chunk.damaged[start : start + sent.done])
        if sent.error is not None:
            raise sent.error

    def _send(self, items: Sequence[Item]) -> _Sent:
        """Deliver, in halves where the whole is refused, until everything is judged or something stops it."""
        sent = _Sent()
        parts = [(0, len(items))]
        while parts:
            start, stop = parts.pop()
            try:
                refused = self.sink.deliver(items[start:stop])
            except Split as split:
                if stop - start > 1:
                    middle = (start + stop) // 2
                    parts += [(middle, stop), (start, middle)]
                    continue
                refused = [Refused(0, str(split))]
            except Exception as error:  # noqa: BLE001  what was judged before it counts
                sent.error = error
                return sent
            sent.refused += [replace(each, index=start + each.index) for each in refused]
            sent.done = stop
        return sent

    def _doubts(self, log_id: str) -> bool:
        """Whether a batch of which nothing was accepted may be the configuration's fault rather than its events'.

        It may not where the sink has accepted other events since the log's were first refused.
        """
        before = self._doubted.setdefault(log_id, self._accepted)
        if self._accepted <= before:
            return True
        del self._doubted[log_id]
        return False

    def _lingers(self, log_id: str, size: int) -> bool:
        if not self._batch.linger or size >= self._batch.bytes:
            return False
        now = self._monotonic()
        return now - self._noticed.setdefault(log_id, now) < self._batch.linger

    def _forget(self, present: set[str]) -> None:
        with self._lock:
            for name in [name for name in self._cursor.positions if name not in present]:
                at = self._cursor.positions.pop(name)
                self._gone.delivered += at.delivered
                self._gone.dropped += at.dropped


class _OneLogError(Exception):
    """One log does not get on, and others may: it cannot be read, or all of a batch was refused, whoever's fault."""


def _reason(error: Exception) -> str:
    """Say what failed, without what an unknown exception's text may hold (URLs with secrets, events)."""
    if isinstance(error, (Retry, Hold)):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__


def _time(item: Item) -> float:
    try:
        return datetime.fromisoformat(str(item.event.get("time"))).timestamp()
    except (ValueError, OverflowError):
        return time.time()
