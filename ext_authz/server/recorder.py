"""Changes of the shared state and the life of the sidecar, as events in the control process's own log.

Law: each change becomes one event, also one made while nothing ran: the trail
itself says which are recorded, and a cursor beside it outlives its retention.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.audit.event import RETENTION, STATE, lifecycle_event, state_event
from ext_authz.audit.reader import Trail
from ext_authz.audit.redact import NOTHING, Redaction
from ext_authz.audit.sealing import OpenKey
from ext_authz.audit.spool import AuditUnavailable, Spool
from ext_authz.audit.trail import Segment, segments
from ext_authz.state import Store

CONTROL: Final = "control"
CURSOR_FILE: Final = "state.cursor"
PAGE: Final = 256
LOGS_TOGETHER: Final = 100


class Recorder:
    """Writes to one spool; used by one thread."""

    def __init__(
        self,
        spool: Spool,
        open_key: OpenKey,
        clock_ns: Callable[[], int] = time.time_ns,
        redaction: Redaction = NOTHING,
    ) -> None:
        self._spool = spool
        self._redaction = redaction
        self._open_key = open_key
        self._clock_ns = clock_ns
        self._seen: dict[str, int] | None = None
        self._version: object = None
        self._version_of: Store | None = None

    def lifecycle(
        self,
        what: str,
        *,
        result: str = "ok",
        details: Mapping[str, Any] | None = None,
        diagnostics: Sequence[str] = (),
    ) -> None:
        """Record a start, stop or reload. Raises AuditUnavailable."""
        log_id, now_ns = self._spool.log_id, self._clock_ns()
        self._spool.append(
            lambda seq: lifecycle_event(
                what,
                log_id=log_id,
                seq=seq,
                now_ns=now_ns,
                result=result,
                details=details,
                diagnostics=diagnostics,
                redaction=self._redaction,
            )
        )

    def removals(self, due: Sequence[Segment]) -> bool:
        """Record which segments are deleted in their time, by log and highest number; False where it cannot be.

        `kept` names those of the logs that go on: one of them that is gone as a whole was not removed in its time.

        Signed and durable at the return: an unsigned event, or one that a power failure takes, excuses no deletion.
        """
        last: dict[str, int] = {}
        for segment in due:
            last[segment.log_id] = max(last.get(segment.log_id, 0), segment.number)
        there = segments(self._spool.directory)
        kept = {each.log_id for each in there if each.number > last.get(each.log_id, each.number)}
        logs, log_id = list(last.items()), self._spool.log_id
        try:
            for at in range(0, len(logs), LOGS_TOGETHER):
                some = dict(logs[at : at + LOGS_TOGETHER])
                details = {"segments": some, "kept": sorted(kept & some.keys())}
                now_ns = self._clock_ns()
                self._spool.append(
                    lambda seq, said=details, now=now_ns: lifecycle_event(  # type: ignore[misc]
                        RETENTION, log_id=log_id, seq=seq, now_ns=now, details=said
                    ),
                    again=True,
                )
        except AuditUnavailable:
            return False
        return self._spool.certify()

    def changes(self, store: Store) -> int:
        """Record every change not yet in the trail; return how many. Raises AuditUnavailable and StoreError."""
        version = store.version()
        # Each connection counts versions for itself: that of one opened anew says nothing of what came in between.
        if version == self._version and store is self._version_of:
            return 0
        if self._seen is None:
            self._seen = recorded(self._spool.directory, self._open_key)
        count = 0
        page = store.read(0, 0)
        store_id = page.store_id
        last = self._seen.get(store_id, 0)
        if last > page.last_id:  # an older copy stands here: what is appended to it takes numbers a second time
            last = self._seen[store_id] = page.last_id
        while last < page.last_id:
            page = store.read(last, PAGE)
            if page.store_id != store_id or not page.changes:
                return count  # another store stands here now: the next look begins with that one
            for change in page.changes:
                if change.id in page.repeats:
                    last = self._seen[store_id] = change.id
                    continue
                log_id, now_ns = self._spool.log_id, self._clock_ns()
                origin = page.origins.get(change.id, "")
                self._spool.append(
                    lambda seq, c=change, o=origin, i=log_id, n=now_ns: state_event(  # type: ignore[misc]
                        c, store_id=store_id, origin=o, log_id=i, seq=seq, now_ns=n, redaction=self._redaction
                    ),
                    again=True,
                )
                last = self._seen[store_id] = change.id
                count += 1
            self._remember()
        self._version, self._version_of = version, store
        return count

    def _remember(self) -> None:
        """Save the cursor after the events are durable; a lost one costs a scan of the trail, never an event."""
        self._spool.sync()
        path = self._spool.directory / CURSOR_FILE
        draft = path.with_suffix(".new")
        with contextlib.suppress(OSError):
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(orjson.dumps(self._seen))
                file.flush()
                os.fsync(fd)
            draft.replace(path)


def recorded(directory: Path, open_key: OpenKey) -> dict[str, int]:
    """Return, by store, the last change that the trail in `directory` has as an event. Raises KeyUnavailableError."""
    seen: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        stored = orjson.loads((directory / CURSOR_FILE).read_bytes())
        if isinstance(stored, dict):
            seen = {str(store): int(change) for store, change in stored.items()}
    logs = [each.path for each in segments(directory) if each.writer == CONTROL and each.path.exists()]
    for entry in Trail(logs, open_key).entries():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if entry.event["schema"] == STATE:
                seen[entry.event["store"]] = max(seen.get(entry.event["store"], 0), int(entry.event["change"]))
    return seen
