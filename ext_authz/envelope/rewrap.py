"""Moving an envelope to another key in place: two pages of the header take turns, the data is not touched.

Law: at every moment, torn writes included, one of the two pages opens the data with the old key or the new one; the
old one is erased only after the new one is on the disk and was seen to open. Non-goal: new data keys (encrypt again).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, Self

from ext_authz.envelope.errors import AlteredError, EnvelopeError, KeyUnavailableError
from ext_authz.envelope.format import HEADER_BYTES, PAGE, TAG_BYTES, DataName, Slot, read_header
from ext_authz.envelope.keys import KeyProvider, WrappedKey


class Disk(Protocol):
    """The file that is rewrapped; what was written is only sure to stay after `sync`."""

    def read(self, size: int, at: int) -> bytes:
        """Return up to `size` bytes."""
        ...

    def write(self, data: bytes, at: int) -> None:
        """Write all of `data`."""
        ...

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        ...


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What was moved: the data's name and its key before and after."""

    name: DataName
    before: WrappedKey
    after: WrappedKey


def rewrap(disk: Disk, current: KeyProvider, target: KeyProvider) -> Rewrapped:
    """Wrap the data key under the newest version of `target`; `current` opens it now. They may be the same.

    Also finishes one that was cut off. Raises AlteredError, KeyUnavailableError (`target` must open what it wraps),
    UnsupportedError, OSError; until the last step the file opens as before.
    """
    header = read_header(disk.read(HEADER_BYTES, 0))
    if not disk.read(TAG_BYTES, HEADER_BYTES):
        raise AlteredError("is cut off after its header")
    name, old = header.prelude.name, header.slot
    data_key = current.unwrap(old.wrapped, name.context)
    keys = header.check(data_key)
    wrapped = target.wrap(data_key, name.context)
    try:
        opened = target.unwrap(wrapped, name.context)
    except EnvelopeError as error:
        raise KeyUnavailableError(f"the new key does not open what it wraps, nothing was changed: {error}") from error
    if opened != data_key:
        raise KeyUnavailableError("the new key does not open what it wraps, nothing was changed")
    new = Slot(old.generation + 1, wrapped)
    disk.write(new.encode(header.page, keys.header), new.offset)
    disk.sync()
    disk.write(bytes(PAGE), old.offset)
    disk.sync()
    return Rewrapped(name, old.wrapped, wrapped)


class LockedFile:
    """A Disk over a descriptor open for reading and writing, alone as long as the block lasts.

    Raises BlockingIOError when another process rewraps the same file.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __enter__(self) -> Self:
        fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def read(self, size: int, at: int) -> bytes:
        """As the port says."""
        return os.pread(self.descriptor, size, at)

    def write(self, data: bytes, at: int) -> None:
        """As the port says."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.descriptor, data[done:], at + done)

    def sync(self) -> None:
        """As the port says."""
        os.fsync(self.descriptor)


@contextmanager
def settled(descriptor: int) -> Iterator[None]:
    """Within the block no rewrap changes the file: read a header in it. Does nothing where files cannot be locked."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
