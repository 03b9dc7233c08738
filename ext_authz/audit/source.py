"""The exporter's view of the trail: whole lines with the position after each.

The one place of the exporter that knows how a segment's bytes become events. Law: a torn end is not there yet; what
is damaged is passed over and counted. Non-goal: order between logs, cursors.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ext_authz.audit.bounds import MAX_BYTES
from ext_authz.audit.trail import Segment, segments

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


class LineSource:
    """Segments that are JSON lines, in one folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

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
        """Return whole lines; a run of bytes longer than any event is counted as one that is damaged."""
        size = max(size, MAX_BYTES + 1)
        data = _read(segment.path, offset, size)
        end = data.rfind(b"\n") + 1
        if not end:
            if len(data) < size:
                return Chunk((), (), (0,), offset)
            # No event is that long: whatever this is, its end counts as one damaged line.
            return Chunk((), (), (0,), offset + len(data))
        lines: list[bytes] = []
        ends: list[int] = []
        damaged = [0]
        at = offset
        for line in data[: end - 1].split(b"\n"):
            at += len(line) + 1
            if line.startswith(b"{") and line.endswith(b"}"):
                lines.append(line)
                ends.append(at)
                damaged.append(0)
            else:
                damaged[-1] += 1
        return Chunk(tuple(lines), tuple(ends), tuple(damaged), at)

    def tally(self, segment: Segment, so_far: Tally) -> Tally:
        """Count newlines, reading every byte once."""
        offset, lines = so_far.offset, so_far.lines
        while self.size(segment) > offset and (data := _read(segment.path, offset, _COUNT_BYTES)):
            offset += len(data)
            lines += data.count(b"\n")
        return Tally(offset, lines)


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
