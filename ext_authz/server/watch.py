"""Notices that a file of the configuration changed, appeared or went.

Law: a change counts once it has stood still for one look, so a file that is
still being written is not read. Non-goal: reading files.
"""

import os
from collections.abc import Iterable

from ext_authz.config.globs import matching

_File = tuple[str, int, int, int, int]
Stamp = tuple[_File, ...]


class Watch:
    """Looks at paths and globs by `stat`; no descriptors are held, so network file systems work too."""

    def __init__(self, paths: Iterable[str], patterns: Iterable[str]) -> None:
        self.aim(paths, patterns)

    def aim(self, paths: Iterable[str], patterns: Iterable[str], since: Stamp | None = None) -> None:
        """Watch these from now on: as they are now, or as they were at the look `since`, before they were read."""
        self._paths = tuple(paths)
        self._patterns = tuple(patterns)
        self._last = self.look()
        self._known = self._last if since is None else since

    def changed(self) -> bool:
        """Whether something differs from what was known, and did already at the last look. Then it is known."""
        now = self.look()
        settled = now == self._last
        self._last = now
        if now == self._known or not settled:
            return False
        self._known = now
        return True

    def look(self) -> Stamp:
        """Return what the files are like now."""
        names = set(self._paths)
        for pattern in self._patterns:
            names.update(matching(pattern))
        return tuple(_stamp(name) for name in sorted(names))


def _stamp(name: str) -> _File:
    try:
        found = os.stat(name)  # noqa: PTH116  called twice a second for every file
    except OSError:
        return name, -1, -1, -1, -1
    # The change time too: a file that could not be read becomes readable by a chmod that leaves the others alone.
    return name, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
