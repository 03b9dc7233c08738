"""The one table of one-time values that all workers of a sidecar share: a file in `run_dir`, mapped into memory.

Law: two workers never both find a value new; a table without room, or that cannot be locked at once, says so, and the
value is refused. It outlives workers and restarts. Non-goal: other hosts (docs/identity.md says what follows).
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import secrets
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ext_authz.authn.once import Spent

FILE_NAME: Final = "once.table"
MAGIC: Final = b"extauthz-once-1\n"
SLOTS: Final = 2**19
"""Values that are remembered at once; 8 MiB."""
WINDOW: Final = 64
_HEADER: Final = 64
_KEY: Final = 32
_TAG: Final = 12
_SLOT: Final = 16
_ENDS: Final = struct.Struct("<" + f"{_TAG}xI" * WINDOW)
_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.0002


class OnceTable:
    """A value's keyed hash names the window of 64 slots that it may stand in; a slot is free once its time is over."""

    def __init__(self, folder: Path, slots: int = SLOTS) -> None:
        """Open the table, or make it (0600); one that is none of ours is made anew. Raises OSError.

        `slots` is a multiple of 64.
        """
        size = _HEADER + slots * _SLOT
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        # Never closed while the process lives: closing any descriptor of a file gives up all its record locks.
        self._fd = os.open(folder / FILE_NAME, flags, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if os.fstat(self._fd).st_size != size or os.pread(self._fd, len(MAGIC), 0) != MAGIC:
                os.ftruncate(self._fd, 0)
                # All of it now: a full disk later would end the process that writes to the mapping.
                os.posix_fallocate(self._fd, 0, size)
                os.pwrite(self._fd, MAGIC + secrets.token_bytes(_KEY), 0)
            self._map = mmap.mmap(self._fd, size)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._secret = bytes(self._map[len(MAGIC) : len(MAGIC) + _KEY])
        self._windows = slots // WINDOW
        self._mine = threading.Lock()

    def spend(self, value: bytes, until: int, now: int) -> Spent:
        """As authn.once.Once has it."""
        digest = hashlib.blake2b(value, key=self._secret, digest_size=_TAG + 8).digest()
        tag, window = digest[:_TAG], int.from_bytes(digest[_TAG:], "little") % self._windows
        with self._alone(window) as alone:
            return self._spend(tag, _HEADER + window * WINDOW * _SLOT, until, now) if alone else Spent.UNKNOWN

    def _spend(self, tag: bytes, start: int, until: int, now: int) -> Spent:
        slots = self._map[start : start + WINDOW * _SLOT]
        ends = _ENDS.unpack(slots)
        at = slots.find(tag)
        while at >= 0:
            if at % _SLOT == 0 and ends[at // _SLOT] > now:
                return Spent.BEFORE
            at = slots.find(tag, at + 1)
        for number, end in enumerate(ends):
            if end <= now:
                place = start + number * _SLOT
                self._map[place : place + _SLOT] = tag + until.to_bytes(4, "little")
                return Spent.NOW
        return Spent.UNKNOWN

    @contextlib.contextmanager
    def _alone(self, window: int) -> Iterator[bool]:
        """Hold the window against other threads and processes; False where a process that has it does not let go."""
        with self._mine:
            for _ in range(_TRIES):
                try:
                    fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, window)
                except OSError:
                    time.sleep(_PAUSE_SECONDS)
                else:
                    break
            else:
                yield False
                return
            try:
                yield True
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, window)
