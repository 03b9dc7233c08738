"""The file format of the trail: a header in clear text, then sealed frames; docs/trail-format.md has it to the byte.

Law: a frame opens only in its place (file offset) of its segment, as its kind, with its number; what does not open
is Damage, and reading goes on behind it. Pure: no files, no clocks, no randomness. Non-goal: whether all is there.
"""

import hashlib
import hmac
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple
from zlib import crc32

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ext_authz.envelope.errors import AlteredError, UnsupportedError
from ext_authz.envelope.format import Keys, derive

HEADER_BYTES: Final = 288
HEAD_BYTES: Final = 16
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = HEAD_BYTES + TAG_BYTES
MAX_PAYLOAD: Final = 128 * 1024
MAX_FRAMES: Final = 2**32
ROOT_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The Merkle root of no leaves (RFC 6962 2.1)."""

_MAGIC: Final = b"EXTAZSEG"
_VERSION: Final = 1
_AES_256_GCM: Final = 1
_FIXED: Final = struct.Struct(">8sHHIQQ32s32s32s128s")
_LOG_ID_BYTES: Final = 128
_MAC_BYTES: Final = 32
_LABEL: Final = b"ext-authz segment 1"
_HEAD: Final = struct.Struct(">III")
_CHECKED: Final = struct.Struct(">IIII")
_WORD: Final = struct.Struct(">I")
_NONCE: Final = struct.Struct(">QI")
_PLACE: Final = struct.Struct(">Q")
_KIND_SHIFT: Final = 24
_SIZE_MASK: Final = 2**_KIND_SHIFT - 1
_CRC_MASK: Final = 2**32 - 1
# What a frame can begin with: its kind, and the first of three bytes of a length up to MAX_PAYLOAD.
_START: Final = re.compile(rb"[\x01-\x04][\x00-\x02]", re.DOTALL)


class Kind(IntEnum):
    """What a frame holds."""

    EVENT = 1
    """A line of JSON, a leaf of the log's Merkle tree."""
    CHECKPOINT = 2
    """A line of JSON about the tree so far (checkpoint.py); no leaf."""
    SEAL = 3
    """The last frame of a log that ended in order; holds a checkpoint too."""
    MARK = 4
    """The first frame of a segment: an unsigned checkpoint, whose tree a reader can go on with. Not for sinks."""


_KINDS: Final = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Header:
    """A segment's beginning. `root` is the log's Merkle root over the `first_seq` events before this segment."""

    log_id: str
    number: int
    first_seq: int
    started_ns: int
    salt: bytes
    commitment: bytes
    root: bytes = EMPTY_ROOT

    def encode(self) -> bytes:
        """Return the header without its MAC. Raises ValueError for a log id that does not fit."""
        log_id = self.log_id.encode("ascii")
        if not 0 < len(log_id) <= _LOG_ID_BYTES:
            raise ValueError("the log id does not fit the header")
        return _FIXED.pack(
            _MAGIC,
            _VERSION,
            _AES_256_GCM,
            self.number,
            self.first_seq,
            self.started_ns,
            self.salt,
            self.commitment,
            self.root,
            log_id,
        )


class Record(NamedTuple):
    """One frame as read. `seq`: the event's number in its log; of other kinds, how many events came before.

    `end` is the file offset behind the frame: reading can go on there.
    """

    kind: Kind
    seq: int
    payload: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes from `start` to before `end` that are no frame of this segment; `blank`: they are all zero."""

    start: int
    end: int
    blank: bool = False


class Segment:
    """A segment's keys and what they are bound to, for writing and reading frames.

    Raises AlteredError where header and data key (32 bytes) do not belong together.
    """

    __slots__ = ("about", "bytes", "cipher", "header")

    def __init__(self, header: Header, mac: bytes, data_key: bytes) -> None:
        plain, keys = header.encode(), derive_keys(data_key, header.salt)
        good = hmac.compare_digest(keys.commitment, header.commitment)
        if not (good and hmac.compare_digest(hmac.digest(keys.header, plain, "sha256"), mac)):
            raise AlteredError("the segment's header was altered, or its key is another segment's")
        self.header = header
        self.bytes = plain + mac
        self.about = hashlib.sha256(self.bytes).digest()
        self.cipher = AESGCM(keys.payload)

    @classmethod
    def create(
        cls, data_key: bytes, salt: bytes, *, log_id: str, number: int, first_seq: int, started_ns: int, root: bytes
    ) -> "Segment":
        """Begin a segment under a data key and a salt (32 bytes each) that are used for nothing else, ever."""
        keys = derive_keys(data_key, salt)
        header = Header(log_id, number, first_seq, started_ns, salt, keys.commitment, root)
        return cls(header, hmac.digest(keys.header, header.encode(), "sha256"), data_key)

    def seal(self, kind: int, payload: bytes, at: int, counter: int, events: int) -> bytes:
        """Return the frame to be written at file offset `at`.

        `counter` must never be given twice for one segment, not even where the first frame was not written whole
        (it is the nonce); `events` counts those before this frame in the segment.
        """
        head = _HEAD.pack(kind << _KIND_SHIFT | len(payload), counter, events)
        nonce, about = _NONCE.pack(0, counter), self.about + _PLACE.pack(at) + head
        return head + _WORD.pack(crc32(head, at & _CRC_MASK)) + self.cipher.encrypt(nonce, payload, about)

    def read(self, data: bytes, at: int = HEADER_BYTES) -> Iterator[Record | Damage]:
        """Yield what stands in `data`, which begins at file offset `at` (the end of a record); a torn end is left.

        What does not open becomes Damage up to where a frame opens again; of a damaged end the last bytes that could
        still become a frame's head are left.
        """
        about, decrypt, first = self.about, self.cipher.decrypt, self.header.first_seq
        place, size = 0, len(data)
        while place + HEAD_BYTES <= size:
            word, counter, events, check = _CHECKED.unpack_from(data, place)
            length, kind = word & _SIZE_MASK, _KINDS.get(word >> _KIND_SHIFT)
            head = data[place : place + 12]
            start = place + HEAD_BYTES
            end = start + length + TAG_BYTES
            if kind is None or length > MAX_PAYLOAD or crc32(head, (at + place) & _CRC_MASK) != check:
                found = self._next(data, at, place + 1)
                yield Damage(at + place, at + found, blank=not any(data[place:found]))
                place = found
                continue
            if end > size:
                return
            try:
                payload = decrypt(_NONCE.pack(0, counter), data[start:end], about + _PLACE.pack(at + place) + head)
            except InvalidTag:
                yield Damage(at + place, at + end)
            else:
                yield Record(kind, first + events, payload, at + end)
            place = end

    def _next(self, data: bytes, at: int, place: int) -> int:
        return resume(data, at, place, self._opens)

    def _opens(self, sealed: bytes, counter: int, at: int, head: bytes) -> bool:
        try:
            self.cipher.decrypt(_NONCE.pack(0, counter), sealed, self.about + _PLACE.pack(at) + head)
        except InvalidTag:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame seen without its key: nothing of it is authentic. Offsets in the file."""

    kind: Kind
    events: int
    start: int
    end: int


