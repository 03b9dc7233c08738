"""Trails for tests: logs written and read under one key in memory, no sidecar needed."""

import errno
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ext_authz.audit.reader import Entry, Trail
from ext_authz.audit.segment import Kind
from ext_authz.audit.signing import FileSigner
from ext_authz.audit.spool import Spool
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.envelope.keys.keyring import create_keyring
from ext_authz.envelope.keys.memory import MemoryKey

KEYS = MemoryKey("tests")
SIGNER = FileSigner(Ed25519PrivateKey.generate())
EVERYTHING = tuple(Kind)


def open_key() -> MemoryKey:
    return KEYS


def new_spool(directory: Path, name: str = "worker-0", **options) -> Spool:
    return Spool.create(directory, name, **{"keys": KEYS, "signer": SIGNER, **options})


def fail_one_sync(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the next fdatasync fail and those behind it not; return the descriptors that are asked for."""
    real, calls = os.fdatasync, []

    def once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", once)
    return calls


def trail(*paths: Path, **options) -> Trail:
    return Trail(paths, open_key, **options)


def entries(*paths: Path, kinds=(Kind.EVENT,)) -> list[Entry]:
    found = trail(*paths, kinds=kinds)
    got = list(found.entries())
    assert found.damaged == 0, found.problems
    return got


def lines(*paths: Path) -> list[bytes]:
    """Return the events as recorded, in order of time."""
    return [entry.line for entry in entries(*paths)]


def write_log(directory: Path, events: list[bytes], name: str = "worker-0", **options) -> Path:
    """Write a log of these lines and return its folder."""
    spool = new_spool(directory, name, **options)
    for event in events:
        spool.append(lambda _, line=event: line)
    spool.close()
    return directory


def keyring(folder: Path) -> Path:
    """Make the keyring that the server would make beside a configuration in `folder`; return its path."""
    path = folder / "audit.key"
    if not path.exists():
        create_keyring(path, keyring_id=b"12345678", key=bytes(range(32)), now=0)
    return path


def run_spool(folder: Path, name: str = "worker-0", **options) -> Spool:
    """Begin a log in `folder`/run as a server with a configuration in `folder` does."""
    return new_spool(folder / "run" / "audit", name, keys=FileKeys.load(keyring(folder)), **options)


def write_run(folder: Path, events: list[bytes]) -> Path:
    """Write these lines as the trail of `folder`/run; return the segment."""
    spool = run_spool(folder)
    for event in events:
        spool.append(lambda _, line=event: line)
    spool.close()
    return spool._part.path
