"""Output that appears whole or not at all: written without a name, synced, then given its name.

Law: whatever ends the program (an error, Ctrl-C, kill -9, a power cut), the path holds what it held before or all of
the new. Non-goal: what is written.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Final, Self

_MODE: Final = 0o600
_ATTEMPTS: Final = 100
_OTHERS: Final = 0o077


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[FileIO]:
    """Yield an unbuffered file (0600) that takes the place of `path` when the block ends well.

    Where the file system can (O_TMPFILE) it has no name until then, so that a killed process leaves nothing;
    elsewhere a killed one may leave `.NAME.….partial`. Raises OSError; FileExistsError where `path` is anything but a
    regular file, or, without `overwrite`, is there at all.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _refuse_other(path.name, folder, overwrite=overwrite)
        with _Unnamed(path.name, folder) as file:
            yield file.stream
            os.fsync(file.stream.fileno())
            file.publish(overwrite=overwrite)
            os.fsync(folder)
    finally:
        os.close(folder)


def _refuse_other(name: str, folder: int, *, overwrite: bool) -> None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not overwrite:
        raise FileExistsError(17, "exists already")
    if not stat.S_ISREG(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a regular file"
        raise FileExistsError(17, f"is {kind}, and is not replaced")


class _Unnamed:
    """A file in `folder` that gets its name last."""

    def __init__(self, name: str, folder: int) -> None:
        self.name = name
        self.folder = folder
        self.temporary = ""
        try:
            descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, _MODE, dir_fd=folder)
        except OSError:  # EOPNOTSUPP, EISDIR, EINVAL: depends on the file system; what else is wrong shows again here
            self.temporary = self._unused()
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.temporary, flags, _MODE, dir_fd=folder)
        self.stream = FileIO(descriptor, "wb")

    def _unused(self) -> str:
        return f".{self.name[:100]}.{secrets.token_hex(6)}.partial"

    def publish(self, *, overwrite: bool) -> None:
        """Give the file its name."""
        if not self.temporary:
            self._link()
        if overwrite:
            os.rename(self.temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            self.temporary = ""
        else:
            os.link(self.temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder, follow_symlinks=False)

    def _link(self) -> None:
        """Link the nameless file under a temporary name (open(2): through /proc, which needs no capability)."""
        source = f"/proc/self/fd/{self.stream.fileno()}"
        for attempt in range(_ATTEMPTS):
            name = self._unused()
            try:
                # A dir_fd is what makes CPython call linkat with AT_SYMLINK_FOLLOW.
                os.link(source, name, src_dir_fd=self.folder, dst_dir_fd=self.folder, follow_symlinks=True)
            except FileExistsError:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                self.temporary = name
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        if self.temporary:
            with suppress(OSError):
                os.unlink(self.temporary, dir_fd=self.folder)


def make_folder(path: Path) -> None:
    """Make a folder (0700), and those above it, where they are missing, with its name on the disk. Raises OSError."""
    if not path.is_dir():
        if not path.parent.exists():
            make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Bring the names in a folder to the disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def exposed(found: os.stat_result, path: Path) -> str:
    """Say why a file with a secret in it, open and looked at, is not to be used; "" where it is its owner's alone."""
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    if found.st_mode & _OTHERS:
        return f"can be used by others (mode {stat.S_IMODE(found.st_mode):04o}): `chmod 600 {path}`"
    return ""
