"""The thread that carries changes between the local store and the log that all hosts share.

Law: every row reaches every host, whatever is down for how long; nothing is
forgotten when the shared log forgets; no check and no local change waits for
it. Non-goal: order (replica.py sees to that).
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ext_authz.state.replica import ReplicaStore, Row

WAIT_MS: Final = 200
"""How long one look waits for rows of others: as long as a local change may wait to be given to them."""
PAGE: Final = 256
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0)


class SharedLog(Protocol):
    """What hosts share: an append-only list of rows at places 1, 2, 3, …; every method may raise StoreError."""

    refused: int

    def name(self) -> str:
        """Return the log's name, made where it has none yet."""
        ...

    def renamed(self, known: str) -> str:
        """Give the log another name unless somebody else did since it was `known`; return its name."""
        ...

    def at(self, place: int) -> str:
        """Return the origin of the row at `place`, "" where there is none."""
        ...

    def give(self, log: str, rows: Sequence[Row]) -> int | None:
        """Add those rows that are not in the log; return how many, None where the log has another name by now."""
        ...

    def take(self, after: int, limit: int, wait_ms: int) -> list[tuple[int, Row | None]]:
        """Return up to `limit` rows after `after`, waiting up to `wait_ms` for the first."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Replicator:
    """Keeps one host's ReplicaStore and the shared log together; several processes of a host may each run one."""

    def __init__(
        self,
        open_store: Callable[[], ReplicaStore],
        open_log: Callable[[], SharedLog],
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.contact_ns = -(1 << 62)
        self.failures = 0
        self.refused = 0
        self.last_error = ""
        self._open_store = open_store
        self._open_log = open_log
        self._clock_ns = clock_ns
        self._store: ReplicaStore | None = None
        self._log: SharedLog | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def contact(self) -> int:
        """Return the machine clock (ns) when everything of the shared log was last known to be here."""
        return self.contact_ns

    def start(self) -> None:
        """Go on in a daemon thread."""
        if self._thread is not None:
            raise RuntimeError("the replicator was started before")
        self._thread = threading.Thread(target=self._run, name="state-replicator", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 3.0) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def sync(self, *, wait_ms: int = 1) -> int:
        """Carry what there is, both ways, once; return how many rows were new here.

        Raises StoreError, and ValueError for a row that this version does not understand: passing over a revocation
        would be worse than an old state.
        """
        store = self._store = self._store or self._open_store()
        log = self._log = self._log or self._open_log()
        name = self._agreed(store, log)
        self._give(store, log, name)
        new = 0
        while True:
            asked_ns = self._clock_ns()
            rows = log.take(store.progress().taken, PAGE, wait_ms)
            if rows:
                new += store.take(name, rows)
            self.refused = log.refused
            if len(rows) < PAGE:
                self.contact_ns = asked_ns
                return new

    def _agreed(self, store: ReplicaStore, log: SharedLog) -> str:
        """Return the log's name once the store follows the log of that name.

        A log that lost its end (a Redis that came back with older data) hands out places a second time: it is renamed,
        so that every host takes all of it anew and gives it back what it lost.
        """
        name = log.name()
        progress = store.progress()
        if progress.log == name and progress.mark and log.at(progress.taken) != progress.mark:
            name = log.renamed(name)
        if progress.log != name:
            store.begin(name)
        return name

    def _give(self, store: ReplicaStore, log: SharedLog, name: str) -> None:
        while True:
            before = store.progress().given
            upto, rows = store.outgoing(PAGE)
            if upto == before:
                return
            if rows and log.give(name, rows) is None:
                return  # renamed meanwhile: the next look follows
            store.give(name, upto)

    def _run(self) -> None:
        in_a_row = 0
        while not self._stop.is_set():
            try:
                self.sync(wait_ms=WAIT_MS)
                in_a_row, self.last_error = 0, ""
            except Exception as error:  # noqa: BLE001  an outage of whatever kind; the rows wait where they are
                self.failures += 1
                self.last_error = str(error) or type(error).__name__
                self.drop()
                self._stop.wait(_PAUSES[min(in_a_row, len(_PAUSES) - 1)])
                in_a_row += 1
        self.drop()

    def drop(self) -> None:
        """Let go of both; the next look opens them anew."""
        for each in (self._log, self._store):
            if each is not None:
                try:
                    each.close()
                except Exception as error:  # noqa: BLE001  it is being thrown away
                    self.last_error = str(error)
        self._log = self._store = None
