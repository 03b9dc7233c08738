"""The envelope's header: one page that never changes, and two pages of which one holds the wrapped data key.

Law: a header has one encoding, and nothing of it is believed before its MAC, except to choose what to refuse.
Non-goal: reading files, wrapping keys. docs/encryption.md describes the same bytes for other implementations.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ext_authz.envelope.errors import AlteredError, EnvelopeError, UnsupportedError
from ext_authz.envelope.keys import DATA_KEY_BYTES, Context, WrappedKey

PAGE: Final = 4096
HEADER_BYTES: Final = 3 * PAGE
TAG_BYTES: Final = 16
MAX_CHUNKS: Final = 2**32
MIN_CHUNK: Final = 1024
MAX_CHUNK: Final = 16 * 2**20
DEFAULT_CHUNK: Final = 64 * 2**10
SALT_BYTES: Final = 32
PREFIX_BYTES: Final = 7

_MAGIC: Final = b"EXTAZENV"
_VERSION: Final = 1
_AES_256_GCM: Final = 1
_FIXED: Final = struct.Struct(">8sHHI32s7sx32sHH")
_SLOT_MAGIC: Final = b"SLOT"
_SLOT: Final = struct.Struct(">4sIBBHH")
_HASH: Final = 32
_SIGNED: Final = PAGE - 2 * _HASH
_CHECKED: Final = PAGE - _HASH
_LABEL: Final = b"ext-authz envelope 1"
_MAX_TYPE: Final = 128
_MAX_ID: Final = 2048
_MAX_KEY_ID: Final = 2048
_MAX_VERSION: Final = 64
_C0_END, _DELETE, _C1_END = 0x20, 0x7F, 0xA0

NOT_OURS: Final = "is not a file that `ext-authz encrypt` made, or its beginning was altered"


@dataclass(frozen=True, slots=True)
class DataName:
    """What the data is called: bound to every byte of it. In clear text in the header and at the key service."""

    type: str
    id: str

    def __post_init__(self) -> None:
        for what, text, most in (("type", self.type, _MAX_TYPE), ("id", self.id, _MAX_ID)):
            problem = _text_problem(text, most)
            if problem:
                raise ValueError(f"the data {what} {problem}")

    @property
    def context(self) -> Context:
        """What the key provider binds to the wrapped key."""
        return {"app": "ext-authz", "data_id": self.id, "data_type": self.type}

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


def _text_problem(text: str, most: int) -> str:
    if not text:
        return "is empty"
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    if len(raw) > most:
        return f"is longer than {most} bytes"
    if any(ord(c) < _C0_END or _DELETE <= ord(c) < _C1_END for c in text):
        return "holds a control character"
    return ""


@dataclass(frozen=True, slots=True)
class Keys:
    """What is derived from a data key and a salt."""

    payload: bytes
    commitment: bytes
    header: bytes


def derive(data_key: bytes, salt: bytes, label: bytes = _LABEL) -> Keys:
    """Return the keys of one envelope: HKDF-SHA-256 (RFC 5869), 96 bytes. `label` says what they are for.

    The commitment is part of the same output, so one header cannot be opened by two data keys.
    """
    if len(data_key) != DATA_KEY_BYTES:
        raise AlteredError("the key provider returned a data key of another size")
    out = HKDF(algorithm=SHA256(), length=3 * _HASH, salt=salt, info=label).derive(data_key)
    return Keys(out[:_HASH], out[_HASH : 2 * _HASH], out[2 * _HASH :])


@dataclass(frozen=True, slots=True)
class Prelude:
    """The first page: everything that stays the same for the life of the data. `chunk_size` in bytes of plain text."""

    name: DataName
    chunk_size: int
    salt: bytes
    nonce_prefix: bytes
    commitment: bytes

    def encode(self) -> bytes:
        """Return the page."""
        kind, name = self.name.type.encode(), self.name.id.encode()
        fixed = _FIXED.pack(
            _MAGIC,
            _VERSION,
            _AES_256_GCM,
            self.chunk_size,
            self.salt,
            self.nonce_prefix,
            self.commitment,
            len(kind),
            len(name),
        )
        return (fixed + kind + name).ljust(PAGE, b"\0")


def _read_prelude(page: bytes) -> Prelude:
    magic, version, algorithm, chunk_size, salt, prefix, commitment, kind_len, id_len = _FIXED.unpack_from(page)
    if magic != _MAGIC:
        raise AlteredError(NOT_OURS)
    if (version, algorithm) != (_VERSION, _AES_256_GCM):
        raise UnsupportedError(f"format version {version}, algorithm {algorithm}: not available in this version")
    start = _FIXED.size
    try:
        name = DataName(
            page[start : start + kind_len].decode(), page[start + kind_len : start + kind_len + id_len].decode()
        )
    except ValueError:
        raise AlteredError("the header was altered") from None
    prelude = Prelude(name, chunk_size, salt, prefix, commitment)
    if not MIN_CHUNK <= chunk_size <= MAX_CHUNK or prelude.encode() != page:
        raise AlteredError("the header was altered")
    return prelude


@dataclass(frozen=True, slots=True)
class Slot:
    """The wrapped data key. `generation` counts from 1 and is one more after every rewrap."""

    generation: int
    wrapped: WrappedKey

    @property
    def offset(self) -> int:
        """Where in the file this slot stands: the two places take turns."""
        return PAGE * (2 - self.generation % 2)

    def encode(self, prelude: bytes, header_key: bytes) -> bytes:
        """Return the page, with its MAC under `header_key` over the first page and itself."""
        provider, key_id = self.wrapped.provider.encode(), self.wrapped.key_id.encode()
        version, blob = self.wrapped.key_version.encode(), self.wrapped.blob
        fits = _SLOT.size + len(provider) + len(version) + len(key_id) + len(blob) <= _SIGNED
        if not fits or len(key_id) > _MAX_KEY_ID or len(version) > _MAX_VERSION or self.generation >= 2**32:
            raise UnsupportedError("the wrapped key does not fit the header")
        fixed = _SLOT.pack(_SLOT_MAGIC, self.generation, len(provider), len(version), len(key_id), len(blob))
        signed = (fixed + provider + version + key_id + blob).ljust(_SIGNED, b"\0")
        checked = signed + _slot_mac(header_key, prelude, signed)
        return checked + hashlib.sha256(checked).digest()


def _slot_mac(header_key: bytes, prelude: bytes, signed: bytes) -> bytes:
    return hmac.digest(header_key, hashlib.sha256(prelude).digest() + signed, "sha256")


def _read_slot(page: bytes, offset: int) -> Slot | None:
    """Return the slot of an intact page that stands in its place, else None."""
    checked, checksum = page[:_CHECKED], page[_CHECKED:]
    if hashlib.sha256(checked).digest() != checksum:
        return None
    magic, generation, provider_len, version_len, key_len, blob_len = _SLOT.unpack_from(page)
    ends = [_SLOT.size]
    for length in (provider_len, version_len, key_len, blob_len):
        ends.append(ends[-1] + length)
    if magic != _SLOT_MAGIC or generation == 0 or ends[-1] > _SIGNED or any(page[ends[-1] : _SIGNED]):
        return None
    try:
        provider, version, key_id = (page[a:b].decode() for a, b in pairwise(ends[:4]))
    except UnicodeDecodeError:
        return None
    slot = Slot(generation, WrappedKey(provider, key_id, version, page[ends[3] : ends[4]]))
    return slot if slot.offset == offset else None


@dataclass(frozen=True, slots=True)
class Header:
    """A header as read. `unfinished`: a rewrap was cut off, and what it left beside the slot in force is to be erased.

    Nothing here is authentic before `check` returned.
    """

    prelude: Prelude
    page: bytes
    slot: Slot
    slot_page: bytes
    unfinished: bool

    @property
    def digest(self) -> bytes:
        """SHA-256 of the first page: the associated data of every chunk."""
        return hashlib.sha256(self.page).digest()

    def check(self, data_key: bytes) -> Keys:
        """Return the keys when this header was made with `data_key`; raises AlteredError otherwise."""
        keys = derive(data_key, self.prelude.salt)
        mac = _slot_mac(keys.header, self.page, self.slot_page[:_SIGNED])
        committed = hmac.compare_digest(keys.commitment, self.prelude.commitment)
        if not (hmac.compare_digest(mac, self.slot_page[_SIGNED:_CHECKED]) and committed):
            raise AlteredError("the header was altered")
        return keys


def read_header(data: bytes) -> Header:
    """Read the first HEADER_BYTES of an envelope. Raises AlteredError, UnsupportedError."""
    if len(data) < len(_MAGIC) or not data.startswith(_MAGIC):
        raise AlteredError(NOT_OURS)
    if len(data) < HEADER_BYTES:
        raise AlteredError("is cut off within its header")
    page = data[:PAGE]
    prelude = _read_prelude(page)
    pages = {at: data[at : at + PAGE] for at in (PAGE, 2 * PAGE)}
    slots = [slot for at, each in pages.items() if (slot := _read_slot(each, at)) is not None]
    if not slots:
        raise AlteredError("the header was altered")
    slot = max(slots, key=lambda each: each.generation)
    spare = next(each for at, each in pages.items() if at != slot.offset)
    return Header(prelude, page, slot, pages[slot.offset], any(spare))


def write_header(prelude: Prelude, slot: Slot, keys: Keys) -> bytes:
    """Return the HEADER_BYTES of a new envelope."""
    page = prelude.encode()
    if slot.generation != 1:
        raise EnvelopeError("a new envelope starts at generation 1")
    return page + slot.encode(page, keys.header) + bytes(PAGE)
