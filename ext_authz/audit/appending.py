"""The open end of a log: an event is sealed and with the operating system when `append` returns.

Law: one `write` per event or batch, whole frames only, contiguous `seq`, no nonce twice; what could not be written
raises AuditUnavailable (or is counted, `on_full: drop`) and leaves no trace. Non-goal: the disk, the next segment
(spool.py).
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ext_authz.audit.event import checkpoint_event
from ext_authz.audit.ledger import Ledger
from ext_authz.audit.merkle import Range
from ext_authz.audit.open_segment import Blank, OpenSegment
from ext_authz.audit.sealing import DataKeys
from ext_authz.audit.segment import MAX_FRAMES, OVERHEAD_BYTES, Kind

DROPPED: Final = -1
"""What `append` returns for an event that was counted instead of recorded (`on_full: drop`)."""
TIGHT: Final = 0.8
"""The share of `max_bytes` from which denials of strangers are coalesced."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_EVENT: Final = int(Kind.EVENT)
MiB: Final = 2**20


class AuditUnavailable(Exception):  # noqa: N818  named as the reason that callers are given
    """The event could not be recorded; nothing of it is in the trail."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large things may get: the trail of all processes and one segment in bytes, a segment's age in seconds."""

    max_bytes: int = 10 * 1024 * MiB
    segment_bytes: int = 64 * MiB
    segment_seconds: float = 86_400.0
    drop: bool = False


