"""One writer's append-only log: an event is with the operating system when `append` returns.

Law: one `write` per event or batch, whole lines only, contiguous `seq`; what could not
be written raises AuditUnavailable and leaves no trace. After a failed
fdatasync a file is never trusted again. Non-goal: waiting (committer.py).
"""

import contextlib
import datetime as dt
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ext_authz.audit.committer import Committer
from ext_authz.audit.trail import segment_path

__all__ = ["AuditUnavailable", "Committer", "Spool"]

KEY_FILE: Final = "query.key"
_KEY_BYTES: Final = 32
_COPY_BYTES: Final = 1024 * 1024
_APPEND: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class AuditUnavailable(Exception):  # noqa: N818  named as the reason that callers are given
    """The event could not be recorded; nothing of it is in the trail."""


class Spool:
    """The log of one start of one process.

    Everything may be called from any thread of it and nothing from another
    process. `log_id` names the log for ever: `NAME-START-RANDOM`. `query_key`
    is the trail's key for hashes of query strings.
    """

    def __init__(self, directory: Path, log_id: str, query_key: bytes) -> None:
        self.directory = directory
        self.log_id = log_id
        self.query_key = query_key
        self.seq = 0
        self.failures = 0
        self._lock = threading.Lock()
        # Held before the other, for as long as the descriptor must not change.
        self._disk_lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        self._torn = False
        self._broken = False
        self._number = 0
        self._size = 0
        self._synced = 0
        self._fd = _create(segment_path(directory, log_id, 0))

    @classmethod
    def create(
        cls,
        directory: Path,
        name: str,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        random_hex: Callable[[int], str] = secrets.token_hex,
    ) -> "Spool":
        """Open a new log for the process `name` (`worker-0`, `control`) in `directory`, made 0700 where missing.

        Raises AuditUnavailable when the folder cannot be used or others can write it.
        """
        started = dt.datetime.fromtimestamp(clock_ns() // 1_000_000_000, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        try:
            _prepare(directory)
            return cls(directory, f"{name}-{started}-{random_hex(8)}", _query_key(directory))
        except OSError as error:
            raise _unavailable(error, directory) from error

    @property
    def size(self) -> int:
        """Bytes in the open segment."""
        return self._size

    def append(self, make: Callable[[int], bytes]) -> int:
        """Write the line that `make(seq)` returns (without newline) and return its seq.

        Raises AuditUnavailable when it is not in the file; whatever `make` raises leaves the log as it was.
        """
        if self._pid != os.getpid():
            raise AuditUnavailable(f"{self.log_id}: the log belongs to another process")
        with self._lock:
            if self._torn or self._broken or self._closed:
                self._mend()
            seq = self.seq
            line = make(seq) + b"\n"
            try:
                written = os.write(self._fd, line)
            except OSError as error:
                self._tear()
                raise _unavailable(error, self.directory) from error
            if written != len(line):
                # The disk is full or a limit was hit in the middle of the line.
                self._tear()
                raise AuditUnavailable(f"{self.directory}: short write")
            self._size += written
            self.seq = seq + 1
            return seq

    def append_all(self, makes: Sequence[Callable[[int], bytes]]) -> int:
        """Record several events with one `write` and return how many of them, from the first, are in the log.

        Those behind them are not, and are for the caller to append one at a time, which says why they cannot be.
        Whatever a maker raises leaves the log as it was.
        """
        with self._lock:
            if not makes or self._torn or self._broken or self._closed or self._pid != os.getpid():
                return 0
            lines = b"".join([make(seq) + b"\n" for seq, make in enumerate(makes, self.seq)])
            try:
                written = os.write(self._fd, lines)
            except OSError:
                written = -1
            if written != len(lines):
                self._tear()
                return 0
            self._size += written
            self.seq += len(makes)
            return len(makes)

    def sync(self) -> bool:
        """Bring everything appended so far to the disk; return whether it is there.

        A failed fdatasync leaves pages marked clean that were never written,
        and the next one succeeds: so everything since the last good one is
        copied to a new segment, and only that one counts.
        """
        with self._disk_lock:
            return self._sync()

    def _sync(self) -> bool:
        with self._lock:
            if self._closed or self._pid != os.getpid():
                return False
            fd, size = self._fd, self._size
            if self._synced == size and not self._broken:
                return True
        if not self._broken:
            try:
                os.fdatasync(fd)
            except OSError:
                self.failures += 1
            else:
                with self._lock:
                    self._synced = size
                return True
        with self._lock:
            return self._renew()

    def check(self) -> None:
        """Notice when the open segment was removed or replaced, and go on in a new one."""
        with self._disk_lock, self._lock:
            if self._closed or self._pid != os.getpid():
                return
            with contextlib.suppress(OSError):
                here, there = os.fstat(self._fd), os.lstat(segment_path(self.directory, self.log_id, self._number))
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return
            self._renew()

    def close(self) -> None:
        """Make what was appended durable as far as possible and close the file; appends fail from now on."""
        with self._disk_lock:
            self._sync()
            with self._lock:
                if not self._closed:
                    self._closed = True
                    os.close(self._fd)

    def _mend(self) -> None:
        """Bring the file back to whole lines, or raise."""
        if self._closed:
            raise AuditUnavailable(f"{self.log_id}: the log is closed")
        if self._broken:
            raise AuditUnavailable(f"{self.directory}: the disk failed")
        if self._torn:
            try:
                os.ftruncate(self._fd, self._size)
            except OSError as error:
                raise _unavailable(error, self.directory) from error
            self._torn = False

    def _tear(self) -> None:
        self.failures += 1
        self._torn = True
        with contextlib.suppress(AuditUnavailable):
            self._mend()

    def _renew(self) -> bool:
        """Go on in a new segment that begins with what the old one may have lost; True once that is durable."""
        path = segment_path(self.directory, self.log_id, self._number + 1)
        fd = -1
        try:
            fd = _create(path)
            copied = _copy(self._fd, self._synced, self._size, fd)
            os.fdatasync(fd)
            _sync_directory(self.directory)
        except OSError:
            self._broken = True
            self.failures += 1
            if fd >= 0:
                os.close(fd)
                with contextlib.suppress(OSError):
                    path.unlink()
            return False
        os.close(self._fd)
        self._fd, self._size, self._synced = fd, copied, copied
        self._number += 1
        self._broken = self._torn = False
        return True


def _unavailable(error: OSError, directory: Path) -> AuditUnavailable:
    return AuditUnavailable(f"{error.filename or directory}: {error.strerror or error}")


def _create(path: Path) -> int:
    fd = os.open(path, _APPEND, 0o600)
    try:
        os.fsync(fd)
        _sync_directory(path.parent)
    except OSError:
        os.close(fd)
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return fd


def _copy(source: int, start: int, end: int, target: int) -> int:
    """Copy a range; raises OSError where it cannot be read back or written whole."""
    at = start
    while at < end:
        piece = os.pread(source, min(_COPY_BYTES, end - at), at)
        if not piece or os.write(target, piece) != len(piece):
            raise OSError(5, "could not copy what was not durable")
        at += len(piece)
    return end - start


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _prepare(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        raise AuditUnavailable(f"{directory}: not a directory")
    if found.st_mode & 0o022:
        raise AuditUnavailable(f"{directory}: others can write it (chmod 700)")


def _query_key(directory: Path) -> bytes:
    """Return the trail's key for query hashes, made (0600) at the first start.

    Several processes may start at once: the first link wins, all read the same key.
    """
    path = directory / KEY_FILE
    for _ in range(2):
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            draft = directory / f".{KEY_FILE}.{secrets.token_hex(8)}"
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(fd, secrets.token_bytes(_KEY_BYTES))
                os.fsync(fd)
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(draft)
            finally:
                os.close(fd)
                draft.unlink()
        else:
            if len(key) != _KEY_BYTES:
                raise AuditUnavailable(f"{path}: not a key of {_KEY_BYTES} bytes")
            return key
    raise AuditUnavailable(f"{path}: cannot be made")
