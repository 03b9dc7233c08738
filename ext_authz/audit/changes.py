"""Changes of the shared state to audit events, each exactly once.

Law: the trail itself remembers which changes it has, so neither a crash nor
changes made while the server was down lose or double an event.
Non-goal: acting on changes (every worker reads the store itself).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.audit.cursor import replace_file
from ext_authz.audit.event import STATE, state_event
from ext_authz.audit.spool import AuditUnavailable, Spool
from ext_authz.audit.trail import segments
from ext_authz.state import Store, StoreError

PAGE: Final = 256
_FILE: Final = "state-changes.json"
_NEEDLE: Final = f'"{STATE}"'.encode()


class StateRecorder:
    """Follows a store and appends an event for each change to `spool` (the control process's).

    `open_store` is called again after every failure. One process, one thread.
    """

    def __init__(
        self, open_store: Callable[[], Store], spool: Spool, *, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.recorded = 0
        self.last_error = ""
        self._open_store = open_store
        self._spool = spool
        self._clock_ns = clock_ns
        self._store: Store | None = None
        self._version: object = None
        self._cursor = spool.directory / "cursors" / _FILE
        self._done = self._recover()

    def poll(self) -> bool:
        """Record what is new; return whether store and trail both answered. Never raises."""
        try:
            self._look()
        except (StoreError, AuditUnavailable, OSError) as error:
            self.last_error = str(error)
            self.close()
            return False
        self.last_error = ""
        return True

    def close(self) -> None:
        """Let go of the store."""
        store, self._store, self._version = self._store, None, None
        if store is not None:
            store.close()

    def _look(self) -> None:
        if self._store is None:
            self._store = self._open_store()
        version = self._store.version()
        if version == self._version:
            return
        while True:
            page = self._store.read(0, limit=0)
            store_id = page.store_id
            after = self._done.get(store_id, 0)
            page = self._store.read(after, limit=PAGE)
            if page.store_id != store_id:
                continue
            for change in page.changes:
                self._spool.append(
                    lambda seq, change=change, store=store_id: state_event(  # type: ignore[misc]  # bound early
                        change, store_id=store, log_id=self._spool.log_id, seq=seq, now_ns=self._clock_ns()
                    )
                )
                self._done[store_id] = change.id
                self.recorded += 1
            if page.changes:
                self._save()
            if len(page.changes) < PAGE:
                break
        self._version = version

    def _save(self) -> None:
        # The cursor must not lead the trail, so the events are durable first.
        if not self._spool.sync():
            raise AuditUnavailable("the events of state changes are not durable yet")
        self._cursor.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(self._cursor, orjson.dumps(self._done, option=orjson.OPT_SORT_KEYS))

    def _recover(self) -> dict[str, int]:
        done: dict[str, int] = {}
        try:
            found = orjson.loads(self._cursor.read_bytes())
            done = {str(store): int(number) for store, number in found.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            done = {}
        for store, number in recorded_changes(self._spool.directory):
            done[store] = max(done.get(store, 0), number)
        return done


def recorded_changes(directory: Path) -> list[tuple[str, int]]:
    """Return (store, change) of every state event in the trail of control processes. Raises OSError."""
    found: list[tuple[str, int]] = []
    for segment in segments(directory):
        if segment.writer.startswith("worker"):
            continue
        with segment.path.open("rb") as file:
            events = (event for line in file if _NEEDLE in line and (event := _event(line)) is not None)
            found.extend((event["store"], event["change"]) for event in events)
    return found


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = orjson.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or event.get("schema") != STATE or not line.endswith(b"\n"):
        return None
    if type(event.get("store")) is not str or type(event.get("change")) is not int:
        return None
    return event
