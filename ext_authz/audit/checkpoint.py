"""Signed checkpoints of a log's Merkle tree: C2SP tlog-checkpoint in C2SP signed notes, Ed25519 (type 0x01).

Law: a note counts only where a key that the reader trusts verifies. Pure. Non-goal: where keys live (signing.py), the
log's own tree (ledger.py).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ext_authz.audit.merkle import HASH_BYTES, MAX_SIZE

KEY_NAME: Final = "ext-authz/audit"
"""One name for all logs, so that one verifier key opens every checkpoint of an installation."""
ORIGIN: Final = "ext-authz/"

_ED25519: Final = b"\x01"
_KEY_ID_BYTES: Final = 4
_PUBLIC_BYTES: Final = 32
_MAX_NOTE_BYTES: Final = 64 * 1024
_MAX_SIGNATURES: Final = 100
_SIZE = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_NAME = re.compile(r"[^\s+\x00-\x20\x7f]+\Z")
_HEX = re.compile(r"[0-9a-f]{8}\Z")


class NoteError(ValueError):
    """A note, a checkpoint or a verifier key that is none, or that no trusted key signed; the text is for people."""


class SigningError(Exception):
    """The signer did not sign; it may do so later. The text is for people."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """An Ed25519 key by its name, as C2SP's signed notes know it: `NAME+KEYID+BASE64`."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """The key id: the first 4 bytes of SHA-256(name || 0x0A || 0x01 || public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{to_base64(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Read a verifier key. Raises NoteError."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        if not _NAME.match(name) or not _HEX.match(key_id):
            raise NoteError("is not a verifier key (`NAME+KEYID+BASE64`)")
        raw = from_base64(encoded)
        if raw is None or len(raw) != 1 + _PUBLIC_BYTES:
            raise NoteError("is not a verifier key: no Ed25519 key in it")
        if raw[:1] != _ED25519:
            raise NoteError("is a verifier key of another kind than Ed25519")
        key = cls(name, raw[1:])
        if key.id.hex() != key_id:
            raise NoteError("is not a verifier key: its id does not belong to its key")
        return key

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` (64 bytes) is this key's over `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def parse_keys(text: str) -> list[VerifierKey]:
    """Read verifier keys, one a line; blank lines and lines that begin with `#` are left out. Raises NoteError."""
    lines = [line.strip() for line in text.splitlines()]
    keys = [VerifierKey.parse(line) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise NoteError("holds no verifier key")
    return keys


class Signer(Protocol):
    """Signs with Ed25519. `sign` raises SigningError, and may take seconds (a network)."""

    @property
    def key(self) -> VerifierKey:
        """What verifies its signatures."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature over `message`."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree's head: `size` leaves with the Merkle root `root` in the log `origin`."""

    origin: str
    size: int
    root: bytes

    @property
    def log_id(self) -> str:
        """The log's id; "" where the origin is no log of ours."""
        return self.origin.removeprefix(ORIGIN) if self.origin.startswith(ORIGIN) else ""

    def text(self) -> str:
        """Return the note's text."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read a note's text; extension lines are passed over, as the format has it. Raises NoteError."""
        lines = text.split("\n")
        if len(lines) < 4 or "" in lines[:-1] or lines[-1]:  # noqa: PLR2004  three lines and the end of the last
            raise NoteError("is not a checkpoint")
        origin, size, encoded = lines[:3]
        root = from_base64(encoded)
        if not _SIZE.match(size) or int(size) > MAX_SIZE or root is None or len(root) != HASH_BYTES:
            raise NoteError("is not a checkpoint")
        return cls(origin, int(size), root)


def sign(checkpoint: Checkpoint, signer: Signer) -> str:
    """Return the signed note. Raises SigningError."""
    text, key = checkpoint.text(), signer.key
    signature = signer.sign(text.encode())
    if not key.verifies(text.encode(), signature):
        raise SigningError("the signature does not verify under the signer's own key")
    return f"{text}\n\u2014 {key.name} {to_base64(key.id + signature)}\n"


def read_note(note: str) -> tuple[Checkpoint, list[tuple[str, bytes, bytes]]]:
    """Return what a note says and who signed it (name, key id, signature); nothing is verified. Raises NoteError."""
    if len(note.encode("utf-8", "surrogatepass")) > _MAX_NOTE_BYTES:
        raise NoteError("is too long for a checkpoint")
    if any((c < " " and c != "\n") or 0xD800 <= ord(c) <= 0xDFFF for c in note):  # noqa: PLR2004  surrogates
        raise NoteError("has characters that no checkpoint has")
    text, blank, rest = note.rpartition("\n\n")
    if not blank or not rest.endswith("\n"):
        raise NoteError("is not a signed note")
    lines = rest[:-1].split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise NoteError("has too many signatures")
    return Checkpoint.parse(text + "\n"), [_signature(line) for line in lines]


def open_note(note: str, keys: Iterable[VerifierKey]) -> tuple[Checkpoint, VerifierKey]:
    """Return the checkpoint of a note and the first of `keys` that signed it.

    A signature by a key that is not among them counts for nothing; one that names a key of them and is not its own
    spoils the note. Raises NoteError.
    """
    checkpoint, signatures = read_note(note)
    known = {(key.name, key.id): key for key in keys}
    good: VerifierKey | None = None
    message = note.rpartition("\n\n")[0].encode() + b"\n"
    for name, key_id, signature in signatures:
        key = known.get((name, key_id))
        if key is None:
            continue
        if not key.verifies(message, signature):
            raise NoteError(f"the signature of the key {name}+{key_id.hex()} is not that key's")
        good = good or key
    if good is None:
        names = ", ".join(f"{name}+{key_id.hex()}" for name, key_id, _ in signatures)
        raise NoteError(f"is signed by {names}, none of the trusted keys")
    return checkpoint, good


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint as a ledger gives it: signed (`note` is "" where the signer failed), and what the tree went on from.

    `number` counts a log's checkpoints from 0. `nodes` are those of merkle.Range(0, size).
    """

    checkpoint: Checkpoint
    number: int
    nodes: tuple[bytes, ...]
    note: str
    key: VerifierKey


def _signature(line: str) -> tuple[str, bytes, bytes]:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    raw = from_base64(encoded)
    if dash != "\u2014" or not _NAME.match(name) or raw is None or len(raw) <= _KEY_ID_BYTES:
        raise NoteError("has a line that is no signature")
    return name, raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:]


def to_base64(raw: bytes) -> str:
    """Return base64 in its one canonical spelling."""
    return base64.b64encode(raw).decode()


def from_base64(text: str) -> bytes | None:
    """Read base64 in its one canonical spelling; None where it is none."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if to_base64(raw) == text else None
