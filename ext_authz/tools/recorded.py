"""The state as the store of a `run_dir` has it now, whether a server runs or not.

Law: reading creates nothing; where there is no store nothing is recorded.
"""

from pathlib import Path

from ext_authz.state import EMPTY_STATE, State
from ext_authz.state.book import read_book
from ext_authz.state.sqlite import FILE_NAME, SqliteStore


def recorded_state(run_dir: Path, now_ns: int) -> State:
    """Return the state as of `now_ns` (Unix nanoseconds), never too old. Raises StoreError."""
    file = run_dir / FILE_NAME
    if not file.exists():
        return EMPTY_STATE
    store = SqliteStore(file)
    try:
        return read_book(store).state(now_ns, None)
    finally:
        store.close()
