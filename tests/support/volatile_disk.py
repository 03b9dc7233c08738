"""A disk that forgets: it watches what a program does to a folder, and makes of it what a power failure may leave.

Durable is only what fdatasync or fsync of the file, and fsync of the folder, has covered. Of the rest pages of 4 KiB
arrive in any order or not at all, sizes and names as some prefix of what was done; after a failed sync pages are taken
for clean and never arrive (as Linux does it). The product runs unchanged: `os` is watched while it does.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

PAGE = 4096
Pick = Callable[[int], int]
"""Returns one of the numbers from 0 up to and with the given one."""
_Key = tuple[int, int]


class PowerLoss(BaseException):
    """The power fails; nothing that follows happens."""


@dataclass
class _File:
    keeper: int
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, data), or (size, None) for a truncation, since the last sync."""
    lost: set[int] = field(default_factory=set)
    """Pages that a failed sync has marked clean."""

    def now(self) -> bytes:
        return os.pread(self.keeper, os.fstat(self.keeper).st_size, 0)

    def synced(self) -> None:
        content = bytearray(self.now())
        for page in self.lost:
            at = page * PAGE
            old = self.durable[at : at + PAGE].ljust(PAGE, b"\0")
            content[at : at + PAGE] = old[: len(content[at : at + PAGE])]
        self.durable, self.pending = bytes(content), []

    def failed(self) -> None:
        for offset, data in self.pending:
            if data:
                self.lost |= set(range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1))

    def left(self, pick: Pick, *, ordered: bool) -> bytes:
        """Return what is there after the power failed."""
        contents = [self.durable]
        for offset, data in self.pending:
            before = contents[-1]
            if data is None:
                contents.append(before[:offset].ljust(offset, b"\0"))
            else:
                contents.append(before[:offset].ljust(offset, b"\0") + data + before[offset + len(data) :])
        full = contents[-1] if self.pending else self.durable
        if ordered:
            size = len(contents[pick(len(contents) - 1)])
            size -= pick(1) * (size % PAGE) if size > len(self.durable) else 0
            size = max(size, min(len(self.durable), len(full)))
            arrived = -(-pick(size) // PAGE) * PAGE
            kept = max(arrived, len(self.durable))
            content = bytearray(full[:kept][:size].ljust(size, b"\0"))
        else:
            sizes = sorted({len(each) for each in contents} | set(range(0, len(full), PAGE)))
            sizes = [each for each in sizes if each >= min(len(self.durable), len(full))]
            size = sizes[pick(len(sizes) - 1)]
            content = bytearray(full[:size].ljust(size, b"\0"))
            for at in range(0, size, PAGE):
                if pick(3) == 0:
                    self._old(content, at)
        for page in self.lost:
            self._old(content, page * PAGE)
        return bytes(content)

    def _old(self, content: bytearray, at: int) -> None:
        room = len(content[at : at + PAGE])
        content[at : at + PAGE] = self.durable[at : at + PAGE].ljust(PAGE, b"\0")[:room]


@dataclass
class _Folder:
    durable: dict[str, _Key] = field(default_factory=dict)
    pending: list[dict[str, _Key]] = field(default_factory=list)
    """The names after each change since the last sync."""

    def now(self) -> dict[str, _Key]:
        return self.pending[-1] if self.pending else self.durable

    def change(self, changes: dict[str, _Key | None]) -> None:
        made = {**self.now(), **changes}
        self.pending.append({name: key for name, key in made.items() if key is not None})


class VolatileDisk:
    """Watches `root`, which is empty or durable as it is. `fail_at`: the number of the change before which power fails."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes = 0
        self.fail_at: int | None = None
        self.failing_syncs = 0
        self._lock = threading.RLock()
        self._files: dict[_Key, _File] = {}
        self._folders: dict[_Key, _Folder] = {}
        self._adopt(root)

    def close(self) -> None:
        for each in self._files.values():
            os.close(each.keeper)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what this process does by way of `os`."""
        patches = {
            name: getattr(self, f"_{name}")
            for name in (
                "open",
                "write",
                "ftruncate",
                "fsync",
                "fdatasync",
                "unlink",
                "rename",
                "replace",
                "link",
                "mkdir",
            )
        }
        self._real = {name: getattr(os, name) for name in patches}
        with mock.patch.multiple(os, **patches):
            yield

    def after_power_loss(self, target: Path, pick: Pick, *, ordered: bool = False) -> None:
        """Make in `target` what is left. `ordered`: data before sizes, sizes in order (ext4's `data=ordered`)."""
        self._make(_key(os.stat(self.root)), target, pick, ordered)

    def _make(self, key: _Key, target: Path, pick: Pick, ordered: bool) -> None:
        target.mkdir(mode=0o700)
        folder = self._folders[key]
        states = [folder.durable, *folder.pending]
        for name, each in sorted(states[pick(len(states) - 1)].items()):
            if each in self._folders:
                self._make(each, target / name, pick, ordered)
            else:
                (target / name).write_bytes(self._files[each].left(pick, ordered=ordered))
                (target / name).chmod(0o600)

    def _adopt(self, path: Path) -> _Key:
        key = _key(os.lstat(path))
        if path.is_dir():
            self._folders[key] = _Folder({each.name: self._adopt(each) for each in path.iterdir()})
        else:
            file = self._files[key] = _File(os.open(path, os.O_RDONLY))
            file.durable = file.now()
        return key

    def _step(self) -> None:
        if self.fail_at is not None and self.changes >= self.fail_at:
            raise PowerLoss
        self.changes += 1

    def _folder_of(self, path: Any, dir_fd: int | None) -> tuple[_Folder | None, str]:
        place = os.fspath(path)
        if dir_fd is not None:
            return self._folders.get(_key(os.fstat(dir_fd))), place
        parent, name = os.path.split(place)
        return self._folders.get(_key(os.stat(parent or "."))), name

    def _file(self, fd: int) -> _File | None:
        found = os.fstat(fd)
        return self._files.get(_key(found)) if stat.S_ISREG(found.st_mode) else None

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        with self._lock:
            if not flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY):
                return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
            folder, name = self._folder_of(path, dir_fd)
            if folder is None:
                return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
            self._step()
            fd = int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
            key = _key(os.fstat(fd))
            if key not in self._files:
                self._files[key] = _File(self._real["open"](f"/proc/self/fd/{fd}", os.O_RDONLY))
                if not flags & os.O_TMPFILE & ~os.O_DIRECTORY:
                    folder.change({name: key})
            elif flags & os.O_TRUNC:
                self._files[key].pending.append((0, None))
            return fd

    def _write(self, fd: int, data: Any) -> int:
        with self._lock:
            file = self._file(fd)
            if file is None:
                return int(self._real["write"](fd, data))
            self._step()
            appends = os.O_APPEND & _flags(fd)
            offset = os.fstat(fd).st_size if appends else os.lseek(fd, 0, os.SEEK_CUR)
            count = int(self._real["write"](fd, data))
            file.pending.append((offset, bytes(data[:count])))
            return count

    def _ftruncate(self, fd: int, size: int) -> None:
        with self._lock:
            file = self._file(fd)
            if file is not None:
                self._step()
                file.pending.append((size, None))
            self._real["ftruncate"](fd, size)

    def _fsync(self, fd: int) -> None:
        with self._lock:
            key = _key(os.fstat(fd))
            if key in self._folders or key in self._files:
                self._step()
            if key in self._folders:
                folder = self._folders[key]
                folder.durable, folder.pending = folder.now(), []
            elif key in self._files:
                if self.failing_syncs:
                    self.failing_syncs -= 1
                    self._files[key].failed()
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                self._files[key].synced()

    _fdatasync = _fsync

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        with self._lock:
            folder, name = self._folder_of(path, dir_fd)
            if folder is not None:
                self._step()
            self._real["unlink"](path, dir_fd=dir_fd)
            if folder is not None:
                folder.change({name: None})

    def _rename(self, old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        with self._lock:
            folder, before = self._folder_of(old, src_dir_fd)
            same, after = self._folder_of(new, dst_dir_fd)
            assert folder is same, "only within one folder"
            if folder is not None:
                self._step()
            self._real["rename"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            if folder is not None:
                folder.change({before: None, after: folder.now()[before]})

    _replace = _rename

    def _link(
        self,
        source: Any,
        path: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        with self._lock:
            folder, name = self._folder_of(path, dst_dir_fd)
            if folder is not None:
                self._step()
            self._real["link"](
                source, path, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks
            )
            if folder is not None:
                folder.change({name: _key(os.stat(path, dir_fd=dst_dir_fd))})

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        with self._lock:
            parent = os.path.dirname(os.fspath(path)) or "."
            folder, name = self._folder_of(path, dir_fd) if os.path.isdir(parent) else (None, "")
            if folder is not None and not os.path.lexists(path):
                self._step()
            self._real["mkdir"](path, mode, dir_fd=dir_fd)
            if folder is not None:
                key = _key(os.stat(path, dir_fd=dir_fd))
                self._folders[key] = _Folder()
                folder.change({name: key})


def _key(found: os.stat_result) -> _Key:
    return found.st_dev, found.st_ino


def _flags(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL)
