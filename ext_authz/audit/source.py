"""The exporter's view of the trail: whole events with the position after each.

The one place of the exporter that knows how a segment's bytes become events. Law: a torn end is not there yet; what
is damaged is passed over and counted. Non-goal: order between logs, cursors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ext_authz.audit.cursor import Cursor
from ext_authz.audit.reader import SegmentReader, read_bytes
from ext_authz.audit.sealing import Opener, OpenKey, ShreddedError
from ext_authz.audit.segment import HEADER_BYTES, Kind, Record, frames, resume, torn
from ext_authz.audit.trail import Segment, segments
from ext_authz.envelope.errors import AlteredError

_COUNT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some events in order, the offset after each, and the offset after all that was looked at.

    `damaged` counts what was no event before the offset of the same index (one entry more: what follows the last).
    """

    lines: tuple[bytes, ...]
    ends: tuple[int, ...]
    damaged: tuple[int, ...]
    end: int


@dataclass(frozen=True, slots=True)
class Tally:
    """How far a segment was counted, and the lines up to there."""

    offset: int = 0
    lines: int = 0


def passed(directory: Path, sink: str, segment: Segment) -> bool:
    """Whether a sink's durable cursor stands behind all that is in a segment that has ended. Raises OSError."""
    at = Cursor(directory, sink).positions.get(segment.name)
    return at is not None and _count(segment.path, at.offset).lines == 0


class Source(Protocol):
    """Where deliveries read."""

    def segments(self) -> list[Segment]:
        """Return every segment, in order."""
        ...

    def size(self, segment: Segment) -> int:
        """Return the end of the segment's file in bytes; 0 where it is gone."""
        ...

    def read(self, segment: Segment, offset: int, size: int) -> Chunk:
        """Return whole events from `offset` (0 or an earlier end), about `size` bytes. Raises OSError."""
        ...

    def tally(self, segment: Segment, so_far: Tally) -> Tally:
        """Count what came since `so_far`."""
        ...


class SealedSource:
    """The trail in one folder, opened with its key. Checkpoints are events to sinks too, marks are not."""

    def __init__(self, directory: Path, open_key: OpenKey | None) -> None:
        self._directory = directory
        self._opener = Opener(open_key)

    def segments(self) -> list[Segment]:
        """Return every segment, in order."""
        return segments(self._directory)

    def size(self, segment: Segment) -> int:
        """Return the file's size."""
        try:
            return segment.path.stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, segment: Segment, offset: int, size: int) -> Chunk:
        """Return whole frames; of a segment that nobody can read any more all that is left counts as damaged.

        Raises KeyUnavailableError too.
        """
        reader = SegmentReader(segment, self._opener, offset)
        try:
            found = reader.chunk(size)
        except (AlteredError, ShreddedError):
            end = self.size(segment)
            return Chunk((), (), (_count(segment.path, offset).lines,), max(end, offset))
        lines: list[bytes] = []
        ends: list[int] = []
        damaged = [0]
        for each in found:
            if isinstance(each, Record) and each.kind is Kind.MARK:
                continue
            if isinstance(each, Record):
                lines.append(each.payload)
                ends.append(each.end)
                damaged.append(0)
            else:
                damaged[-1] += 1
        return Chunk(tuple(lines), tuple(ends), tuple(damaged), reader.at if found else offset)

    def tally(self, segment: Segment, so_far: Tally) -> Tally:
        """Count frames, reading every byte once; no key is needed."""
        counted = _count(segment.path, so_far.offset)
        return Tally(counted.offset, so_far.lines + counted.lines)


def _count(path: Path, offset: int) -> Tally:
    """Return the end of the last whole frame, and how many there are from `offset`. Raises OSError.

    Damage counts as one, and what stands behind it counts too: nothing of it is to be taken for delivered or absent.
    """
    at, count = max(offset, HEADER_BYTES), 0
    while data := read_bytes(path, at, _COUNT_BYTES):
        before = at
        for each in frames(data, at):
            at, count = each.end, count + (each.kind is not Kind.MARK)
        if at == before and torn(data, at):
            break
        if at == before:
            at, count = at + resume(data, at, 1), count + 1
    return Tally(max(at, offset), count)
