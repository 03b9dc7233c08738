"""The files of a log being written: the folder, the keys in it, and a segment while it is open.

Law: a file has its wrapped key and its name on the disk before the first frame is in it; whoever writes it holds a
lock on it. Non-goal: when (spool.py).
"""

import contextlib
import datetime as dt
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ext_authz.audit.sealing import DataKeys, key_path, write_key
from ext_authz.audit.segment import Damage, Kind, Segment
from ext_authz.audit.trail import DRAFT_SUFFIX, SUFFIX, segment_path
from ext_authz.envelope.files import make_folder, sync_directory

QUERY_KEY_FILE: Final = "query.key"
_QUERY_KEY_BYTES: Final = 32
_RANDOM_BYTES: Final = 8
_COPY_BYTES: Final = 1024 * 1024
_OTHERS_WRITE: Final = 0o022
_APPEND: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class OpenSegment:
    """A segment that this process writes. `size` and `synced` in bytes: whole frames, and what is on the disk.

    `counter` is the next nonce, `events` how many are in it, `begun` monotonic seconds.
    """

    path: Path
    key: Path
    fd: int
    segment: Segment
    size: int
    synced: int = 0
    counter: int = 0
    events: int = 0
    begun: float = field(default_factory=time.monotonic)

    def put(self, kind: Kind, payload: bytes) -> None:
        """Seal a frame and write it. Raises OSError; then the segment is not whole any more."""
        frame = self.segment.seal(kind, payload, self.size, self.counter, self.events)
        self.counter += 1
        if os.write(self.fd, frame) != len(frame):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.size += len(frame)
        self.events += kind is Kind.EVENT

    def close(self) -> None:
        """Close the file, which also gives up the lock on it."""
        os.close(self.fd)

    def place(self) -> None:
        """Bring a draft to the disk and give it its name there. Raises OSError; then it may have it or not."""
        os.fdatasync(self.fd)
        self.path = self.path.rename(self.path.with_suffix(SUFFIX))
        sync_directory(self.path.parent)
        self.synced = self.size

    def remove(self) -> None:
        """Close the file and take it away with its key: what was sealed in it was not needed."""
        self.close()
        for path in (self.path, self.key):
            with contextlib.suppress(OSError):
                path.unlink()

    @property
    def missing(self) -> bool:
        """Whether the file, or its key, was removed or replaced."""
        try:
            here, there = os.fstat(self.fd), os.lstat(self.path)
            return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) or not self.key.exists()
        except OSError:
            return True


@dataclass(slots=True)
class Blank:
    """The empty file of a segment, locked, named and with its wrapped key beside it, all of that on the disk."""

    path: Path
    key: Path
    fd: int
    data_key: bytes = field(repr=False)
    salt: bytes
    log_id: str
    number: int

    @classmethod
    def create(cls, directory: Path, keys: DataKeys, number: int, *, draft: bool = False) -> "Blank":
        """Make the file of segment `number`, as a `draft` under a name that no reader looks at.

        Raises OSError; then its data key is used up and no file is left.
        """
        taken = keys.take(number)
        if taken is None:
            raise OSError(errno.ENOKEY, keys.last_error or "no data key is wrapped yet", str(directory))
        data_key, wrapped = taken
        path = segment_path(directory, keys.log_id, number)
        shown = path.with_suffix(DRAFT_SUFFIX) if draft else path
        made = cls(shown, key_path(path), -1, data_key, keys.salt(), keys.log_id, number)
        try:
            write_key(made.key, wrapped)
            made.fd = os.open(shown, _APPEND, 0o600)
            fcntl.flock(made.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fsync(made.fd)
            sync_directory(directory)
        except OSError:
            made.remove()
            raise
        return made

    def begin(self, first_seq: int, root: bytes) -> OpenSegment:
        """Write the header: the segment begins with event `first_seq`, `root` is the tree's before it.

        Raises OSError; then no file is left.
        """
        segment = Segment.create(
            self.data_key,
            self.salt,
            log_id=self.log_id,
            number=self.number,
            first_seq=first_seq,
            started_ns=time.time_ns(),
            root=root,
        )
        try:
            if os.write(self.fd, segment.bytes) != len(segment.bytes):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))  # noqa: TRY301
        except OSError:
            self.remove()
            raise
        return OpenSegment(self.path, self.key, self.fd, segment, len(segment.bytes))

    def remove(self) -> None:
        """Take the files away."""
        if self.fd >= 0:
            os.close(self.fd)
        for path in (self.path, self.key):
            with contextlib.suppress(OSError):
                path.unlink()


def reseal(parts: Iterable[OpenSegment], fresh: OpenSegment, seq: int) -> None:
    """Seal what may not be on the disk again in `fresh`, whose first event is `seq`.

    Raises OSError where it cannot be read back exactly, or not be written whole.
    """
    for part in parts:
        at = max(part.synced, len(part.segment.bytes))
        while at < part.size:
            data = os.pread(part.fd, min(_COPY_BYTES, part.size - at), at)
            before = at
            for each in part.segment.read(data, at):
                if isinstance(each, Damage) or each.seq != seq:
                    raise OSError(errno.EIO, "what was not durable cannot be read back", str(part.path))
                fresh.put(each.kind, each.payload)
                seq, at = seq + (each.kind is Kind.EVENT), each.end
            if at == before:
                raise OSError(errno.EIO, "what was not durable cannot be read back", str(part.path))


def prepare_folder(directory: Path) -> str:
    """Make the trail's folder (0700) where it is missing; return why it cannot be used, "" where it can."""
    make_folder(directory)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        return f"{directory}: not a directory"
    if found.st_mode & _OTHERS_WRITE:
        return f"{directory}: others can write it (chmod 700)"
    return ""


def make_log_id(name: str, now_ns: int, entropy: Callable[[int], bytes]) -> str:
    """Return `NAME-START-RANDOM`, the log's name for ever."""
    started = dt.datetime.fromtimestamp(now_ns // 1_000_000_000, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{name}-{started}-{entropy(_RANDOM_BYTES).hex()}"


def query_key_of(directory: Path) -> bytes:
    """Return the trail's key for query hashes, made (0600) at the first start.

    Several processes may start at once: the first link wins, all read the same key. Raises ValueError, OSError.
    """
    path = directory / QUERY_KEY_FILE
    for _ in range(2):
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            draft = directory / f".{QUERY_KEY_FILE}.{secrets.token_hex(8)}"
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(fd, secrets.token_bytes(_QUERY_KEY_BYTES))
                os.fsync(fd)
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(draft)
            finally:
                os.close(fd)
                draft.unlink()
        else:
            if len(key) != _QUERY_KEY_BYTES:
                raise ValueError(f"{path.name} is not a key of {_QUERY_KEY_BYTES} bytes")
            return key
    raise ValueError(f"{path.name} cannot be made")


def trail_bytes(directory: Path) -> int:
    """Return the size of all segments in a folder, in bytes."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(directory) as found:
        for each in found:
            if each.name.endswith(".seg"):
                with contextlib.suppress(FileNotFoundError):
                    total += each.stat(follow_symlinks=False).st_size
    return total


def being_written(path: Path) -> bool:
    """Whether a process has the segment open for writing. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
