"""Notices that a file of the configuration changed, appeared or went.

Law: a change counts once it has stood still for one look, so a file that is
still being written is not read. Non-goal: reading files.
"""

import glob
import os
from collections.abc import Iterable

Stamp = tuple[tuple[str, int, int, int], ...]


class Watch:
    """Looks at paths and globs by `stat`; no descriptors are held, so network file systems work too."""

    def __init__(self, paths: Iterable[str], patterns: Iterable[str]) -> None:
        self.aim(paths, patterns)

    def aim(self, paths: Iterable[str], patterns: Iterable[str]) -> None:
        """Watch these from now on, as they are now."""
        self._paths = tuple(paths)
        self._patterns = tuple(patterns)
        self._known = self._last = self._look()

    def changed(self) -> bool:
        """Whether something differs from what was known, and did already at the last look. Then it is known."""
        now = self._look()
        settled = now == self._last
        self._last = now
        if now == self._known or not settled:
            return False
        self._known = now
        return True

    def _look(self) -> Stamp:
        names = set(self._paths)
        for pattern in self._patterns:
            names.update(glob.glob(pattern, recursive=True))  # noqa: PTH207  patterns may be absolute
        return tuple(_stamp(name) for name in sorted(names))


def _stamp(name: str) -> tuple[str, int, int, int]:
    try:
        found = os.stat(name)  # noqa: PTH116  called twice a second for every file
    except OSError:
        return name, -1, -1, -1
    return name, found.st_mtime_ns, found.st_size, found.st_ino