def frames(data: bytes, at: int = HEADER_BYTES) -> Iterator[Frame]:
    """Yield the frames of `data` without opening them; ends at the first bytes that are none, or not whole."""
    place = 0
    while place + HEAD_BYTES <= len(data):
        word, _, events, check = _CHECKED.unpack_from(data, place)
        kind, end = _KINDS.get(word >> _KIND_SHIFT), place + OVERHEAD_BYTES + (word & _SIZE_MASK)
        if kind is None or end > len(data) or crc32(data[place : place + 12], (at + place) & _CRC_MASK) != check:
            return
        yield Frame(kind, events, at + place, at + end)
        place = end


def resume(data: bytes, at: int, place: int, opens: Callable[[bytes, int, int, bytes], bool] | None = None) -> int:
    """Return where a frame begins again in `data`, from `place` on, or one may begin that is not whole yet.

    `opens` (its sealed bytes, counter, file offset and head) has the last word; without it the head's CRC decides.
    """
    while (found := _START.search(data, place)) is not None and (place := found.start()) + HEAD_BYTES <= len(data):
        word, counter, _, check = _CHECKED.unpack_from(data, place)
        end, head = place + OVERHEAD_BYTES + (word & _SIZE_MASK), data[place : place + 12]
        if crc32(head, (at + place) & _CRC_MASK) == check and (
            opens is None or end > len(data) or opens(data[place + HEAD_BYTES : end], counter, at + place, head)
        ):
            return place
        place += 1
    return max(place, len(data) - HEAD_BYTES + 1)


def torn(data: bytes, at: int) -> bool:
    """Whether `data` may still become a frame at file offset `at`: its head is not whole, or is one."""
    if len(data) < HEAD_BYTES:
        return True
    word, _, _, check = _CHECKED.unpack_from(data)
    return word >> _KIND_SHIFT in _KINDS and crc32(data[:12], at & _CRC_MASK) == check


def read_header(data: bytes) -> tuple[Header, bytes]:
    """Return the header at the beginning of a file and its MAC; nothing is authentic before a Segment was made of it.

    Raises AlteredError (`cut off` where the file is shorter than a header), UnsupportedError.
    """
    if not data.startswith(_MAGIC[: len(data)]):
        raise AlteredError("is not a segment of an audit trail")
    if len(data) < HEADER_BYTES:
        raise AlteredError("is cut off within its header")
    magic, version, algorithm, number, first_seq, started_ns, salt, commitment, root, name = _FIXED.unpack_from(data)
    if (version, algorithm) != (_VERSION, _AES_256_GCM):
        raise UnsupportedError(f"format version {version}, algorithm {algorithm}: not available in this version")
    try:
        header = Header(name.rstrip(b"\0").decode("ascii"), number, first_seq, started_ns, salt, commitment, root)
        good = header.encode() == data[: _FIXED.size] and magic == _MAGIC
    except ValueError:
        good = False
    if not good:
        raise AlteredError("the segment's header was altered")
    return header, data[_FIXED.size : HEADER_BYTES]


def derive_keys(data_key: bytes, salt: bytes) -> Keys:
    """Return a segment's keys: as an envelope's (HKDF-SHA-256 with a commitment), under a label of their own."""
    return derive(data_key, salt, _LABEL)
