"""A file as a sink: appended to, synced, reopened when it was rotated.

Law: the file holds whole lines only, whatever failed before. Non-goal:
rotating it (logrotate does, by renaming).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ext_authz.audit.bounds import MAX_BYTES
from ext_authz.audit.sinks import Encode, Item, Refused
from ext_authz.envelope.files import sync_directory

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW


class FileSink:
    """Appends to `path` (made 0600 where missing; a symbolic link or anything but a regular file is refused)."""

    best_effort = False

    def __init__(self, name: str, path: Path, encode: Encode) -> None:
        self.name = name
        self.path = path
        self._encode = encode
        self._fd = -1

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Append a line for each item and bring them to the disk. Raises OSError, then nothing of them is left."""
        self.write(b"\n".join([self._encode(item) for item in items]) + b"\n")
        return ()

    def write(self, lines: bytes) -> None:
        """Append `lines` and bring them to the disk. Raises OSError, then nothing of them is left."""
        self._open()
        start = os.fstat(self._fd).st_size
        view = memoryview(lines)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                if os.fstat(self._fd).st_size == start + len(lines) - len(view):
                    os.ftruncate(self._fd, start)
            # After a failed fdatasync this descriptor tells nothing any more; the next write looks afresh.
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                here, there = os.fstat(self._fd), self.path.stat()
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return
            self.close()
        fd = os.open(self.path, _FLAGS, 0o600)
        try:
            _check(fd, self.path)
            _end_line(fd)
            # Whether it was made now or by somebody whom a crash interrupted: a name that is lost loses every event.
            sync_directory(self.path.parent)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd


def _check(fd: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def _end_line(fd: int) -> None:
    """Take away an event that a crash tore, so that the file holds whole lines."""
    size = os.fstat(fd).st_size
    start = max(0, size - MAX_BYTES - 1)
    tail = os.pread(fd, size - start, start)
    if not tail or tail.endswith(b"\n"):
        return
    at = tail.rfind(b"\n") + 1
    if tail[at : at + 1] == b"{" and (at or not start):
        os.ftruncate(fd, start + at)
    else:
        os.write(fd, b"\n")
