"""Sealed data for tests: keyrings, names, and both ways through memory."""

import io
import itertools

from ext_authz.envelope.format import DataName
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.envelope.keys.keyring import Keyring, Version
from ext_authz.envelope.stream import seal, unseal

NAME = DataName("dataset", "clicks")
MADE = "2026-11-23T10:00:00Z"
CHUNK = 1024
HEADER = 12_288


def keyring(versions=1, fill=7):
    keys = {number: Version(bytes([fill, number]) * 16, MADE) for number in range(1, versions + 1)}
    return Keyring(f"{fill:016x}", versions, keys)


def provider(versions=1, fill=7):
    return FileKeys(keyring(versions, fill), "file:test.keyring")


def counted():
    """Entropy that is not: known bytes, never the same twice, for vectors."""
    numbers = itertools.count()
    return lambda size: bytes(next(numbers) % 251 for _ in range(size))


def sealed(plain, key=None, name=NAME, chunk=CHUNK, **options):
    out = io.BytesIO()
    seal(io.BytesIO(plain), out, key or provider(), name, chunk_size=chunk, **options)
    return out.getvalue()


def opened(data, key=None, name=NAME):
    out = io.BytesIO()
    unseal(io.BytesIO(data), out, key or provider(), name)
    return out.getvalue()


class Memory:
    """A Disk that remembers what was synced, for power cuts."""

    def __init__(self, data, cut_at=None):
        self.data = bytearray(data)
        self.writes = []

    def read(self, size, at):
        return bytes(self.data[at : at + size])

    def write(self, data, at):
        self.data[at : at + len(data)] = data
        self.writes.append((at, bytes(data)))

    def sync(self):
        self.writes.append(None)
