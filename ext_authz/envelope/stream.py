"""Sealing and opening a stream in chunks (STREAM: Hoang, Reyhanitabar, Rogaway, Vizár 2015), in constant memory.

Law: a chunk is written only after it was authenticated in its place, and `unseal` returns only if the last one was
the last. Nonce: 7 random bytes, u32 counter, last flag; the key is fresh for every stream. Non-goal: files.
"""

import os
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ext_authz.envelope.errors import AlteredError, UnsupportedError
from ext_authz.envelope.format import (
    DEFAULT_CHUNK,
    HEADER_BYTES,
    MAX_CHUNK,
    MAX_CHUNKS,
    MIN_CHUNK,
    PREFIX_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    DataName,
    Header,
    Prelude,
    Slot,
    derive,
    read_header,
    write_header,
)
from ext_authz.envelope.keys import DATA_KEY_BYTES, KeyProvider

Moved = Callable[[int], None]
"""Told the bytes of input that were dealt with since the last call."""


class Source(Protocol):
    """Where bytes come from: a binary file, buffered or not, a pipe."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill some of `buffer` and return how much; 0 at the end."""
        ...


class Sink(Protocol):
    """Where bytes go; `write` may take fewer than it is given and says how many."""

    def write(self, data: memoryview, /) -> int | None:
        """Write some of `data` and return how much."""
        ...


def _nothing(_: int) -> None:
    pass


def seal(
    source: Source,
    sink: Sink,
    provider: KeyProvider,
    name: DataName,
    *,
    chunk_size: int = DEFAULT_CHUNK,
    entropy: Callable[[int], bytes] = os.urandom,
    moved: Moved = _nothing,
) -> Header:
    """Encrypt `source` to `sink` under a fresh data key and return the header.

    `chunk_size` in bytes. `entropy(n)` must return n bytes nobody can guess and never the same again.
    Raises KeyUnavailableError, UnsupportedError (more than 2**32 chunks), OSError.
    """
    if not MIN_CHUNK <= chunk_size <= MAX_CHUNK:
        raise ValueError(f"a chunk has {MIN_CHUNK} to {MAX_CHUNK} bytes")
    data_key, salt, prefix = entropy(DATA_KEY_BYTES), entropy(SALT_BYTES), entropy(PREFIX_BYTES)
    keys = derive(data_key, salt)
    prelude = Prelude(name, chunk_size, salt, prefix, keys.commitment)
    slot = Slot(1, provider.wrap(data_key, name.context))
    written = write_header(prelude, slot, keys)
    header = read_header(written)
    put(sink, written)
    cipher, about = AESGCM(keys.payload), header.digest
    for number, plain, last in _chunks(source, chunk_size):
        put(sink, cipher.encrypt(_nonce(prefix, number, last), plain, about))
        moved(len(plain))
    return header


def unseal(source: Source, sink: Sink, provider: KeyProvider, name: DataName, *, moved: Moved = _nothing) -> Header:
    """Decrypt an envelope that was sealed under `name` from `source` to `sink` and return its header.

    What reached the sink when an error is raised is authentic from the start on, but not the whole.
    Raises AlteredError, KeyUnavailableError, UnsupportedError, OSError.
    """
    return unseal_rest(source, sink, read_header(take(source, HEADER_BYTES)), provider, name, moved=moved)


def unseal_rest(
    source: Source, sink: Sink, header: Header, provider: KeyProvider, name: DataName, *, moved: Moved = _nothing
) -> Header:
    """Like `unseal`, for a source whose header was read already."""
    if header.prelude.name != name:
        raise AlteredError(f"was encrypted as `{header.prelude.name}`, not as `{name}`")
    keys = header.check(provider.unwrap(header.slot.wrapped, name.context))
    cipher, about, prefix = AESGCM(keys.payload), header.digest, header.prelude.nonce_prefix
    moved(HEADER_BYTES)
    for number, sealed, last in _chunks(source, header.prelude.chunk_size + TAG_BYTES):
        if number > 0 and len(sealed) <= TAG_BYTES:  # data has one encoding: only the first chunk may be empty
            raise AlteredError(_where(number, header.prelude.chunk_size, last=last))
        try:
            plain = cipher.decrypt(_nonce(prefix, number, last), sealed, about)
        except (InvalidTag, ValueError):
            raise AlteredError(_where(number, header.prelude.chunk_size, last=last)) from None
        put(sink, plain)
        moved(len(sealed))
    return header


def _where(number: int, chunk_size: int, *, last: bool) -> str:
    at = number * chunk_size
    return f"was altered{', cut off or added to' if last else ''} at or after byte {at} of its plain text"


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:  # noqa: FBT001  the order of the bytes
    if number >= MAX_CHUNKS:
        raise UnsupportedError("is too large: more than 2**32 chunks")
    return prefix + number.to_bytes(4, "big") + (b"\1" if last else b"\0")


_SPARE: Final = 2


def _chunks(source: Source, size: int) -> Iterator[tuple[int, memoryview, bool]]:
    """Yield number, bytes and whether it is the last, always at least one; a view holds until the next is asked for."""
    buffers = [bytearray(size) for _ in range(_SPARE)]
    number = 0
    filled = fill(source, buffers[0])
    while True:
        following = fill(source, buffers[(number + 1) % _SPARE]) if filled == size else 0
        yield number, memoryview(buffers[number % _SPARE])[:filled], following == 0
        if following == 0:
            return
        filled = following
        number += 1


def fill(source: Source, buffer: bytearray) -> int:
    """Read until `buffer` is full or the source ends; return the bytes read."""
    view, at = memoryview(buffer), 0
    while at < len(buffer):
        got = source.readinto(view[at:])
        if got is None:
            raise BlockingIOError("the input is in non-blocking mode")
        if got == 0:
            break
        at += got
    return at


def take(source: Source, size: int) -> bytes:
    """Return the next `size` bytes of the source, fewer at its end."""
    buffer = bytearray(size)
    return bytes(memoryview(buffer)[: fill(source, buffer)])


def put(sink: Sink, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        done = sink.write(view)
        if done is None:
            raise BlockingIOError("the output is in non-blocking mode")
        view = view[done:]
