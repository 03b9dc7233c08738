"""The thread that keeps a worker's `State` fresh.

Law: whatever happens to the store, the last state stays and ages; a reader
never raises and a check never waits for it. Non-goal: writing.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ext_authz.state import DEFAULT_MAX_AGE_NS, State, Store
from ext_authz.state.book import Book

POLL_SECONDS: Final = 0.25
_UNKNOWN: Final = object()


class StateReader:
    """Looks at a store every `interval` seconds and publishes `state`, one frozen value at a time.

    `open_store` is called in the thread that polls, again after every failure.
    `clock_ns` is the machine clock in Unix nanoseconds. Until the first
    successful look the state is older than any age: approvals and risk are unknown.
    `contact_ns` says when what other hosts recorded was last known to be in the
    store; the state is as old as that.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        *,
        max_age_ns: int | None = DEFAULT_MAX_AGE_NS,
        interval: float = POLL_SECONDS,
        clock_ns: Callable[[], int] = time.time_ns,
        contact_ns: Callable[[], int] | None = None,
    ) -> None:
        self.state = State(read_at_ns=-(1 << 62), max_age_ns=max_age_ns)
        self.failures = 0
        self.last_error = ""
        self.replaced = 0
        self._open_store = open_store
        self._max_age_ns = max_age_ns
        self._interval = interval
        self._clock_ns = clock_ns
        self._contact_ns = contact_ns
        self._store: Store | None = None
        self._store_id = ""
        self._seen: object = _UNKNOWN
        self._book = Book()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def current(self) -> State:
        """Return the state as last read."""
        return self.state

    @property
    def ready(self) -> bool:
        """Whether the store was read at least once: a worker serves nothing before."""
        return self._seen is not _UNKNOWN

    def poll(self) -> bool:
        """Look once; return whether it went well. Never raises: a failure is counted and the store opened anew."""
        try:
            self._look()
        except Exception as error:  # noqa: BLE001  an outage of whatever kind leaves the last state standing
            self.failures += 1
            self.last_error = str(error) or type(error).__name__
            self._close()
            return False
        self.last_error = ""
        return True

    def _look(self) -> None:
        now_ns = self._clock_ns()
        if self._contact_ns is not None:
            now_ns = min(now_ns, self._contact_ns())
        if self._store is None:
            self._store = self._open_store()
            version = self._store.version()
        else:
            version = self._store.version()
            if version == self._seen:
                self.state = replace(self.state, read_at_ns=now_ns)
                return
        page = self._store.read(self._book.last_id)
        book = self._book
        if self._store_id and (page.store_id != self._store_id or page.last_id < book.last_id):
            # Another store stands here, or an older copy of it: it is read from its beginning.
            self.replaced += 1
            book = Book()
            page = self._store.read(0)
        elif page.changes:
            book = book.copy()
        for change in page.changes:
            book.apply(change)
        self.state = book.state(now_ns, self._max_age_ns)
        self._book, self._store_id, self._seen = book, page.store_id, version

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except Exception as error:  # noqa: BLE001  it is being thrown away
                self.last_error = str(error)

    def start(self) -> None:
        """Poll once here, then go on in a daemon thread."""
        if self._thread is not None:
            raise RuntimeError("the reader was started before")
        self.poll()
        self._thread = threading.Thread(target=self._run, name="state-reader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.poll()

    def stop(self) -> None:
        """End the thread and close the store; the last state stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._close()
