"""A bundle's bytes: one gzip member that holds a plain ustar archive, read strictly and in memory.

Law: reading stops at the first byte that our own writer would not have written where two tar programs could differ
(links, devices, folders, extended headers, odd numbers); no more is unpacked than the limits and the manifest say.
Source: POSIX.1-2017, pax, "ustar Interchange Format"; RFC 1952.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from ext_authz.bundle.keys import MAX_SIGNATURES_BYTES
from ext_authz.bundle.manifest import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURES, path_problem, quoted
from ext_authz.bundle.problems import BundleError, Problem
from ext_authz.bundle.trust import Bundle, Trust, TrustedBundle

_BLOCK: Final = 512
_ZERO: Final = bytes(_BLOCK)
_MAX_END: Final = 10_240 + _BLOCK
"""Zero bytes after the last file: tar programs fill up their record."""
_STEP: Final = 64 * 1024
_KINDS: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a named pipe",
    b"x": "an extended header",
    b"g": "a global extended header",
    b"L": "a GNU long name",
    b"K": "a GNU long link",
    b"S": "a sparse file",
}


def open_bundle(data: bytes, trust: Trust, now: float, *, kept: bool = False) -> Bundle:
    """Return the bundle in these bytes, verified whole. `now` and `kept` as TrustedBundle has them.

    Raises BundleError.
    """
    if len(data) > trust.limits.compressed:
        raise BundleError(Problem.TOO_LARGE, f"it has more than {trust.limits.compressed} bytes")
    bundle = TrustedBundle(trust, now, kept=kept)
    reader = _Tar(_Gunzip(data, _allowance(trust.limits.unpacked, trust.limits.files)))
    manifest = reader.member(MANIFEST, MAX_MANIFEST_BYTES)
    signatures = reader.member(SIGNATURES, MAX_SIGNATURES_BYTES)
    bundle.take_manifest(manifest, signatures)
    while (head := reader.head()) is not None:
        path, size = head
        if path in (MANIFEST, SIGNATURES):
            raise BundleError(Problem.DUPLICATE_FILE, f"`{path}` is there twice")
        problem = path_problem(path)
        if problem is not None:
            raise BundleError(Problem.BAD_PATH, f"{quoted(path)} {problem}")
        bundle.expect(path, size)
        bundle.take_file(path, reader.body(size))
    reader.end()
    return bundle.finish()


def unverified(data: bytes) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Return manifest, signatures and files of a bundle that nobody verified: for who signs or looks at one.

    Raises BundleError.
    """
    limit = _allowance(2**30, 100_000)
    reader = _Tar(_Gunzip(data, limit))
    manifest = reader.member(MANIFEST, MAX_MANIFEST_BYTES)
    signatures = reader.member(SIGNATURES, MAX_SIGNATURES_BYTES)
    files = []
    while (head := reader.head()) is not None:
        files.append((head[0], reader.body(head[1])))
    reader.end()
    return manifest, signatures, files


