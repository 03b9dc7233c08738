"""The local copy of a store that several hosts share: a SQLite store that also holds what other hosts recorded.

Law: every host that has taken in the same changes folds them to the same
state, in whatever order they came, and a change made here holds here at once,
shared or not. Non-goal: moving rows between hosts (replicator.py).
"""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ext_authz.state import Page
from ext_authz.state.changes import Change, Kind, from_record
from ext_authz.state.sqlite import BUSY_TIMEOUT_MS, SqliteStore, as_store_error

MAX_AHEAD_NS: Final = 300 * 1_000_000_000
"""A change stamped further ahead of this host's clock than that does not push the clock of later changes."""

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS origins
    (change INTEGER PRIMARY KEY, host TEXT NOT NULL, number INTEGER NOT NULL, repeats INTEGER NOT NULL)""",
    "CREATE UNIQUE INDEX IF NOT EXISTS origins_are_taken_once ON origins (host, number) WHERE repeats = 0",
    """CREATE TABLE IF NOT EXISTS shared (log TEXT NOT NULL, taken INTEGER NOT NULL, mark TEXT NOT NULL,
    given INTEGER NOT NULL, again INTEGER NOT NULL, clock INTEGER NOT NULL)""",
    "INSERT INTO shared SELECT '', 0, '', 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM shared)",
)


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """What names a change for ever, on every host: the store where it was recorded first, and its number there."""

    host: str
    number: int

    def __str__(self) -> str:
        return f"{self.host}:{self.number}"


@dataclass(frozen=True, slots=True)
class Row:
    """One change on its way between hosts; `record` is the JSON text as its author's store has it."""

    origin: Origin
    record: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far this host has got: in which shared log, the last row taken (and its origin), the last row given."""

    log: str
    taken: int
    mark: str
    given: int


class ReplicaStore(SqliteStore):
    """A SqliteStore whose rows may come from other hosts.

    Changes of one key hold in the order of their times, ties by origin. A row that arrives late is followed by
    repetitions of those that come after it in that order, so that the fold ends where it would have, had all come in
    order. So that a change always comes after what its author knew of, an appended one is stamped later than all
    before (Kulkarni et al. 2014, "Logical Physical Clocks").
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = False,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(path, create=create, busy_timeout_ms=busy_timeout_ms)
        self._clock_ns = clock_ns
        self._known: dict[tuple[object, ...], list[tuple[int, Origin, str]]] = {}
        self._known_to = 0
        with self._lock, as_store_error(path), self._transaction("IMMEDIATE"):
            for statement in _TABLES:
                self._db.execute(statement)

    def append(self, change: Change) -> Change:
        """Store `change` durably, stamped after every change before it. Raises ValueError when it makes no sense."""
        problem = change.problem()
        if problem is not None:
            raise ValueError(problem)
        with self._lock, as_store_error(self.path):
            self._check()
            with self._transaction("IMMEDIATE"):
                stamped = replace(change, at_ns=self._next(change))
                row = self._insert(_text(stamped.record()))
                self._advance(stamped.at_ns)
            self._appended += 1
        return replace(stamped, id=row)

    def read(self, after_id: int, limit: int | None = None) -> Page:
        """Return the changes after `after_id` as every store does, with what is known of where they came from."""
        page = super().read(after_id, limit)
        if not page.changes:
            return page
        with self._lock, as_store_error(self.path):
            found = self._db.execute(
                "SELECT change, host, number, repeats FROM origins WHERE change BETWEEN ? AND ?",
                (page.changes[0].id, page.changes[-1].id),
            ).fetchall()
        return replace(
            page,
            origins={change: str(Origin(host, number)) for change, host, number, _ in found},
            repeats=frozenset(change for change, _, _, repeats in found if repeats),
        )

    def progress(self) -> Progress:
        """Return how far this host has got. Raises StoreError."""
        with self._lock, as_store_error(self.path):
            self._check()
            return Progress(*self._db.execute("SELECT log, taken, mark, given FROM shared").fetchone())

    def outgoing(self, limit: int) -> tuple[int, tuple[Row, ...]]:
        """Return the rows that the shared log has not been given, at most `limit`, and the number to report after.

        These are the rows recorded here; and, where the shared log is a new one, those of others too.
        """
        with self._lock, as_store_error(self.path):
            self._check()
            with self._transaction("DEFERRED"):
                own = str(self._db.execute("SELECT id FROM store").fetchone()[0])
                given, again = self._db.execute("SELECT given, again FROM shared").fetchone()
                found = self._db.execute(
                    "SELECT id, record, host, number, repeats FROM changes LEFT JOIN origins ON change = id "
                    "WHERE id > ? ORDER BY id LIMIT ?",
                    (given, limit),
                ).fetchall()
        rows = tuple(
            Row(Origin(own, number) if host is None else Origin(host, foreign), record)
            for number, record, host, foreign, repeats in found
            if host is None or (not repeats and number <= again)
        )
        return (found[-1][0] if found else given), rows

    def give(self, log: str, upto: int) -> None:
        """Remember that the shared log `log` has every row up to `upto`; nothing where another log stands there now."""
        with self._lock, as_store_error(self.path), self._transaction("IMMEDIATE"):
            self._db.execute("UPDATE shared SET given = ? WHERE log = ? AND given < ?", (upto, log, upto))

    def begin(self, log: str) -> None:
        """Turn to the shared log `log`, of which nothing is known yet: everything is taken and given from its start."""
        with self._lock, as_store_error(self.path), self._transaction("IMMEDIATE"):
            if self._db.execute("SELECT log FROM shared").fetchone()[0] != log:
                self._db.execute(
                    "UPDATE shared SET log = ?, taken = 0, mark = '', given = 0, "
                    "again = (SELECT coalesce(max(id), 0) FROM changes)",
                    (log,),
                )

    def take(self, log: str, rows: Sequence[tuple[int, Row | None]]) -> int:
        """Take in rows of the shared log `log`, with their places there; return how many were new.

        None stands for a row that is passed over. Rows that are here already change nothing, so that several
        processes may take in the same. Raises ValueError for a record that this version does not understand.
        """
        with self._lock, as_store_error(self.path):
            self._check()
            with self._transaction("IMMEDIATE"):
                try:
                    taken = self._take(log, rows)
                except BaseException:
                    self._forget()
                    raise
            if taken:
                self._appended += 1
        return taken

    def _take(self, log: str, rows: Sequence[tuple[int, Row | None]]) -> int:
        current, at = self._db.execute("SELECT log, taken FROM shared").fetchone()
        if current != log:
            return 0
        taken = 0
        self._learn()
        for place, row in rows:
            if place <= at:
                continue
            if row is not None and not self._has(row):
                self._import(row)
                taken += 1
            mark = str(row.origin) if row is not None else ""
            self._db.execute("UPDATE shared SET taken = ?, mark = ?", (place, mark))
        return taken

    def _has(self, row: Row) -> bool:
        own = str(self._db.execute("SELECT id FROM store").fetchone()[0])
        if row.origin.host != own:
            query = "SELECT 1 FROM origins WHERE host = ? AND number = ? AND repeats = 0"
            return self._db.execute(query, (row.origin.host, row.origin.number)).fetchone() is not None
        found = self._db.execute(
            "SELECT record FROM changes LEFT JOIN origins ON change = id WHERE id = ? AND host IS NULL",
            (row.origin.number,),
        ).fetchone()
        if found is not None and found[0] == row.record:
            return True
        # The shared log has more of ours than we do: this file is an older copy of itself. A number given a second
        # time would name two changes, and one of them would pass for known everywhere: so from here on rows are
        # recorded under another name, and what had this number comes as from another host.
        self._db.execute(
            "INSERT INTO origins SELECT id, ?, id, 0 FROM changes "
            "WHERE id < ? AND id NOT IN (SELECT change FROM origins)",
            (own, row.origin.number),
        )
        self._db.execute("UPDATE store SET id = ?", (uuid.uuid4().hex,))
        self._db.execute("UPDATE shared SET given = 0, again = (SELECT coalesce(max(id), 0) FROM changes)")
        self._forget()
        self._learn()
        return False

    def _import(self, row: Row) -> None:
        change = from_record(json.loads(row.record), 0)
        self._insert(row.record, row.origin)
        self._learn()
        self._advance(change.at_ns)
        later = sorted(each for each in self._known[_key(change)] if each[:2] > (change.at_ns, row.origin))
        if change.kind is not Kind.APPROVAL:
            later = later[-1:]  # the last of them holds alone; all would be a square of rows after a long time apart
        for _, origin, record in later:
            self._insert(record, origin, repeats=True)

    def _insert(self, record: str, origin: Origin | None = None, *, repeats: bool = False) -> int:
        number = int(self._db.execute("INSERT INTO changes (record) VALUES (?)", (record,)).lastrowid or 0)
        if origin is not None:
            self._db.execute(
                "INSERT INTO origins VALUES (?, ?, ?, ?)", (number, origin.host, origin.number, int(repeats))
            )
        return number

    def _next(self, change: Change) -> int:
        """Return when a change recorded now is made: after all that is known here.

        Of what a host recorded whose clock was far ahead, that is what it is about alone, or the one wrong clock would
        be everybody's.
        """
        clock = int(self._db.execute("SELECT clock FROM shared").fetchone()[0])
        ahead = self._db.execute("SELECT record FROM changes WHERE json_extract(record, '$.at_ns') > ?", (clock,))
        made = (from_record(json.loads(record), 0) for (record,) in ahead)
        same = (each.at_ns for each in made if _key(each) == _key(change))
        return max(change.at_ns, clock + 1, 1 + max(same, default=0))

    def _forget(self) -> None:
        """Unlearn: what was learned may be rolled back."""
        self._known, self._known_to = {}, 0

    def _advance(self, at_ns: int) -> None:
        if at_ns <= self._clock_ns() + MAX_AHEAD_NS:
            self._db.execute("UPDATE shared SET clock = max(clock, ?)", (at_ns,))

    def _learn(self) -> None:
        """Look through the rows that came since the last look, by what they are about."""
        own = str(self._db.execute("SELECT id FROM store").fetchone()[0])
        rows: Iterable[tuple[int, str, str | None, int, int]] = self._db.execute(
            "SELECT id, record, host, number, repeats FROM changes LEFT JOIN origins ON change = id "
            "WHERE id > ? ORDER BY id",
            (self._known_to,),
        )
        for number, record, host, foreign, repeats in rows:
            self._known_to = number
            if not repeats:
                change = from_record(json.loads(record), number)
                origin = Origin(own, number) if host is None else Origin(host, foreign)
                self._known.setdefault(_key(change), []).append((change.at_ns, origin, record))


def _key(change: Change) -> tuple[object, ...]:
    return (change.kind, *change.key)


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, ensure_ascii=False)
