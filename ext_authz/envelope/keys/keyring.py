"""The keyring file: several versions of one key-encryption key, one of them current.

Law: it is read only where nobody else could have read or written it, no message repeats what stands in it, and a
change is whole or not made. Non-goal: wrapping (file.py).
"""

import base64
import binascii
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.envelope.files import exposed, replacing

SCHEMA: Final = "ext_authz.keyring/1"
KEY_BYTES: Final = 32
ID_BYTES: Final = 8
_MAX_BYTES: Final = 2**20
_MAX_VERSION: Final = 2**31
_ID = re.compile(r"[0-9a-f]{16}\Z")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")


@dataclass(frozen=True, slots=True, repr=False)
class Version:
    """One version: 32 bytes of key, and when it was made (RFC 3339)."""

    key: bytes
    created: str


@dataclass(frozen=True, slots=True, repr=False)
class Keyring:
    """A keyring; `versions` is not empty and holds `current`."""

    id: str
    current: int
    versions: Mapping[int, Version]

    def text(self) -> str:
        """Return the file's text."""
        keys = [
            {"version": number, "created": each.created, "key": base64.b64encode(each.key).decode()}
            for number, each in sorted(self.versions.items())
        ]
        return json.dumps({"schema": SCHEMA, "id": self.id, "current": self.current, "keys": keys}, indent=2) + "\n"


def parse_keyring(text: str) -> Keyring:
    """Read a keyring's text. Raises ValueError that says what is wrong and repeats nothing of it."""
    try:
        plain = json.loads(text, object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("is not JSON") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON (line {error.lineno}, column {error.colno})") from None
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise ValueError(f"is not a keyring (no `schema: {SCHEMA}`)")
    if set(plain) != {"schema", "id", "current", "keys"}:
        raise ValueError("has other keys than `schema`, `id`, `current` and `keys`")
    if not isinstance(plain["id"], str) or not _ID.match(plain["id"]):
        raise ValueError("`id` is not 16 hexadecimal digits")
    if not isinstance(plain["keys"], list):
        raise ValueError("`keys` is not a list")  # noqa: TRY004  what is wrong with a file is a ValueError
    versions: dict[int, Version] = {}
    for index, item in enumerate(plain["keys"]):
        number, version = _version(item, index)
        if number in versions or any(version.key == other.key for other in versions.values()):
            raise ValueError(f"`keys[{index}]` is there twice")
        versions[number] = version
    current = plain["current"]
    if type(current) is not int or current not in versions:
        raise ValueError("`current` is not one of its versions")
    if current != max(versions):
        raise ValueError("`current` is not the newest version")
    return Keyring(plain["id"], current, MappingProxyType(versions))


def _version(item: object, index: int) -> tuple[int, Version]:
    if not isinstance(item, dict) or set(item) != {"version", "created", "key"}:
        raise ValueError(f"`keys[{index}]` does not hold `version`, `created` and `key` alone")
    number, created, encoded = item["version"], item["created"], item["key"]
    if type(number) is not int or not 0 < number < _MAX_VERSION:
        raise ValueError(f"`keys[{index}].version` is not a whole number above 0")
    if not isinstance(created, str) or not _TIME.match(created):
        raise ValueError(f"`keys[{index}].created` is not a time such as `2026-11-23T10:00:00Z`")
    try:
        key = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES or base64.b64encode(key).decode() != encoded or not any(key):
        raise ValueError(f"`keys[{index}].key` is not {KEY_BYTES} bytes in base64")
    return number, Version(key, created)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("has a key twice")
    return made


def _refuse(_: str) -> None:
    raise ValueError("has a number that is not whole")


def read_keyring(path: Path) -> Keyring:
    """Read the keyring; raises KeyUnavailableError, also where it is not this user's (or root's) alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeyUnavailableError(f"cannot read `{path}`: {(error.strerror or 'failed').lower()}") from None
    try:
        problem = exposed(os.fstat(descriptor), path)
        raw = b"" if problem else os.read(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if problem:
        raise KeyUnavailableError(f"`{path}` {problem}")
    try:
        if len(raw) > _MAX_BYTES:
            raise ValueError(f"is larger than {_MAX_BYTES} bytes")  # noqa: TRY301  one way to say what is wrong
        return parse_keyring(raw.decode())
    except UnicodeDecodeError:
        raise KeyUnavailableError(f"`{path}` is not UTF-8 text") from None
    except ValueError as error:
        raise KeyUnavailableError(f"`{path}` {error}") from None


def create_keyring(path: Path, *, keyring_id: bytes, key: bytes, now: int) -> Keyring:
    """Make a keyring of one version (0600). `now` in Unix seconds. Raises FileExistsError, OSError."""
    made = Keyring(keyring_id.hex(), 1, {1: Version(key, _moment(now))})
    with replacing(path, overwrite=False) as file:
        file.write(made.text().encode())
    return made


def rotate_keyring(path: Path, *, key: bytes, now: int) -> Keyring:
    """Add a version and make it current. Raises KeyUnavailableError, OSError."""
    with _changing(path) as (old, save):
        number = old.current + 1
        return save(Keyring(old.id, number, {**old.versions, number: Version(key, _moment(now))}))


def remove_version(path: Path, number: int) -> Keyring:
    """Take a version out for good: what it wrapped can never be read again.

    Raises ValueError for the current version and for one that is not there, KeyUnavailableError, OSError.
    """
    with _changing(path) as (old, save):
        if number not in old.versions:
            raise ValueError(f"`{path}` has no version {number}")
        if number == old.current:
            raise ValueError(f"version {number} is the current one; rotate first")
        return save(Keyring(old.id, old.current, {n: v for n, v in old.versions.items() if n != number}))


class _Save:
    """Writes the changed keyring over the old one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, made: Keyring) -> Keyring:
        with replacing(self.path) as file:
            file.write(made.text().encode())
        return made


@contextmanager
def _changing(path: Path) -> Iterator[tuple[Keyring, _Save]]:
    """Yield the keyring and what saves it; one process at a time, by a lock on the folder."""
    real = path.resolve()
    folder = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield read_keyring(real), _Save(real)
    finally:
        os.close(folder)


def _moment(now: int) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
