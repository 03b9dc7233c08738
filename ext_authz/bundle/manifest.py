"""The manifest of a bundle: what is in it, which one it is, and until when it may be believed.

Law: one strict reading; a manifest says exactly the keys below, each file once,
and paths that mean the same on every system. Non-goal: signatures (trust.py).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ext_authz.bundle.problems import BundleError, Problem

FORMAT: Final = "ext-authz-bundle/1"
MANIFEST: Final = "manifest.json"
SIGNATURES: Final = "manifest.sig"
MAX_MANIFEST_BYTES: Final = 2**20
MAX_REVISION: Final = 2**53
MAX_PATH: Final = 100
TEST_SUFFIX: Final = "_test.yaml"

_PATH = re.compile(r"(?:policies|resources)(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_KEYS: Final = frozenset({"format", "name", "revision", "created_at", "expires_at", "files"})
_FILE_KEYS: Final = frozenset({"path", "size", "sha256"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its path in the bundle, its bytes, and their SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself. Times are Unix seconds; `files` is in path order."""

    name: str
    revision: int
    created_at: int
    expires_at: int
    files: tuple[Entry, ...]

    def to_bytes(self) -> bytes:
        """Return the JSON document that is signed, the same for equal manifests."""
        plain = {
            "format": FORMAT,
            "name": self.name,
            "revision": self.revision,
            "created_at": time_text(self.created_at),
            "expires_at": time_text(self.expires_at),
            "files": [{"path": each.path, "size": each.size, "sha256": each.sha256} for each in self.files],
        }
        return json.dumps(plain, indent=1, ensure_ascii=True).encode("ascii") + b"\n"


def entry_of(path: str, data: bytes) -> Entry:
    """Describe one file."""
    return Entry(path, len(data), hashlib.sha256(data).hexdigest())


def parse(data: bytes) -> Manifest:
    """Read a manifest. Raises BundleError (BAD_MANIFEST, BAD_PATH, DUPLICATE_FILE)."""
    plain = _strict(data)
    if plain.get("format") != FORMAT:
        raise _bad(f"its format is not `{FORMAT}`; a later version of ext-authz may read it")
    _exactly(plain, _KEYS, "the manifest")
    name, revision, files = plain["name"], plain["revision"], plain["files"]
    if not isinstance(name, str) or name_problem(name):
        raise _bad("`name` is no bundle's name")
    if type(revision) is not int or not 1 <= revision <= MAX_REVISION:
        raise _bad("`revision` is not a whole number from 1 to 2^53")
    created, expires = (_seconds(plain[key], key) for key in ("created_at", "expires_at"))
    if created >= expires:
        raise _bad("it expires before it was made")
    if not isinstance(files, list) or not files:
        raise _bad("`files` is not a list of files")
    entries = tuple(_entry(each) for each in files)
    check_paths(each.path for each in entries)
    return Manifest(name, revision, created, expires, entries)


def name_problem(name: str) -> str | None:
    """Say why `name` cannot be a bundle's, or None."""
    return None if _NAME.match(name) else "is not 1 to 64 letters, digits and `_ . -` with a letter or digit first"


def path_problem(path: str) -> str | None:
    """Say why no file in a bundle is called `path`, or None."""
    if len(path) > MAX_PATH:
        return f"is longer than {MAX_PATH} characters"
    if path.startswith("/") or ".." in path.split("/"):
        return "leads out of the bundle"
    if not _PATH.match(path):
        return "is not letters, digits and `_ . -` below `policies/` or `resources/`"
    return None if path.endswith(".yaml") else "does not end in `.yaml`"


def check_paths(paths: Iterable[str]) -> None:
    """Raise BundleError for paths that are not safe, or not all different on every file system."""
    seen: dict[str, str] = {}
    for path in paths:
        problem = path_problem(path)
        if problem is not None:
            raise BundleError(Problem.BAD_PATH, f"{quoted(path)} {problem}")
        if path in seen.values():
            raise BundleError(Problem.DUPLICATE_FILE, f"{quoted(path)} is there twice")
        folded = path.lower()
        if folded in seen:
            raise BundleError(Problem.BAD_PATH, f"{quoted(path)} differs from {quoted(seen[folded])} by case alone")
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        if any("/".join(parts[:depth]) in seen for depth in range(1, len(parts))):
            raise BundleError(Problem.BAD_PATH, f"{quoted(path)} lies below another file")


def time_text(seconds: int) -> str:
    """Return Unix seconds as RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def quoted(text: str) -> str:
    """Quote a name from outside for a message: bounded, and nothing that a terminal acts on."""
    shown = text if len(text) <= MAX_PATH else text[:MAX_PATH] + "…"
    return "`" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown) + "`"


def strict_object(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object without duplicate keys or floats. Raises BundleError (BAD_MANIFEST)."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        plain = dict(found)
        if len(plain) != len(found):
            raise ValueError("a key twice")
        return plain

    def refuse(_: str) -> Any:  # noqa: ANN401  as json has it
        raise ValueError("a number that is not whole")

    try:
        plain = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_float=refuse, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise _bad(f"{what} is not JSON with each key once and whole numbers") from None
    if not isinstance(plain, dict):
        raise _bad(f"{what} is not a JSON object")
    return plain


def _strict(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(Problem.TOO_LARGE, f"`{MANIFEST}` has more than {MAX_MANIFEST_BYTES} bytes")
    return strict_object(data, f"`{MANIFEST}`")


def _exactly(plain: Mapping[str, object], keys: frozenset[str], what: str) -> None:
    for key in sorted(keys - plain.keys()):
        raise _bad(f"{what} has no `{key}`")
    for key in sorted(plain.keys() - keys):
        raise _bad(f"{what} has the unknown key {quoted(key)}")


def _entry(plain: object) -> Entry:
    if not isinstance(plain, dict):
        raise _bad("`files` is not a list of files")
    _exactly(plain, _FILE_KEYS, "a file")
    path, size, sha256 = plain["path"], plain["size"], plain["sha256"]
    if not isinstance(path, str) or type(size) is not int or size < 0:
        raise _bad("a file's `path` is no text, or its `size` no number of bytes")
    if not isinstance(sha256, str) or not _SHA256.match(sha256):
        raise _bad(f"the `sha256` of {quoted(path)} is not 64 hexadecimal digits")
    return Entry(path, size, sha256)


def _seconds(value: object, key: str) -> int:
    text = value if isinstance(value, str) and _TIME.match(value) else ""
    try:
        return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise _bad(f"`{key}` is not a time such as `2026-11-23T10:00:00Z`") from None


def _bad(message: str) -> BundleError:
    return BundleError(Problem.BAD_MANIFEST, message)
