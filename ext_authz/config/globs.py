"""Which files a pattern names, and their bytes where anybody may have put something among them.

Law: no link, pipe or device in a folder of policies holds up who reads it: `**` goes into each folder once, and what is
no plain file is not read. Non-goal: what is in them.
"""

import errno
import glob
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

_ANY_DEPTH = re.compile(r"(?:(?<=/)|\A)\*\*(?:/+|\Z)")


def matching(pattern: str) -> list[str]:
    """Return what `glob.glob(pattern, recursive=True)` does, less further names of a folder that was gone into.

    Two links to the folder they stand in would else make 2^40 names.
    """
    found = _ANY_DEPTH.search(pattern)
    if found is None:
        return glob.glob(pattern)  # noqa: PTH207  patterns may be absolute
    head, tail = pattern[: found.start()], pattern[found.end() :] or "*"
    tops = glob.glob(head) if glob.has_magic(head) else [head]  # noqa: PTH207
    names: dict[str, None] = {}
    for folder in _folders(tops):
        names.update(dict.fromkeys(matching(os.path.join(glob.escape(folder), tail))))  # noqa: PTH118
    return list(names)


def _folders(tops: list[str]) -> Iterator[str]:
    """Yield folders and those below, the nearest first, each of them once by whichever name it has first."""
    seen: set[tuple[int, int]] = set()
    level = sorted(tops)
    while level:
        below: list[str] = []
        for folder in level:
            try:
                place = os.stat(folder or ".")  # noqa: PTH116
                if (place.st_dev, place.st_ino) in seen or not stat.S_ISDIR(place.st_mode):
                    continue
                seen.add((place.st_dev, place.st_ino))
                with os.scandir(folder or ".") as entries:
                    inner = [each.name for each in entries if not each.name.startswith(".")]
            except OSError:
                continue
            yield folder
            # Not the entries' own `is_dir`: it raises for a link to itself.
            paths = [os.path.join(folder, name) for name in inner]  # noqa: PTH118
            below += [path for path in paths if os.path.isdir(path)]  # noqa: PTH112
        level = sorted(below)


def read_plain(path: Path, limit: int) -> bytes:
    """Read a plain file of at most `limit` bytes; waits for nobody. Raises OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(kind):
            raise OSError(0, "not a plain file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(0, f"larger than {limit} bytes")
    return data
