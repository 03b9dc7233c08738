"""Reading the trail: every whole event, decrypted, in order of time, while it is being written or long after.

Law: a torn end is not an event yet, what is damaged is counted and passed over, and an event that stands in two
segments comes once, in its place, whichever of them is whole. Non-goal: proving that nothing is missing (`gaps` says
only what the numbers say).
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.audit.order import Numbers, merged
from ext_authz.audit.sealing import Opener, OpenKey, ShreddedError
from ext_authz.audit.segment import HEADER_BYTES, Damage, Kind, Record, Segment, read_header
from ext_authz.audit.trail import Segment as SegmentFile
from ext_authz.audit.trail import segment_of, segments
from ext_authz.envelope.errors import AlteredError, UnsupportedError

CHUNK_BYTES: Final = 256 * 1024
"""More than the longest frame, so that each chunk has a whole one."""
AUDIT_FOLDER: Final = "audit"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event: the line as written (without newline), what it says, and what kind of frame it stood in."""

    line: bytes
    event: dict[str, Any]
    kind: Kind = Kind.EVENT

    @property
    def time(self) -> str:
        """The event's time, RFC 3339 with a fixed width: it sorts as text."""
        time = self.event.get("time")
        return time if isinstance(time, str) else ""


class SegmentReader:
    """One segment, read on from `at` (the end of a record; 0: from its beginning) while it grows."""

    def __init__(self, file: SegmentFile, opener: Opener, at: int = 0) -> None:
        self.file = file
        self.at = max(at, HEADER_BYTES)
        self.segment: Segment | None = None
        self._opener = opener

    def behind(self) -> bool:
        """Whether the file may have more than was read."""
        if self.segment is None and self.at == HEADER_BYTES:
            return True
        try:
            return self.file.path.stat().st_size > self.at
        except OSError:
            return False

    def open(self) -> Segment | None:
        """Return the opened segment; None while there is no whole header, or the file is gone.

        Raises AlteredError (also where the file holds another segment than its name says), ShreddedError,
        KeyUnavailableError, UnsupportedError, OSError.
        """
        if self.segment is None:
            try:
                found = self._opener.segment(self.file.path)
            except FileNotFoundError:
                return None
            if found is not None and (found.header.log_id, found.header.number) != (self.file.log_id, self.file.number):
                raise AlteredError("the file holds another segment than its name says")
            self.segment = found
        return self.segment

    def first_seq(self, otherwise: int) -> int:
        """Return the number of the first event, as an unopened header says it: to read in order, and for nothing else.

        `otherwise` where there is no header.
        """
        if self.segment is not None:
            return self.segment.header.first_seq
        try:
            return read_header(read_bytes(self.file.path, 0, HEADER_BYTES))[0].first_seq
        except (AlteredError, UnsupportedError, OSError):
            return otherwise

    def chunk(self, size: int = CHUNK_BYTES) -> list[Record | Damage]:
        """Return what follows, about `size` bytes of it, and move on. Raises as `open` does."""
        segment = self.open()
        if segment is None:
            return []
        found: list[Record | Damage] = []
        end = self.at + size
        for each in segment.read(read_bytes(self.file.path, self.at, max(size, CHUNK_BYTES)), self.at):
            found.append(each)
            if each.end >= end:
                break
        if found:
            self.at = found[-1].end
        return found


