"""The store of one host: an append-only table in `run_dir/state.db`.

Law: a change is on the disk when `append` returns, rows are never altered, and
a damaged, foreign or missing file is a StoreError, never an empty answer.
Non-goal: several hosts.
"""

import contextlib
import json
import os
import sqlite3
import stat
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ext_authz.state import Page, StoreError
from ext_authz.state.changes import Change, from_record

FILE_NAME: Final = "state.db"
APPLICATION_ID: Final = 0x45415A31  # "EAZ1"
BUSY_TIMEOUT_MS: Final = 5_000

_SCHEMA: Final = """
CREATE TABLE store (id TEXT NOT NULL);
CREATE TABLE changes (id INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
CREATE TRIGGER changes_are_never_altered BEFORE UPDATE ON changes BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER changes_are_never_removed BEFORE DELETE ON changes BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


class SqliteStore:
    """One connection to the database; every method is safe to call from several threads of one process.

    `create` makes the file (0600) where it is missing; a reader leaves it off,
    so that a file taken away is noticed and not replaced by an empty one.
    Raises StoreError when the file is missing, others can write it, or it is no store.
    """

    def __init__(self, path: Path, *, create: bool = False, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._appended = 0
        with as_store_error(path):
            if create:
                _create_file(path)
            self._file = _identity(path)
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=busy_timeout_ms / 1000,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._open(create=create)
            except BaseException:
                self._db.close()
                raise

    def _open(self, *, create: bool) -> None:
        # A rollback journal, not a WAL: writes are rare, and SQLite 3.7.0-3.51.2 can corrupt a WAL database
        # that several processes write or checkpoint at once ("WAL-reset bug"; Debian 12 ships 3.40.1).
        self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.execute("PRAGMA synchronous = EXTRA")
        self._db.execute("PRAGMA trusted_schema = OFF")
        self._db.execute("PRAGMA cell_size_check = ON")
        if create:
            with self._transaction("IMMEDIATE"):
                if (
                    self._db.execute("PRAGMA application_id").fetchone() == (0,)
                    and not self._db.execute("SELECT 1 FROM sqlite_schema").fetchone()
                ):
                    for statement in _SCHEMA.strip().split("\n"):
                        self._db.execute(statement)
                    self._db.execute("INSERT INTO store VALUES (?)", (uuid.uuid4().hex,))
                    self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        if self._db.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise StoreError(f"{self.path}: not a state store of this program")

    def append(self, change: Change) -> Change:
        """Store `change` durably and return it with its id. Raises ValueError when it makes no sense."""
        problem = change.problem()
        if problem is not None:
            raise ValueError(problem)
        record = json.dumps(change.record(), sort_keys=True, ensure_ascii=False)
        with self._lock, as_store_error(self.path):
            self._check()
            with self._transaction("IMMEDIATE"):
                row = self._db.execute("INSERT INTO changes (record) VALUES (?)", (record,)).lastrowid
            self._appended += 1
        return replace(change, id=int(row or 0))

    def read(self, after_id: int, limit: int | None = None) -> Page:
        """Return the changes after `after_id`, oldest first, at most `limit` of them.

        Raises StoreError also for a row that this version does not understand:
        passing over a revocation would be worse than an old state.
        """
        with self._lock, as_store_error(self.path):
            self._check()
            with self._transaction("DEFERRED"):
                store_id = str(self._db.execute("SELECT id FROM store").fetchone()[0])
                last_id = int(self._db.execute("SELECT coalesce(max(id), 0) FROM changes").fetchone()[0])
                rows = self._db.execute(
                    "SELECT id, record FROM changes WHERE id > ? ORDER BY id LIMIT ?",
                    (after_id, -1 if limit is None else limit),
                ).fetchall()
        changes = []
        for row_id, record in rows:
            try:
                changes.append(from_record(json.loads(record), row_id))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise StoreError(f"{self.path}: change {row_id}: {error}") from None
        return Page(store_id, last_id, tuple(changes))

    def version(self) -> object:
        """Return a value that changes with every commit of anybody, and when the file was replaced."""
        with self._lock, as_store_error(self.path):
            self._check()
            return self._db.execute("PRAGMA data_version").fetchone()[0], self._appended

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError(f"{self.path}: opened by another process")
        if _identity(self.path) != self._file:
            raise StoreError(f"{self.path}: the file was replaced")

    @contextlib.contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise


def _create_file(path: Path) -> None:
    """Make the file with mode 0600 where it is missing.

    An existing one is not opened: closing any descriptor of a database drops
    this process's locks on it (SQLite "How To Corrupt" 2.2).
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _identity(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: not a regular file")
    if found.st_mode & 0o022:
        raise StoreError(f"{path}: others can write it (chmod 600)")
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def as_store_error(path: Path) -> Iterator[None]:
    """Raise what SQLite and the file system raise as StoreError, with the file named."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StoreError(f"{path}: {text}") from error
