"""A store in memory: the fake beside sqlite.py, and what `explain` and tests read from.

Law: behaves as every store does (tests/contract). Non-goal: durability.
"""

import threading
import uuid
from dataclasses import replace

from ext_authz.state import Page, StoreError
from ext_authz.state.changes import Change


class MemoryStore:
    """A list of changes behind a lock. `fail` makes every call raise StoreError, as an outage does."""

    def __init__(self) -> None:
        self.store_id = uuid.uuid4().hex
        self.fail = ""
        self._changes: list[Change] = []
        self._lock = threading.Lock()

    def append(self, change: Change) -> Change:
        """Store `change` and return it with its id. Raises ValueError when it makes no sense."""
        self._check()
        problem = change.problem()
        if problem is not None:
            raise ValueError(problem)
        with self._lock:
            stored = replace(change, id=len(self._changes) + 1)
            self._changes.append(stored)
        return stored

    def read(self, after_id: int, limit: int | None = None) -> Page:
        """Return the changes after `after_id`, oldest first, at most `limit` of them."""
        self._check()
        with self._lock:
            end = None if limit is None else after_id + limit
            return Page(self.store_id, len(self._changes), tuple(self._changes[after_id:end]))

    def version(self) -> object:
        """Return the number of changes."""
        self._check()
        return len(self._changes)

    def close(self) -> None:
        """Nothing to let go of."""

    def _check(self) -> None:
        if self.fail:
            raise StoreError(self.fail)
