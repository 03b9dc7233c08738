"""What shows of a segment's file without its key, read a piece at a time: a file may be as large as its writer likes.

Law: memory does not grow with the file; nothing found here is authentic. Non-goal: frames that open (scan.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ext_authz.audit.segment import HEAD_BYTES, HEADER_BYTES, Kind, frames, torn

PIECE_BYTES: Final = 4 * 1024 * 1024
"""More than the longest frame, and whole sectors."""
_SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Framing:
    """How many EVENT frames follow each other, where the last frame of any kind ends, and of which kind it is.

    `odd`: what stands behind is neither the beginning of a frame nor has a sector of zeros.
    """

    events: int
    whole: int
    last: Kind | None
    odd: bool


def framing(path: Path, size: int) -> Framing:
    """Look at the first `size` bytes of a segment's file. Raises OSError."""
    at, events, last = HEADER_BYTES, 0, None
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            before = at
            for frame in frames(file.read(min(PIECE_BYTES, size - at)), at):
                at, last = frame.end, frame.kind
                events += last is Kind.EVENT
            if at == before:
                break
        file.seek(at)
        odd = at < size and not torn(file.read(min(HEAD_BYTES, size - at)), at)
    return Framing(events, at, last, odd and not has_hole(path, at, size))


def has_hole(path: Path, start: int, end: int) -> bool:
    """Whether a sector that begins from `start` to before `end`, or its rest there, is zero: a page that never came.

    Give an `end` at a sector's end, or the file's. Raises OSError.
    """
    return any(_blank_sector(data, at) for at, data in _pieces(path, start, end))


def zeros_from(path: Path, start: int, end: int) -> int:
    """Return the offset behind the last byte that is not zero from `start` on, else `start`. Raises OSError."""
    found = start
    for at, data in _pieces(path, start, end):
        kept = len(data.rstrip(b"\0"))
        found = at + kept if kept else found
    return found


def _pieces(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield offsets and what stands there, each piece but the last up to a sector's end."""
    with path.open("rb") as file:
        yield from _read(file, start, end)


def _read(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    file.seek(start)
    at = start
    while at < end:
        data = file.read(min(PIECE_BYTES - at % _SECTOR, end - at))
        if not data:
            return
        yield at, data
        at += len(data)


def _blank_sector(data: bytes, at: int) -> bool:
    first = -at % _SECTOR
    pieces = (data[:first], *(data[at : at + _SECTOR] for at in range(first, len(data), _SECTOR)))
    return any(piece and not any(piece) for piece in pieces)
