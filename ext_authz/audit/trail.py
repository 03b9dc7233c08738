"""Names and order of the trail's files.

Law: `LOG_ID.000000.seg`, `LOG_ID.000001.seg`, … are the segments of one log in order of writing, each with its wrapped
key beside it (`.key`); a log has one writer and one start. Anything else in the folder is not ours and is left alone.
Non-goal: contents.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAME = re.compile(r"(([a-z][a-z0-9-]{0,63})-([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{16})\.([0-9]{6,9})\.seg\Z")


SUFFIX: Final = ".seg"
DRAFT_SUFFIX: Final = ".draft"
"""Of a segment that is not one yet: what it is to repeat is not all on the disk."""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of the trail; sorts by start, log and number. `writer` is the process, such as `worker-0`."""

    started: str
    log_id: str
    number: int
    writer: str
    path: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def key(self) -> Path:
        """Where its wrapped key stands."""
        return self.path.with_suffix(".key")


def segment_path(directory: Path, log_id: str, number: int) -> Path:
    """Return where segment `number` (from 0) of a log stands."""
    return directory / f"{log_id}.{number:06d}{SUFFIX}"


def segment_of(path: Path) -> Segment | None:
    """Read a file's name; None when it is not one of the trail's."""
    found = _NAME.match(path.name)
    if found is None or (len(found[4]) > 6 and found[4][0] == "0"):  # noqa: PLR2004  one name for each number
        return None
    return Segment(found[3], found[1], int(found[4]), found[2], path)


def segments(directory: Path) -> list[Segment]:
    """Return every segment in `directory`, in order; nothing where the directory is missing.

    Regular files alone: a pipe under a segment's name would hold up whoever reads it for ever. Raises OSError.
    """
    try:
        with os.scandir(directory) as found:
            paths = [directory / each.name for each in found if each.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return sorted(segment for path in paths if (segment := segment_of(path)) is not None)