class Appender:
    """One log's next event, the open segment that it goes to, and the room that is left.

    `failures` counts writes and syncs that failed, `missed` events that are in no gap event yet. Whoever changes
    which segment is open holds `_lock`. Creating one raises OSError.
    """

    def __init__(self, directory: Path, log_id: str, keys: DataKeys, ledger: Ledger, limits: Limits) -> None:
        self.directory = directory
        self.log_id = log_id
        self.keys = keys
        self.ledger = ledger
        self.seq = 0
        self.failures = 0
        self.missed = 0
        self._limits = limits
        self._lock = threading.Lock()
        self._pid = os.getpid()
        # `_trouble`: at least one of the others, so that an append asks once.
        self._closed = self._torn = self._broken = self._exhausted = self._trouble = False
        self._sealed = False
        self._marked = 0
        self._missed_since = 0
        self._room = limits.max_bytes
        self._slack = int((1 - TIGHT) * limits.max_bytes)
        self._part = self._begin(Blank.create(directory, keys, 0), 0, Range(), "start")

    @property
    def size(self) -> int:
        """Bytes in the open segment."""
        return self._part.size

    @property
    def tight(self) -> bool:
        """Whether the trail is so nearly full that denials of strangers are to be coalesced."""
        return self._room < self._slack

    def append(self, make: Callable[[int], bytes], *, again: bool = False) -> int:
        """Record the line that `make(seq)` returns (without newline) and return its seq, or DROPPED.

        `again`: the caller will try again, so that nothing is dropped, and a failure not counted as missed.
        Raises AuditUnavailable when it is not in the file; whatever `make` raises leaves the log as it was.
        """
        if self._pid != os.getpid():
            raise AuditUnavailable(f"{self.log_id}: the log belongs to another process")
        with self._lock:
            if self._trouble and (why := self._mend()):
                return self._refused(why, full=False, again=again)
            seq, part = self.seq, self._part
            line = make(seq)
            size = len(line) + OVERHEAD_BYTES
            counter = part.counter
            if size > self._room or counter >= MAX_FRAMES:
                return self._refused(f"{self.directory}: `audit.spool.max_bytes` is reached", full=True, again=again)
            part.counter = counter + 1
            frame = part.segment.seal(_EVENT, line, part.size, counter, part.events)
            try:
                written = os.write(part.fd, frame)
            except OSError as error:
                self._tear()
                return self._refused(error_text(error, self.directory), full=error.errno in _FULL, again=again)
            if written != size:
                # The disk is full or a limit was hit in the middle of the frame.
                self._tear()
                return self._refused(f"{self.directory}: short write", full=True, again=again)
            part.size += size
            part.events += 1
            self._room -= size
            self.seq = seq + 1
            self.ledger.add(line)
            return seq

    def append_all(self, makes: Sequence[Callable[[int], bytes]]) -> int:
        """Record several events with one `write` and return how many of them, from the first, are in the log.

        Those behind them are not, and are for the caller to append one at a time, which says why they cannot be.
        Whatever a maker raises leaves the log as it was.
        """
        with self._lock:
            if not makes or self._trouble or self._pid != os.getpid():
                return 0
            part = self._part
            lines = [make(seq) for seq, make in enumerate(makes, self.seq)]
            size = sum(map(len, lines)) + len(lines) * OVERHEAD_BYTES
            if size > self._room or part.counter + len(lines) > MAX_FRAMES:
                return 0
            seal, at, counter, events = part.segment.seal, part.size, part.counter, part.events
            part.counter += len(lines)
            frames = []
            for line in lines:
                frames.append(seal(_EVENT, line, at, counter, events))
                at += len(line) + OVERHEAD_BYTES
                counter += 1
                events += 1
            try:
                written = os.write(part.fd, b"".join(frames))
            except OSError:
                written = 0
            done = len(lines)
            if written != size:
                self.failures += 1
                done = size = 0
                for frame in frames:
                    if written < size + len(frame):
                        break
                    size += len(frame)
                    done += 1
            part.size += size
            self._room -= size
            self.ledger.add_all(lines[:done])
            part.events += done
            self.seq += done
            if done < len(lines):
                # Whole frames stay: a reader may have seen them.
                self._torn = self._trouble = True
                self._cut()
            return done

    def _refused(self, why: str, *, full: bool, again: bool) -> int:
        if not again:
            self._missed_since = self._missed_since if self.missed else time.time_ns()
            self.missed += 1
            if full and self._limits.drop:
                return DROPPED
        raise AuditUnavailable(why)

    def _mend(self) -> str:
        """Bring the file back to whole frames; return why that is not possible, "" where it is."""
        why = ""
        if self._closed:
            why = f"{self.log_id}: the log is closed"
        elif self._broken:
            why = f"{self.directory}: the disk failed"
        elif self._exhausted:
            why = f"{self.log_id}: no data key could be wrapped for too long: {self.keys.last_error}"
        elif self._torn:
            why = self._cut()
        self._trouble = bool(why)
        return why

    def _cut(self) -> str:
        """Cut the file back to whole frames; return why that is not possible, "" where it is."""
        try:
            os.ftruncate(self._part.fd, self._part.size)
        except OSError as error:
            return error_text(error, self.directory)
        self._torn = False
        self._trouble = self._closed or self._broken or self._exhausted
        return ""

    def _tear(self) -> None:
        """Note that the file may end within a frame, and cut it back."""
        self.failures += 1
        self._torn = self._trouble = True
        self._cut()

    def _record(self, kind: Kind, payload: bytes, size: int | None = None) -> bool:
        """Write a frame that is no event; False where it cannot be. Takes the lock.

        A checkpoint of `size` events whose signer took so long that a larger one, or the seal, was there first is none.
        """
        with self._lock:
            late = self._sealed or (size is not None and size < self._marked)
            if self._closed or self._broken or self._torn or late or self._pid != os.getpid():
                return False
            part = self._part
            frame = part.segment.seal(kind, payload, part.size, part.counter, part.events)
            part.counter += 1
            try:
                written = os.write(part.fd, frame)
            except OSError:
                written = 0
            if written != len(frame):
                self._tear()
                return False
            part.size += written
            self._room -= written
            self._sealed = kind is Kind.SEAL
            self._marked = self._marked if size is None else size
            return True

    def _begin(self, blank: Blank, seq: int, tree: Range, cause: str) -> OpenSegment:
        """Begin a segment with its header and a mark of the tree before it. Raises OSError; then its files are gone."""
        made = blank.begin(seq, tree.root())
        try:
            made.put(Kind.MARK, checkpoint_event(self.ledger.mark(tree), cause=cause, seq=seq, now_ns=time.time_ns()))
        except OSError:
            made.remove()
            raise
        self._room -= made.size
        return made


def error_text(error: OSError, directory: Path) -> str:
    """Say what the operating system refused, and where."""
    return f"{error.filename or directory}: {error.strerror or error}"
