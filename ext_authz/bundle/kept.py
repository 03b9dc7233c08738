"""The bundle in force on the disk, and the newest revision that was ever believed here: `run_dir/bundle/`.

Law: what is remembered never goes back, is durable before a bundle is used, and one that cannot be read is an
error, not a clean start. Non-goal: believing anything: what is read here is verified again.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ext_authz.bundle.problems import BundleError, Problem
from ext_authz.bundle.trust import Believed, Bundle

FOLDER: Final = "bundle"
ARCHIVE: Final = "bundle.tar.gz"
BELIEVED: Final = "believed.json"
LOCK: Final = "lock"
_MAX_BELIEVED_BYTES: Final = 64 * 1024
_MAX_REVISIONS: Final = 64


def archive_path(run_dir: Path) -> Path:
    """Return where the bundle in force is kept."""
    return run_dir / FOLDER / ARCHIVE


def read_archive(run_dir: Path, limit: int) -> bytes | None:
    """Return the bytes of the bundle that was last in force, None where there is none. Raises BundleError."""
    try:
        with archive_path(run_dir).open("rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_kept(f"cannot read {archive_path(run_dir)}: {_reason(error)}") from None


def read_believed(run_dir: Path, name: str) -> Believed | None:
    """Return what is remembered of the bundle `name`; None on a clean state. Raises BundleError for a damaged file."""
    return _read_all(run_dir).get(name)


def keep(run_dir: Path, archive: bytes, bundle: Bundle) -> None:
    """Put a believed bundle on the disk, and then its revision; durable on return. Raises BundleError.

    Refused where another process kept a newer one meanwhile.
    """
    folder = run_dir / FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder):
            everything = _read_all(run_dir)
            before = everything.get(bundle.manifest.name)
            after = bundle.to_believed()
            if before is not None and before.keys & after.keys and before.revision > after.revision:
                raise BundleError(
                    Problem.ROLLBACK,
                    f"its revision {after.revision} is older than {before.revision}, which was in force here",
                )
            everything.pop(bundle.manifest.name, None)
            everything[bundle.manifest.name] = after
            # The archive first: stopped in between, the remembered revision is below it and not above it.
            _write(folder / ARCHIVE, archive)
            _write(folder / BELIEVED, _to_bytes(everything))
    except OSError as error:
        raise _not_kept(f"cannot keep it in {folder}: {_reason(error)}") from None


def remember(run_dir: Path, bundle: Bundle) -> None:
    """Bring what is remembered up to the bundle on the disk, where an end by force came between the two writes.

    Else that bundle would be in force and an older one be believed after it. On a clean state there is nothing to do.
    Raises BundleError.
    """
    folder, name = run_dir / FOLDER, bundle.manifest.name
    before = read_believed(run_dir, name)
    if before is None or before.revision >= bundle.manifest.revision:
        return
    try:
        with _locked(folder):
            everything = _read_all(run_dir)
            before = everything.pop(name, None)
            if before is not None and before.revision < bundle.manifest.revision:
                _write(folder / BELIEVED, _to_bytes({**everything, name: bundle.to_believed()}))
    except OSError as error:
        raise _not_kept(f"cannot keep its revision in {folder}: {_reason(error)}") from None


def _read_all(run_dir: Path) -> dict[str, Believed]:
    path = run_dir / FOLDER / BELIEVED
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BELIEVED_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _not_kept(f"cannot read {path}: {_reason(error)}") from None
    try:
        plain = json.loads(data)
        return {
            str(name): Believed(int(row["revision"]), str(row["digest"]), frozenset(map(str, row["keys"])))
            for name, row in plain.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _not_kept(
            f"{path} is damaged, so it cannot be said whether a bundle is older than one before; remove the file to "
            "start afresh with what the server has now"
        ) from None


def _to_bytes(everything: dict[str, Believed]) -> bytes:
    last = dict(list(everything.items())[-_MAX_REVISIONS:])
    plain = {
        name: {"revision": each.revision, "digest": each.digest, "keys": sorted(each.keys)}
        for name, each in last.items()
    }
    return json.dumps(plain).encode("ascii")


def _write(path: Path, data: bytes) -> None:
    """Put the file there whole and durably."""
    draft = path.with_name(path.name + ".new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _not_kept(message: str) -> BundleError:
    return BundleError(Problem.NOT_KEPT, message)