def read_bytes(path: Path, offset: int, size: int) -> bytes:
    """Return up to `size` bytes from `offset`; nothing where the file is gone or ends there. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


class Trail:
    """The events of some folders (each a `run_dir` or a trail) and files (segments, or any JSON lines).

    `open_key` gives the key when a segment is met; `kinds` are the frames wanted. While reading, `damaged` counts
    what was no event, `shredded` names segments whose key was deleted, `problems` those that did not open. Segments in
    folders that were last written before `since` (Unix seconds) are passed over.
    Raises FileNotFoundError where a path does not exist.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        open_key: OpenKey | None = None,
        *,
        kinds: Collection[Kind] = (Kind.EVENT,),
        places: Mapping[str, int] | None = None,
        since: float = 0,
    ) -> None:
        """`places`: where an earlier reader of the same paths had got to."""
        self._places = dict(places or {})
        self.damaged = 0
        self.shredded: list[str] = []
        self.problems: list[str] = []
        self._kinds = frozenset(kinds)
        self._opener = Opener(open_key)
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
        self._since = since
        self._past: set[Path] = set()

    def entries(self) -> Iterator[Entry]:
        """Return every event that was not returned before, in order of time; to be read to its end.

        Each log keeps its own order; a log is opened only when time has come
        to its start, so memory holds one chunk for each log then alive.
        Raises KeyUnavailableError, OSError.
        """
        self._discover()
        logs = sorted(self._logs.values(), key=attrgetter("started"))
        yield from merged([(log.started, log.entries(self)) for log in logs], attrgetter("time"))

    def follow(self, stop: Callable[[], bool], pause: Callable[[], None]) -> Iterator[Entry]:
        """Return events as they come until `stop()`; `pause()` is called when there are no more for now."""
        while True:
            last = stop()
            yield from self.entries()
            if last:
                return
            pause()

    def places(self) -> dict[str, int]:
        """Say how far each file was read that is still there; true once `entries` was read to its end."""
        return {str(path): at for log in self._logs.values() for path, at in log.places() if path.exists()}

    def gaps(self) -> list[str]:
        """Say where a log's numbers do not follow each other; call it after `entries` was read to its end."""
        return [f"{log.log_id}: {gap}" for log in self._logs.values() for gap in log.gaps]

    def parsed(self, line: bytes) -> dict[str, Any] | None:
        """Return a line's event; one that is none is counted."""
        try:
            event = orjson.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict):
            return event
        self.damaged += 1
        return None

    def wanted(self, kind: Kind) -> bool:
        """Whether frames of this kind were asked for."""
        return kind in self._kinds

    def _discover(self) -> None:
        found = [segment for folder in self._folders for segment in segments(folder) if self._recent(segment.path)]
        for path in self._files:
            segment = segment_of(path)
            if segment is not None:
                found.append(segment)
            elif str(path) not in self._logs:
                self._logs[str(path)] = _Lines(path, self._places.get(str(path), 0))
        for segment in found:
            key = f"{segment.path.parent}/{segment.log_id}"
            log = self._logs.get(key)
            if log is None:
                log = self._logs[key] = _Sealed(segment.log_id, _rfc3339(segment.started))
            if isinstance(log, _Sealed):
                log.add(segment, self._opener, self._places.pop(str(segment.path), 0))

    def _recent(self, path: Path) -> bool:
        if not self._since:
            return True
        if path in self._past:
            return False
        try:
            recent = path.stat().st_mtime >= self._since
        except FileNotFoundError:
            return False
        if not recent:
            self._past.add(path)
        return recent


class _Log(ABC):
    """One log, and how far it was read."""

    def __init__(self, log_id: str, started: str) -> None:
        self.log_id = log_id
        self.started = started

    @abstractmethod
    def entries(self, trail: Trail) -> Iterator[Entry]:
        """Return what was not returned before; to be read to its end."""

    @abstractmethod
    def places(self) -> Iterable[tuple[Path, int]]:
        """Return each file and the offset behind what was read of it."""

    @property
    def gaps(self) -> list[str]:
        """What its numbers say is missing."""
        return []


