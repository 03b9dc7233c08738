"""The folder that holds state and audit trail: ours alone.

Law: nobody but its owner may write it, since who writes it can approve,
un-revoke and forge the trail; it is created 0700.
Non-goal: what is inside.
"""

import os
import stat
from pathlib import Path
from typing import Final

from ext_authz.authn.remote import NOTHING_FETCHED, Fetched
from ext_authz.config.load import reason
from ext_authz.documents import Diagnostic, DocumentError, Mark

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_ROOT: Final = 0
KEPT_KEYS: Final = "keys.json"
_MAX_KEPT_BYTES: Final = 64 * 2**20


def prepare_run_dir(path: Path, mark: Mark | None = None) -> None:
    """Create `path` (0700) where it is missing. Raises DocumentError when it cannot be used."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise DocumentError([Diagnostic(mark, f"`run_dir` {path} is not a directory")]) from None
    except OSError as error:
        raise DocumentError([Diagnostic(mark, f"cannot create `run_dir` {path}: {reason(error)}")]) from None
    problem = run_dir_problem(path)
    if problem:
        raise DocumentError([Diagnostic(mark, problem)])


def run_dir_problem(path: Path) -> str | None:
    """Say why `path` cannot be trusted with state and audit trail; None where it can, or does not exist yet."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot use `run_dir` {path}: {reason(error)}"
    if not stat.S_ISDIR(found.st_mode):
        return f"`run_dir` {path} is not a directory"
    if found.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(found.st_mode)
        return f"`run_dir` {path} can be written by others (mode {mode:04o}): chmod go-w it, or name another"
    if found.st_uid not in (os.geteuid(), _ROOT):
        return f"`run_dir` {path} belongs to another user (uid {found.st_uid})"
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return f"`run_dir` {path} cannot be written by this user"
    return None


def kept_keys(path: Path) -> Fetched:
    """Return the fetched keys that a server keeps in the run_dir `path`; none where there is no good file."""
    if run_dir_problem(path) is not None:
        return NOTHING_FETCHED
    try:
        with (path / KEPT_KEYS).open("rb") as file:
            return Fetched.from_bytes(file.read(_MAX_KEPT_BYTES))
    except (OSError, ValueError):
        return NOTHING_FETCHED
