"""One writer's log on the disk: what is durable, when a new segment begins, what is signed; appending.py adds events.

Law: after a failed fdatasync a file is never trusted again; sizes in checkpoints never go backwards.
Non-goal: waiting (committer.py), the files themselves (open_segment.py).
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ext_authz.audit.appending import DROPPED, Appender, AuditUnavailable, Limits, error_text
from ext_authz.audit.checkpoint import Signer
from ext_authz.audit.committer import Committer
from ext_authz.audit.event import checkpoint_event, gap_event, lifecycle_event
from ext_authz.audit.ledger import Ledger
from ext_authz.audit.merkle import Range
from ext_authz.audit.open_segment import (
    Blank,
    OpenSegment,
    make_log_id,
    prepare_folder,
    query_key_of,
    reseal,
    trail_bytes,
)
from ext_authz.audit.sealing import DataKeys, OpenKey
from ext_authz.audit.segment import MAX_FRAMES, Kind
from ext_authz.envelope.errors import EnvelopeError
from ext_authz.envelope.keys import KeyProvider

__all__ = ["DROPPED", "AuditUnavailable", "Committer", "Limits", "Spool"]

EXTENDED: Final = 4
"""While no data key is wrapped, a segment grows to this many times its size and age; then nothing is recorded."""
KEY_SECONDS: Final = 1.0
MEASURE_SECONDS: Final = 5.0


class Spool(Appender):
    """The log of one start of one process.

    Everything may be called from any thread of it and nothing from another
    process. `log_id` names the log for ever: `NAME-START-RANDOM`. `query_key`
    is the trail's key for hashes of query strings. `on_look(last)` is called
    at every look after the files, off the check path.
    """

    def __init__(  # noqa: PLR0917  made by `create`
        self, directory: Path, log_id: str, query_key: bytes, keys: DataKeys, ledger: Ledger, limits: Limits
    ) -> None:
        super().__init__(directory, log_id, keys, ledger, limits)
        self.query_key = query_key
        self.on_look: Callable[[bool], None] | None = None
        # Held before the other, for as long as descriptors must not change.
        self._disk_lock = threading.Lock()
        self._measured = -MEASURE_SECONDS
        # Up to here everything is on the disk: the next seq, and the tree of what came before.
        self._durable: tuple[int, Range] = (0, ledger.tree())
        self._number = 0
        self._older: list[OpenSegment] = []
        self._measure()

    @classmethod
    def create(
        cls,
        directory: Path,
        name: str,
        *,
        keys: KeyProvider,
        signer: Signer,
        limits: Limits | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        entropy: Callable[[int], bytes] = os.urandom,
        reopen: OpenKey | None = None,
    ) -> "Spool":
        """Open a new log for the process `name` (`worker-0`, `control`) in `directory`, made 0700 where missing.

        `keys` wraps the data keys: the first two now, which may take seconds. `reopen` gives it anew before each later
        one, for a keyring to be read again. Raises AuditUnavailable when the folder
        cannot be used, others can write it, or no key can be wrapped.
        """
        try:
            problem = prepare_folder(directory)
            if problem:
                raise AuditUnavailable(problem)
            log_id = make_log_id(name, clock_ns(), entropy)
            made = DataKeys(keys, log_id, entropy=entropy, reopen=reopen)
            made.wrap(0)
            made.wrap(1)
            return cls(directory, log_id, query_key_of(directory), made, Ledger(log_id, signer), limits or Limits())
        except OSError as error:
            raise AuditUnavailable(error_text(error, directory)) from error
        except (EnvelopeError, ValueError) as error:
            raise AuditUnavailable(f"{directory}: {error}") from error

    @property
    def key_ready(self) -> bool:
        """Whether the next segment could be begun now, as far as its data key goes."""
        return self.keys.ready(self._number + 1)

    def sync(self) -> bool:
        """Bring everything appended so far to the disk; return whether it is there.

        A failed fdatasync leaves pages marked clean that were never written,
        and the next one succeeds: so everything since the last good one is
        sealed again in a new segment, and only that one counts.
        """
        with self._disk_lock:
            return self._sync()

    def _sync(self) -> bool:
        self.ledger.tree()  # folds what is new before the lock is taken
        with self._lock:
            if self._closed or self._pid != os.getpid():
                return False
            parts = [(part, part.size) for part in (*self._older, self._part)]
            durable = (self.seq, self.ledger.tree())
            if not self._broken and all(part.synced == size for part, size in parts):
                return True
        if not self._broken:
            try:
                for part, size in parts:
                    if part.synced != size:
                        os.fdatasync(part.fd)
            except OSError:
                self.failures += 1
            else:
                with self._lock:
                    for part, size in parts:
                        part.synced = size
                    self._durable = durable
                    self._drop_older()
                return True
        return self._renew()

    def check(self) -> None:
        """Look after the log, off the check path; may take as long as the signer does.

        Notices when the open segment was removed or replaced, measures the
        trail, records a gap that has ended, makes checkpoints that are due, and
        begins a new segment when this one is large or old.
        """
        if self.on_look is not None:
            self.on_look(False)
        with self._disk_lock:
            if self._closed or self._pid != os.getpid():
                return
            self.keys.prepare(self._number + 1)
            self._measure()
            if self._part.missing:
                self._renew()
            if self._broken:
                return
        self._record_gap()
        self._record_rotation()
        if self.ledger.due():
            self._checkpoint("interval")
        if self._rotation_due(1) and not self.rotate() and self._rotation_due(EXTENDED):
            with self._lock:
                self._exhausted = self._trouble = True

    def rotate(self) -> bool:
        """Begin a new segment now; False where no data key is ready or the disk does not take it."""
        if self._pid != os.getpid() or not self.keys.ready(self._number + 1):
            return False
        self._checkpoint("rotation")
        with self._disk_lock:
            if self._closed or self._broken:
                return False
            try:
                blank = Blank.create(self.directory, self.keys, self._number + 1)
            except OSError:
                self.failures += 1
                return False
            self.ledger.tree()  # folds what is new before the lock is taken
            with self._lock:
                try:
                    fresh = self._begin(blank, self.seq, self.ledger.tree(), "rotation")
                except OSError:
                    self.failures += 1
                    return False
                self._older.append(self._part)
                self._part = fresh
                self._number += 1
                self._exhausted = False
        self.keys.prepare(self._number + 1)
        return True

    def certify(self) -> bool:
        """Sign and make durable what was appended so far; whether it is on the disk. As slow as the signer is."""
        self._checkpoint("interval")
        return self.sync()

    def close(self) -> None:
        """Seal the log, make it durable as far as possible and close it; appends fail from now on."""
        if self.on_look is not None and not self._closed:
            self.on_look(True)
        with self._disk_lock:
            if not self._closed and self._pid == os.getpid():
                self._measure()
                with self._lock:
                    self._exhausted = False  # what was missed is recorded also where no key came in time
                self._record_gap()
                self._checkpoint("seal", Kind.SEAL)
            self._sync()
            with self._lock:
                if not self._closed:
                    self._closed = self._trouble = True
                    for part in (*self._older, self._part):
                        part.close()

    def _checkpoint(self, cause: str, kind: Kind = Kind.CHECKPOINT) -> None:
        signed = self.ledger.checkpoint()
        head = signed.checkpoint
        payload = checkpoint_event(signed, cause=cause, seq=head.size, now_ns=time.time_ns())
        self._record(kind, payload, head.size)

    def _record_gap(self) -> None:
        """Put on record how many events are not, once something can be recorded again."""
        count, since = self.missed, self._missed_since
        if not count or self._room <= 0:
            return
        log_id, now_ns = self.log_id, time.time_ns()
        with contextlib.suppress(AuditUnavailable):
            self.append(
                lambda seq: gap_event(count, log_id=log_id, seq=seq, since_ns=since, until_ns=now_ns, now_ns=now_ns),
                again=True,
            )
            with self._lock:
                self.missed -= count

    def _record_rotation(self) -> None:
        """Put on record that data keys are wrapped under another key than before."""
        while (found := self.keys.rotation()) is not None:
            with contextlib.suppress(AuditUnavailable):
                self.append(_rotated(self.log_id, *found, time.time_ns()))

    def _measure(self) -> None:
        """Look how large the trail is; now and then while it is less than half of what it may be."""
        limit, now = self._limits.max_bytes, time.monotonic()
        if self._room > limit // 2 and now < self._measured + MEASURE_SECONDS:
            return
        self._measured = now
        used = trail_bytes(self.directory)
        with self._lock:
            self._room = limit - used

    def _rotation_due(self, times: int) -> bool:
        """Whether the open segment is that many times as large or old as it should get."""
        part, limits = self._part, self._limits
        return part.events > 0 and (
            part.size >= times * limits.segment_bytes
            or time.monotonic() - part.begun >= times * limits.segment_seconds
            or part.counter >= times * (MAX_FRAMES // (2 * EXTENDED))
        )

    def _renew(self) -> bool:
        """Go on in a new segment that begins with what older ones may have lost; True once that is durable."""
        self.keys.wait(self._number + 1, KEY_SECONDS)
        with self._lock:
            seq, tree = self._durable
            fresh: OpenSegment | None = None
            try:
                # It has no name before it has everything: a crash, or the power, leaves all of it or none.
                blank = Blank.create(self.directory, self.keys, self._number + 1, draft=True)
                fresh = self._begin(blank, seq, tree, "rotation")
                reseal((*self._older, self._part), fresh, seq)
                fresh.place()
            except OSError:
                self._broken = self._trouble = True
                self.failures += 1
                if fresh is not None:
                    fresh.remove()
                return False
            self._older.append(self._part)
            self._drop_older()
            self._part = fresh
            self._number += 1
            self._durable = (self.seq, self.ledger.tree())
            self._broken = self._torn = self._exhausted = False
        self.keys.prepare(self._number + 1)
        return True

    def _drop_older(self) -> None:
        for part in self._older:
            part.close()
        self._older = []


def _rotated(log_id: str, before: str, after: str, now_ns: int) -> Callable[[int], bytes]:
    details = {"before": before, "after": after}
    return lambda seq: lifecycle_event("key_rotation", log_id=log_id, seq=seq, now_ns=now_ns, details=details)
