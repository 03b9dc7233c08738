"""The configured store, opened: the one place that knows which kind it is.

Law: a worker always reads a local file, so that no other machine can slow or
end it; sharing happens beside. Non-goal: reading it (reader.py).
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ext_authz.state import StoreError
from ext_authz.state.replica import ReplicaStore
from ext_authz.state.replicator import Replicator
from ext_authz.state.settings import StateSettings
from ext_authz.state.sqlite import FILE_NAME, SqliteStore

if TYPE_CHECKING:
    from ext_authz.state.redis_shelf import RedisShelf

MIN_SECRET_BYTES: Final = 32


def open_store(settings: StateSettings, run_dir: Path, *, create: bool = False) -> SqliteStore:
    """Open the store in `run_dir`. Raises StoreError."""
    kind = SqliteStore if settings.backend == "sqlite" else ReplicaStore
    return kind(run_dir / FILE_NAME, create=create)


def open_replicator(settings: StateSettings, run_dir: Path) -> Replicator | None:
    """Return what keeps the store in `run_dir` and the shared log together, not started; None where nothing is shared.

    Raises StoreError: a secret that is too short or that others can read, an optional library that is not installed.
    """
    if settings.url is None:
        return None
    from ext_authz.state.redis import RedisLog

    url = settings.url.get_secret_value()
    ca_file = str(settings.ca_file) if settings.ca_file is not None else ""
    if settings.secret_file is None and not settings.unsafe_unauthenticated:
        raise StoreError("`state.secret_file` is missing")  # the settings say so first
    secret = _secret(settings.secret_file) if settings.secret_file is not None else None
    RedisLog(url, secret=secret, ca_file=ca_file).close()  # says now what is missing; connects to nothing
    return Replicator(lambda: ReplicaStore(run_dir / FILE_NAME), lambda: RedisLog(url, secret=secret, ca_file=ca_file))


def open_shelf(settings: StateSettings) -> Callable[[], "RedisShelf"] | None:
    """Return what opens the place where hosts tell each other what passes; None where there is no fleet with a secret.

    Raises StoreError as `open_replicator` does.
    """
    if settings.url is None or settings.secret_file is None:
        return None
    from ext_authz.state.redis_shelf import RedisShelf

    url, secret = settings.url.get_secret_value(), _secret(settings.secret_file)
    ca_file = str(settings.ca_file) if settings.ca_file is not None else ""
    return lambda: RedisShelf(url, secret=secret, ca_file=ca_file)


def fleet_key(settings: StateSettings, purpose: str) -> bytes:
    """Return a key of 32 bytes that all hosts have in common, b"" where there is no fleet with a secret.

    HKDF-SHA-256 (RFC 5869) of the secret; `purpose` tells keys apart. Raises StoreError.
    """
    if settings.url is None or settings.secret_file is None:
        return b""
    info = b"ext_authz.fleet/1 " + purpose.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(_secret(settings.secret_file))


def _secret(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            secret = file.read(1 << 16)
    except OSError as error:
        raise StoreError(f"`state.secret_file` {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise StoreError(f"`state.secret_file` {path}: others can read it (chmod 600)")
    if len(secret) < MIN_SECRET_BYTES:
        raise StoreError(f"`state.secret_file` {path}: fewer than {MIN_SECRET_BYTES} bytes")
    return secret
