"""Makes bundles: a folder's files to an archive, and signatures onto one.

Law: the same files, name, revision and times give the same bytes; what the
server would refuse is not made. Non-goal: whether the policies load (the command asks wiring).
"""

import os
import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ext_authz.bundle.archive import open_bundle, unverified, write_archive
from ext_authz.bundle.keys import MAX_SIGNATURES, by_id, read_signatures, sign, write_signatures
from ext_authz.bundle.manifest import MANIFEST, SIGNATURES, Manifest, check_paths, entry_of, parse
from ext_authz.bundle.problems import BundleError, Problem
from ext_authz.bundle.trust import Bundle, Limits, Trust

LARGEST: Final = Limits(2**30, 2**30, 100_000)
_FOLDERS: Final = ("policies", "resources")


def collect(folder: Path) -> dict[str, bytes]:
    """Return the files below `folder`/policies and /resources by their path in the bundle. Raises BundleError, OSError.

    A link or a device is an error and not left out: the folder would not be what the bundle says.
    """
    files: dict[str, bytes] = {}
    for top in _FOLDERS:
        for parent, folders, names in os.walk(folder / top, onerror=_stop):
            folders.sort()
            for name in [*folders, *names]:
                path = Path(parent) / name
                inside = path.relative_to(folder).as_posix()
                mode = path.lstat().st_mode
                if name.startswith("."):
                    raise BundleError(Problem.BAD_PATH, f"`{inside}` is hidden")
                if stat.S_ISREG(mode):
                    files[inside] = path.read_bytes()
                elif not stat.S_ISDIR(mode):
                    raise BundleError(Problem.FORBIDDEN_ENTRY, f"`{inside}` is neither a file nor a folder")
    if not files:
        raise BundleError(Problem.MISSING_FILE, f"there is no file below {folder}/policies or {folder}/resources")
    check_paths(sorted(files))
    return dict(sorted(files.items()))


def _stop(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def build(files: dict[str, bytes], name: str, revision: int, created_at: int, expires_at: int) -> bytes:
    """Return an archive that nobody has signed yet. Times are Unix seconds. Raises BundleError."""
    entries = tuple(entry_of(path, data) for path, data in sorted(files.items()))
    manifest = Manifest(name, revision, created_at, expires_at, entries).to_bytes()
    parse(manifest)
    return write_archive([(MANIFEST, manifest), (SIGNATURES, write_signatures({})), *sorted(files.items())])


def add_signature(archive: bytes, private: Ed25519PrivateKey) -> bytes:
    """Return the archive with one signature more (or anew); raises BundleError where its files are not the manifest's.

    Signing proves what is signed: the manifest is read, and every file held against it.
    """
    manifest, signatures, files = unverified(archive)
    name, signature = sign(manifest, private)
    signed = {**read_signatures(signatures), name: signature}
    if len(signed) > MAX_SIGNATURES:
        raise BundleError(Problem.BAD_SIGNATURE, f"it has {MAX_SIGNATURES} signatures already")
    made = write_archive([(MANIFEST, manifest), (SIGNATURES, write_signatures(signed)), *files])
    look(made, [private.public_key()])
    return made


def look(archive: bytes, keys: list[Ed25519PublicKey], *, name: str = "", now: float | None = None) -> Bundle:
    """Verify an archive with these keys: for `name` ("" for any), and as of `now` (None: whether expired or not).

    Raises BundleError.
    """
    wanted = name or parse(unverified(archive)[0]).name
    trust = Trust(by_id(keys), wanted, believed=None, limits=LARGEST)
    return open_bundle(archive, trust, 0 if now is None else now, kept=now is None)