class _Sealed(_Log):
    """A log of the trail: its segments, the events in order. Files are closed between chunks, however many there are.

    After a failed fdatasync a segment begins with a smaller number than the one before it ended with: what both
    have is read side by side, since either may have lost some of it.
    """

    def __init__(self, log_id: str, started: str) -> None:
        super().__init__(log_id, started)
        self._readers: dict[Path, SegmentReader] = {}
        self._lost: set[Path] = set()
        self._ended: set[Path] = set()
        self._numbers = Numbers()
        self._begun = False

    def add(self, file: SegmentFile, opener: Opener, at: int) -> None:
        if file.path not in self._readers:
            self._readers[file.path] = SegmentReader(file, opener, at)

    def places(self) -> Iterable[tuple[Path, int]]:
        return [(path, reader.at) for path, reader in self._readers.items()]

    @property
    def gaps(self) -> list[str]:
        return [f"{first} to {last} are missing" for first, last in self._numbers.gaps()]

    def entries(self, trail: Trail) -> Iterator[Entry]:
        last = max(reader.file.number for reader in self._readers.values())
        sources: list[tuple[int, Iterator[Record]]] = []
        first = 0
        for path, reader in sorted(self._readers.items(), key=lambda item: item[1].file.number):
            if path in self._lost or path in self._ended:
                continue
            if not reader.behind() and (reader.at > HEADER_BYTES or reader.file.number == last):
                continue
            first = reader.first_seq(first)
            sources.append((2 * first, self._records(reader, trail, final=reader.file.number < last)))
        for each in merged(sorted(sources, key=itemgetter(0)), _place):
            if (each.kind is not Kind.EVENT or self._numbers.meet(each.seq)) and trail.wanted(each.kind):
                event = trail.parsed(each.payload)
                if event is not None:
                    yield Entry(each.payload, event, each.kind)

    def _records(self, reader: SegmentReader, trail: Trail, *, final: bool) -> Iterator[Record]:
        """Yield what is whole in a segment; `final`: another was begun after it."""
        met = reader.segment is not None
        opened = self._opened(reader, trail, final=final)
        if opened is None:
            return
        known, resumed = not self._begun, not met and reader.at > HEADER_BYTES
        self._begun = True
        if reader.at == HEADER_BYTES:
            # Older segments were deleted in their time, or could not be read, which was said already.
            self._numbers.skip_to(opened.header.first_seq, known=known)
        while found := reader.chunk():
            for each in found:
                if isinstance(each, Damage):
                    trail.damaged += 1
                    continue
                if resumed:
                    # What stands before was read by another reader.
                    self._numbers.skip_to(each.seq, known=True)
                    resumed = False
                yield each
                if each.kind is Kind.SEAL:
                    self._ended.add(reader.file.path)

    def _opened(self, reader: SegmentReader, trail: Trail, *, final: bool) -> Segment | None:
        path = reader.file.path
        try:
            opened = reader.open()
        except ShreddedError:
            trail.shredded.append(path.name)
            self._lose(path)
            return None
        except PermissionError:
            raise
        except (AlteredError, UnsupportedError, OSError) as error:
            # Of one segment, whoever wrote that: the others are read.
            why = (error.strerror or "cannot be read").lower() if isinstance(error, OSError) else error
            trail.problems.append(f"{path.name}: {why}")
            trail.damaged += 1
            self._lose(path)
            return None
        if opened is None and final and path.exists():
            # A segment is made when the one before it has its header: this one lost it.
            trail.problems.append(f"{path.name}: less than its header is left")
            trail.damaged += 1
            self._lose(path)
        return opened

    def _lose(self, path: Path) -> None:
        self._lost.add(path)
        self._begun = False


class _Lines(_Log):
    """A file of JSON lines, such as a sink's copy: nothing in it is authentic."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(str(path), "")
        self._path = path
        self._at = at

    def places(self) -> Iterable[tuple[Path, int]]:
        return [(self._path, self._at)]

    def entries(self, trail: Trail) -> Iterator[Entry]:
        for line in self._lines():
            event = trail.parsed(line)
            if event is not None:
                yield Entry(line, event)

    def _lines(self) -> Iterator[bytes]:
        """Whole lines not returned before."""
        while True:
            try:
                if self._path.stat().st_size <= self._at:
                    return
                with self._path.open("rb") as file:
                    file.seek(self._at)
                    data = file.read(CHUNK_BYTES)
                    while b"\n" not in data and (more := file.read(CHUNK_BYTES)):
                        data += more
            except FileNotFoundError:
                return
            end = data.rfind(b"\n") + 1
            if not end:
                return
            self._at += end
            yield from data[: end - 1].split(b"\n")


def _rfc3339(started: str) -> str:
    """`20260101T000000Z` as the event times are written, at the beginning of that second."""
    return f"{started[:4]}-{started[4:6]}-{started[6:8]}T{started[9:11]}:{started[11:13]}:{started[13:15]}.000000Z"


def _place(record: Record) -> int:
    """Where a record stands in its log: a checkpoint before the event of the same number."""
    return 2 * record.seq + (record.kind is Kind.EVENT)
