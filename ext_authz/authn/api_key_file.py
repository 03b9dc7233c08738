"""The hashed API key file: reading it with every mistake placed, and changing it atomically (0600).

Law: the file never holds a key, and a reader sees the old file or the new one.
Non-goal: authentication (api_key.py) and printing (the command line).
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic_core import PydanticCustomError

from ext_authz.authn.api_key import ApiKey, digest_of, encode_key
from ext_authz.authn.names import bare_problem
from ext_authz.documents import (
    Diagnostic,
    DocumentError,
    MappingNode,
    Mark,
    Node,
    Scalar,
    did_you_mean,
    load,
)
from ext_authz.documents import Sequence as Items
from ext_authz.settings import Network, parse_cidr

_FIELDS: Final = ("id", "subject", "hash", "roles", "org", "cidrs", "created", "expires", "revoked", "note")
_REQUIRED: Final = ("id", "subject", "hash")
_HASH_PREFIX: Final = "sha256:"
_HASH = re.compile(r"sha256:[0-9a-f]{64}\Z")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")
_MAX_TEXT: Final = 256
_HEAD: Final = "# Kept by `ext-authz apikey`: hashes of API keys, no keys. Comments are not preserved.\n"


def read_keys(text: str, file: str) -> tuple[ApiKey, ...]:
    """Parse the key file; raises DocumentError with every mistake at its place. An empty file holds no keys."""
    root = load(text, file)
    reader = _Reader(file)
    records = reader.read(root)
    if reader.mistakes:
        raise DocumentError(reader.mistakes, {file: text})
    return records


def write_keys(keys: Sequence[ApiKey]) -> str:
    """Return the file's text for `keys`."""
    plain = {"keys": [_plain(key) for key in keys]}
    return _HEAD + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def new_key(
    *,
    subject: str,
    secret: bytes,
    key_id: str,
    now: int,
    lifetime: int | None = None,
    roles: Sequence[str] = (),
    org: str = "",
    note: str = "",
    cidrs: Sequence[Network] = (),
) -> tuple[str, ApiKey]:
    """Make a key of 32 random bytes and its record; `now` Unix seconds, `lifetime` seconds (None: no end).

    Raises ValueError when the subject or a text cannot stand in a record.
    """
    problem = bare_problem(subject)
    if problem:
        raise ValueError(f"subject `{subject}` {problem}")
    for text in (*roles, org, note):
        if len(text) > _MAX_TEXT or not text.isprintable():
            raise ValueError("a text is too long or holds a control character")
    if "" in roles or not _ID.match(key_id):
        raise ValueError("a role is empty" if "" in roles else "an id has letters, digits, `.`, `_` and `-`")
    key = encode_key(secret)
    expires = now + lifetime if lifetime is not None else None
    return key, ApiKey(key_id, subject, digest_of(key), frozenset(roles), org, now, expires, None, note, tuple(cidrs))


def add_key(path: Path, key: ApiKey) -> None:
    """Add a record to the file, which is made (0600) where there is none.

    Raises DocumentError for a broken file, ValueError when id or key are there already, OSError.
    """
    with _changing(path) as keys:
        if any(other.id == key.id or other.digest == key.digest for other in keys):
            raise ValueError(f"key `{key.id}` is in the file already")
        keys.append(key)


def revoke_key(path: Path, key_id: str, now: int) -> ApiKey:
    """Mark a record withdrawn at `now` (Unix seconds) and return it; one withdrawn before keeps its time.

    Raises KeyError when there is no such record, DocumentError, OSError.
    """
    with _changing(path) as keys:
        for index, key in enumerate(keys):
            if key.id == key_id:
                keys[index] = key if key.revoked is not None else replace(key, revoked=now)
                return keys[index]
        raise KeyError(key_id)


def list_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return the records of the file; raises DocumentError, OSError."""
    return read_keys(path.read_text("utf-8"), str(path))


@contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    """Yield the records for change under an exclusive lock; they are written when the block ends well."""
    path = path.resolve()  # one lock for the file, under whichever name it is changed
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = list(list_keys(path)) if path.exists() else []
        yield keys
        _replace(path, write_keys(keys))
    finally:
        os.close(lock)


def _replace(path: Path, text: str) -> None:
    target = path.resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            _keep_readers(handle, target)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_readers(handle: int, target: Path) -> None:
    """Give the new file the old one's owner: a server that cannot read it would keep its former keys."""
    try:
        found = target.stat()
    except FileNotFoundError:
        return
    own = os.fstat(handle)
    if (own.st_uid, own.st_gid) != (found.st_uid, found.st_gid):
        os.fchown(handle, found.st_uid, found.st_gid)
        os.fchmod(handle, 0o600 | (found.st_mode & 0o040))


def _plain(key: ApiKey) -> dict[str, Any]:
    plain: dict[str, Any] = {"id": key.id, "subject": key.subject, "hash": _HASH_PREFIX + key.digest}
    if key.roles:
        plain["roles"] = sorted(key.roles)
    if key.org:
        plain["org"] = key.org
    if key.cidrs:
        plain["cidrs"] = [str(each) for each in key.cidrs]
    for name, seconds in (("created", key.created), ("expires", key.expires), ("revoked", key.revoked)):
        if seconds is not None:
            plain[name] = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if key.note:
        plain["note"] = key.note
    return plain


