"""Reading the trail: every whole event, in order of time, while it is being written or long after.

Law: a torn last line is not an event yet, a damaged line is counted and passed
over, and an event that stands in two segments comes once. Non-goal: proving
that nothing is missing (`gaps` says only what the numbers say).
"""

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.audit.trail import Segment, segment_of, segments

_CHUNK_BYTES: Final = 256 * 1024
AUDIT_FOLDER: Final = "audit"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event: the line as written (without newline) and what it says."""

    line: bytes
    event: dict[str, Any]

    @property
    def time(self) -> str:
        """The event's time, RFC 3339 with a fixed width: it sorts as text."""
        time = self.event.get("time")
        return time if isinstance(time, str) else ""


class Trail:
    """The events of some folders (each a `run_dir` or a trail) and files (any JSON lines).

    `damaged` counts the whole lines that were no events; it grows while reading.
    Raises FileNotFoundError where a path does not exist.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.damaged = 0
        self._folders: list[Path] = []
        self._files: list[Path] = []
        for path in paths:
            if path.is_dir():
                inner = path / AUDIT_FOLDER
                self._folders.append(inner if inner.is_dir() else path)
            elif path.exists():
                self._files.append(path)
            else:
                raise FileNotFoundError(2, "No such file or directory", str(path))
        self._logs: dict[str, _Log] = {}

    def entries(self) -> Iterator[Entry]:
        """Return every event that was not returned before, in order of time; to be read to its end.

        Each log keeps its own order; a log is opened only when time has come
        to its start, so memory holds one chunk for each log then alive.
        """
        self._discover()
        waiting = sorted(self._logs.values(), key=lambda log: log.started)
        counter = itertools.count()
        heap: list[tuple[str, int, Entry, Iterator[Entry]]] = []
        at = 0
        while heap or at < len(waiting):
            while at < len(waiting) and (not heap or waiting[at].started <= heap[0][0]):
                self._push(heap, self._read(waiting[at]), counter)
                at += 1
            if heap:
                _, _, entry, rest = heapq.heappop(heap)
                yield entry
                self._push(heap, rest, counter)

    def follow(self, stop: Callable[[], bool], pause: Callable[[], None]) -> Iterator[Entry]:
        """Return events as they come until `stop()`; `pause()` is called when there are no more for now."""
        while True:
            last = stop()
            yield from self.entries()
            if last:
                return
            pause()

    def gaps(self) -> list[str]:
        """Say where a log's numbers do not follow each other; call it after `entries` was read to its end."""
        return [f"{log.log_id}: {gap}" for log in self._logs.values() for gap in log.gaps]

    def _push(
        self, heap: list[tuple[str, int, Entry, Iterator[Entry]]], rest: Iterator[Entry], counter: Iterator[int]
    ) -> None:
        entry = next(rest, None)
        if entry is not None:
            heapq.heappush(heap, (entry.time, next(counter), entry, rest))

    def _discover(self) -> None:
        for folder in self._folders:
            for segment in segments(folder):
                key = f"{folder}/{segment.log_id}"
                log = self._logs.setdefault(key, _Log(segment.log_id, _rfc3339(segment.started)))
                log.add(segment.path)
        for path in self._files:
            found = segment_of(path)
            log = self._logs.setdefault(str(path), _Log(found.log_id if found else str(path), ""))
            log.numbered = isinstance(found, Segment)
            log.add(path)

    def _read(self, log: "_Log") -> Iterator[Entry]:
        for line in log.lines():
            try:
                event = orjson.loads(line)
            except ValueError:
                self.damaged += 1
                continue
            if not isinstance(event, dict):
                self.damaged += 1
            elif log.fresh(event):
                yield Entry(line, event)


class _Log:
    """One log's segments, how far each was read, and the number that comes next."""

    def __init__(self, log_id: str, started: str) -> None:
        self.log_id = log_id
        self.started = started
        self.numbered = True
        self.gaps: list[str] = []
        self._segments: list[Path] = []
        self._offsets: dict[Path, int] = {}
        self._next = 0

    def add(self, path: Path) -> None:
        if path not in self._offsets:
            self._segments.append(path)
            self._offsets[path] = 0

    def lines(self) -> Iterator[bytes]:
        """Whole lines not returned before; files are closed between chunks, however many logs there are."""
        for path in self._segments:
            while True:
                try:
                    if path.stat().st_size <= self._offsets[path]:
                        break
                    with path.open("rb") as file:
                        file.seek(self._offsets[path])
                        data = file.read(_CHUNK_BYTES)
                        while b"\n" not in data and (more := file.read(_CHUNK_BYTES)):
                            data += more
                except FileNotFoundError:
                    break
                end = data.rfind(b"\n") + 1
                if not end:
                    break
                self._offsets[path] += end
                yield from data[: end - 1].split(b"\n")

    def fresh(self, event: dict[str, Any]) -> bool:
        """Whether the event was not seen before, as far as its number says."""
        seq = event.get("seq")
        if not self.numbered or type(seq) is not int:
            return True
        if seq < self._next:
            return False
        if seq > self._next:
            self.gaps.append(f"{self._next} to {seq - 1} are missing")
        self._next = seq + 1
        return True


def _rfc3339(started: str) -> str:
    """`20260101T000000Z` as the event times are written, at the beginning of that second."""
    return f"{started[:4]}-{started[4:6]}-{started[6:8]}T{started[9:11]}:{started[11:13]}:{started[13:15]}.000000Z"
