"""Follows the trail and delivers it: a thread and a durable cursor for each sink.

Law: at least once, in order per log, whole lines only; a sink that fails is
tried again without end and holds up no other; nothing here reaches a check.
Non-goal: changing the trail.
"""

import contextlib
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ext_authz.audit.cursor import Cursor, Position
from ext_authz.audit.sinks import Sink
from ext_authz.audit.trail import Segment, segments

CHUNK_BYTES: Final = 256 * 1024
_TALLY_BYTES: Final = 1024 * 1024
IDLE_SECONDS: Final = 0.1
FIRST_BACKOFF_SECONDS: Final = 0.2
MAX_BACKOFF_SECONDS: Final = 60.0


class Delivery:
    """One sink's way through the trail. `step` is one pass; the thread around it only waits."""

    def __init__(
        self,
        directory: Path,
        sink: Sink,
        *,
        jitter: Callable[[], float] = random.random,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.sink = sink
        self.retries = 0
        self.failures_in_a_row = 0
        self.last_error = ""
        self._directory = directory
        self._cursor = Cursor(directory, sink.name)
        self._jitter = jitter
        self._chunk_bytes = chunk_bytes
        self._lock = threading.Lock()
        self._gone = Position()
        self._unsaved = False

    def step(self) -> bool:
        """Deliver up to one chunk of each log; return whether a log had more than that to give.

        Raises OSError (or whatever the sink raises) when something could not be delivered.
        """
        found = segments(self._directory)
        self._forget({each.name for each in found})
        held: set[str] = set()
        moved = False
        try:
            for segment in found:
                if segment.log_id not in held:
                    progress, done = self._deliver(segment)
                    moved = moved or progress
                    if not done:
                        held.add(segment.log_id)
        finally:
            self._unsaved = self._unsaved or moved
            if self._unsaved:
                self._cursor.save()
                self._unsaved = False
        return bool(held)

    def backoff(self) -> float:
        """Return the seconds to wait after this many failures in a row (full jitter)."""
        most = FIRST_BACKOFF_SECONDS * 2.0 ** min(self.failures_in_a_row - 1, 16)
        return self._jitter() * min(most, MAX_BACKOFF_SECONDS)

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set, then once more."""
        while True:
            stopping = stop.is_set()
            try:
                again = self.step()
            except Exception as error:  # noqa: BLE001  a sink may fail in any way; the trail waits for it
                self.failures_in_a_row += 1
                self.retries += 1
                self.last_error = str(error) or type(error).__name__
                pause = self.backoff()
            else:
                self.failures_in_a_row, self.last_error = 0, ""
                pause = 0.0 if again else IDLE_SECONDS
                if stopping and again:
                    continue
            if stopping:
                return
            if pause:
                stop.wait(pause)

    def counts(self) -> tuple[dict[str, tuple[int, int]], Position]:
        """Return (delivered, dropped) by segment, and the sums of segments that were removed."""
        with self._lock:
            by_segment = {name: (at.delivered, at.dropped) for name, at in self._cursor.positions.items()}
            return by_segment, Position(0, self._gone.delivered, self._gone.dropped)

    def _deliver(self, segment: Segment) -> tuple[bool, bool]:
        """Return (anything done, at the end of the file)."""
        with self._lock:
            at = self._cursor.at(segment.name)
        if _size(segment.path) <= at.offset:
            return False, True
        data = _read(segment.path, at.offset, self._chunk_bytes)
        end = data.rfind(b"\n") + 1
        whole = len(data) < self._chunk_bytes
        if not end:
            if whole:
                return False, True
            # No event is that long: whatever this is, its end counts as one dropped line.
            with self._lock:
                at.offset += len(data)
            return True, False
        lines = data[: end - 1].split(b"\n")
        good = [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        if good:
            self.sink.write(b"\n".join(good) + b"\n")
        with self._lock:
            at.offset += end
            at.delivered += len(good)
            at.dropped += len(lines) - len(good)
        return True, whole

    def _forget(self, present: set[str]) -> None:
        with self._lock:
            for name in [name for name in self._cursor.positions if name not in present]:
                at = self._cursor.positions.pop(name)
                self._gone.delivered += at.delivered
                self._gone.dropped += at.dropped


class Exporter:
    """All deliveries of one trail, and the ledger over them."""

    def __init__(self, directory: Path, sinks: Sequence[Sink]) -> None:
        self._directory = directory
        self._deliveries = [Delivery(directory, sink) for sink in sinks]
        self._tally = _Tally()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start a thread for each sink."""
        if self._threads:
            raise RuntimeError("the exporter was started before")
        for delivery in self._deliveries:
            thread = threading.Thread(
                target=delivery.run, args=(self._stop,), name=f"audit-{delivery.sink.name}"[:32], daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Deliver what is there as far as the sinks take it within `seconds`; the rest waits in the trail."""
        self._stop.set()
        ends = threading.Event()
        waiter = threading.Thread(target=self._join, args=(ends,), name="audit-stop", daemon=True)
        waiter.start()
        ends.wait(seconds)

    def _join(self, ends: threading.Event) -> None:
        for thread, delivery in zip(self._threads, self._deliveries, strict=True):
            thread.join()
            with contextlib.suppress(OSError):
                delivery.sink.close()
        ends.set()

    def ledger(self) -> dict[str, dict[str, int | str]]:
        """Return, by sink name: emitted = delivered + pending + dropped, `retries`, `failing` (in a row), `last_error`.

        Counts cover the segments that exist, and those removed since the
        start: what of them had not been delivered is dropped.
        """
        counted = [(each, *each.counts()) for each in self._deliveries]
        with self._lock:
            emitted, emitted_gone = self._tally.update(segments(self._directory))
        ledger: dict[str, dict[str, int | str]] = {}
        for delivery, by_segment, gone in counted:
            delivered, dropped, pending = gone.delivered, gone.dropped, 0
            dropped += max(0, emitted_gone - gone.delivered - gone.dropped)
            for name, events in emitted.items():
                done, refused = by_segment.get(name, (0, 0))
                delivered += done
                dropped += refused
                pending += max(0, events - done - refused)
            ledger[delivery.sink.name] = {
                "emitted": delivered + pending + dropped,
                "delivered": delivered,
                "pending": pending,
                "dropped": dropped,
                "retries": delivery.retries,
                "failing": delivery.failures_in_a_row,
                "last_error": delivery.last_error,
            }
        return ledger

    def spool_bytes(self) -> int:
        """Return the size of the whole trail in bytes."""
        return sum(_size(each.path) for each in segments(self._directory))


class _Tally:
    """Counts the whole lines of each segment, reading every byte once."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}
        self._gone = 0

    def update(self, found: Sequence[Segment]) -> tuple[dict[str, int], int]:
        """Return the lines by segment, and those of segments that were removed."""
        for name in self._seen.keys() - {each.name for each in found}:
            self._gone += self._seen.pop(name)[1]
        for segment in found:
            offset, lines = self._seen.get(segment.name, (0, 0))
            while _size(segment.path) > offset and (data := _read(segment.path, offset, _TALLY_BYTES)):
                offset += len(data)
                lines += data.count(b"\n")
            self._seen[segment.name] = (offset, lines)
        return {name: lines for name, (_, lines) in self._seen.items()}, self._gone


def _read(path: Path, offset: int, size: int) -> bytes:
    """Return up to `size` bytes from `offset`; nothing where the file is gone or ends there. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