def write_archive(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the archive of (path, contents), the same bytes for the same members."""
    return gzip.compress(b"".join(_written(members)), compresslevel=9, mtime=0)


def _written(members: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    for path, data in members:
        name = path.encode("ascii")
        fields = (
            name.ljust(100, b"\0"),
            b"0000644\0",
            b"0000000\0",
            b"0000000\0",
            b"%011o\0" % len(data),
            b"%011o\0" % 0,
            b" " * 8,
            b"0",
            bytes(100),
            b"ustar\x0000",
            bytes(247),
        )
        header = b"".join(fields)
        checksum = b"%06o\0 " % sum(header)
        yield header[:148] + checksum + header[156:]
        yield data
        yield bytes(-len(data) % _BLOCK)
    yield _ZERO * 2


def _allowance(unpacked: int, files: int) -> int:
    """Return how many bytes an archive of files within these limits has at most."""
    return unpacked + (files + 2) * 2 * _BLOCK + MAX_MANIFEST_BYTES + MAX_SIGNATURES_BYTES + _MAX_END


class _Gunzip:
    """Reads exactly as many bytes as are asked for, and never holds many more."""

    def __init__(self, data: bytes, limit: int) -> None:
        self._data = data
        self._limit = limit
        self._at = 0
        self._inflate = zlib.decompressobj(wbits=31)
        self._rest = b""
        self._ready = bytearray()
        self._given = 0

    def read(self, count: int) -> bytes:
        """Return `count` bytes, fewer only at the end."""
        while len(self._ready) < count and self._more():
            pass
        taken = bytes(self._ready[:count])
        del self._ready[:count]
        return taken

    def _more(self) -> bool:
        if self._inflate.eof:
            return False
        piece = self._rest
        if not piece:
            piece = self._data[self._at : self._at + _STEP]
            self._at += len(piece)
        if not piece:
            raise _damaged("it ends too soon")
        try:
            made = self._inflate.decompress(piece, _STEP)
        except zlib.error:
            raise _damaged("it is not a whole gzip stream") from None
        self._rest = self._inflate.unconsumed_tail
        self._given += len(made)
        if self._given > self._limit:
            raise BundleError(Problem.TOO_LARGE, f"it unpacks to more than {self._limit} bytes")
        self._ready += made
        return True

    def finished(self) -> bool:
        """Whether the stream ended, was proved by its checksum, and nothing follows it."""
        while not self._ready and self._more():
            pass
        return not self._ready and self._at >= len(self._data) and not self._rest and not self._inflate.unused_data


class _Tar:
    def __init__(self, stream: _Gunzip) -> None:
        self._stream = stream

    def head(self) -> tuple[str, int] | None:
        """Return name and size of the next file, None at the archive's end."""
        block = self._stream.read(_BLOCK)
        if len(block) < _BLOCK:
            raise _damaged("the archive ends too soon")
        if block == _ZERO:
            return None
        if block[257:262] != b"ustar" or _octal(block[148:156]) != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
            raise _damaged("an entry's header is not one of a ustar archive")
        name = block[:100].rstrip(b"\0")
        kind = block[156:157]
        if kind != b"0":
            what = _KINDS.get(kind, "an entry of an unknown kind")
            raise BundleError(Problem.FORBIDDEN_ENTRY, f"{_text(name)} is {what}; a bundle holds files alone")
        if block[157:257].strip(b"\0"):
            raise BundleError(Problem.FORBIDDEN_ENTRY, f"{_text(name)} names a link; a bundle holds files alone")
        if block[345:500].strip(b"\0"):
            raise BundleError(Problem.BAD_PATH, f"a path of more than {len(name)} characters is too long")
        try:
            return name.decode("ascii"), _octal(block[124:136])
        except UnicodeDecodeError:
            raise BundleError(Problem.BAD_PATH, f"{_text(name)} is not ASCII") from None

    def body(self, size: int) -> bytes:
        """Return the contents of the file whose head was read."""
        data = self._stream.read(size)
        padding = -size % _BLOCK
        rest = self._stream.read(padding)
        if len(data) < size or len(rest) < padding:
            raise _damaged("the archive ends too soon")
        if rest.strip(b"\0"):
            raise _damaged("there are bytes between two files")
        return data

    def member(self, name: str, limit: int) -> bytes:
        """Return the file that has to come next."""
        head = self.head()
        if head is None or head[0] != name:
            raise _damaged(f"`{name}` is not where it has to be: `{MANIFEST}` first, `{SIGNATURES}` second")
        if head[1] > limit:
            raise BundleError(Problem.TOO_LARGE, f"`{name}` has more than {limit} bytes")
        return self.body(head[1])

    def end(self) -> None:
        """Expect nothing but zeros after the first empty header, and the whole stream's end."""
        rest = self._stream.read(_MAX_END)
        if len(rest) < _BLOCK or rest.strip(b"\0") or not self._stream.finished():
            raise _damaged("something follows the archive")


def _octal(digits: bytes) -> int:
    """Return a number of a header; base-256 and signs, which tar programs read differently, are no numbers here."""
    text = digits.rstrip(b"\0 ")
    if not text or not text.isdigit() or set(text) & set(b"89"):
        raise _damaged("an entry's header has an odd number")
    return int(text, 8)


def _text(name: bytes) -> str:
    return quoted(name.decode("ascii", "backslashreplace"))


def _damaged(message: str) -> BundleError:
    return BundleError(Problem.DAMAGED, message)