class _Reader:
    """Turns marked nodes into records and collects every mistake."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.mistakes: list[Diagnostic] = []
        self._ids: set[str] = set()
        self._digests: set[str] = set()

    def read(self, root: Node | None) -> tuple[ApiKey, ...]:
        if root is None:
            return ()
        if not isinstance(root, MappingNode):
            self._mistake(root.mark, "a key file is a mapping with `keys:`")
            return ()
        for key, _ in root:
            if key.text != "keys":
                self._mistake(key.mark, f"unknown key `{key.text}`{did_you_mean(key.text, ['keys'])}")
        entries = root.get("keys")
        if entries is None or (isinstance(entries, Scalar) and entries.is_null):
            return ()
        if not isinstance(entries, Items):
            self._mistake(entries.mark, "`keys` is a list")
            return ()
        return tuple(record for entry in entries if (record := self._record(entry)) is not None)

    def _mistake(self, mark: Mark, message: str) -> None:
        self.mistakes.append(Diagnostic(mark, message))

    def _record(self, entry: Node) -> ApiKey | None:
        if not isinstance(entry, MappingNode):
            self._mistake(entry.mark, "a key is a mapping")
            return None
        before = len(self.mistakes)
        for key, _ in entry:
            if key.text not in _FIELDS:
                self._mistake(key.mark, f"unknown key `{key.text}`{did_you_mean(key.text, _FIELDS)}")
        for name in _REQUIRED:
            if entry.get(name) is None:
                self._mistake(entry.mark, f"`{name}` is missing")
        texts = {name: self._text(entry, name) for name in ("id", "subject", "hash", "org", "note")}
        if texts["id"] and not _ID.match(texts["id"]):
            self._mistake_at(entry, "id", "an id has letters, digits, `.`, `_` and `-`")
        problem = bare_problem(texts["subject"]) if texts["subject"] else None
        if problem:
            self._mistake_at(entry, "subject", f"`{texts['subject']}` {problem}")
        if texts["hash"] and not _HASH.match(texts["hash"]):
            self._mistake_at(entry, "hash", "a hash is `sha256:` and 64 lower-case hex digits")
        self._unique(entry, "id", texts["id"], self._ids)
        self._unique(entry, "hash", texts["hash"], self._digests)
        roles = self._roles(entry)
        cidrs = self._cidrs(entry)
        times = {name: self._time(entry, name) for name in ("created", "expires", "revoked")}
        if len(self.mistakes) > before:
            return None
        digest = texts["hash"].removeprefix(_HASH_PREFIX)
        return ApiKey(
            texts["id"], texts["subject"], digest, roles, texts["org"], **times, note=texts["note"], cidrs=cidrs
        )

    def _mistake_at(self, entry: MappingNode, name: str, message: str) -> None:
        node = entry.get(name)
        self._mistake(node.mark if node is not None else entry.mark, message)

    def _unique(self, entry: MappingNode, name: str, value: str, seen: set[str]) -> None:
        if value in seen:
            self._mistake_at(entry, name, f"another record has the same `{name}`")
        if value:
            seen.add(value)

    def _text(self, entry: MappingNode, name: str) -> str:
        node = entry.get(name)
        if node is None:
            return ""
        if not isinstance(node, Scalar) or len(node.text) > _MAX_TEXT or not node.text.isprintable():
            self._mistake(node.mark, f"`{name}` is not short, printable text")
            return ""
        if not node.text and name in _REQUIRED:
            self._mistake(node.mark, f"`{name}` is empty")
        return node.text

    def _roles(self, entry: MappingNode) -> frozenset[str]:
        node = entry.get("roles")
        if node is None:
            return frozenset()
        items = node.items if isinstance(node, Items) else ()
        if not isinstance(node, Items) or not all(
            isinstance(i, Scalar) and i.text.isprintable() and i.text for i in items
        ):
            self._mistake(node.mark, "`roles` is a list of texts")
            return frozenset()
        return frozenset(item.text for item in items if isinstance(item, Scalar))

    def _cidrs(self, entry: MappingNode) -> tuple[Network, ...]:
        node = entry.get("cidrs")
        if node is None:
            return ()
        if not isinstance(node, Items) or not node.items:
            # An empty list would read as "nowhere" to some and as "anywhere" to others.
            self._mistake(node.mark, "`cidrs` is a list of networks; without it the key is good in all")
            return ()
        found = []
        for item in node.items:
            try:
                found.append(parse_cidr(item.text if isinstance(item, Scalar) else None))
            except PydanticCustomError as error:
                self._mistake(item.mark, error.message())
        return tuple(found)

    def _time(self, entry: MappingNode, name: str) -> int | None:
        node = entry.get(name)
        if node is None:
            return None
        if isinstance(node, Scalar) and _TIME.match(node.text):
            try:
                return int(datetime.fromisoformat(node.text).timestamp())
            except ValueError:
                pass
        self._mistake(node.mark, f"`{name}` is a time such as `2026-11-23T10:00:00Z`")
        return None
