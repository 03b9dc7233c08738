"""How far one sink has got in the trail, kept on the disk.

Law: a cursor may lag behind what was delivered (then events come twice), never
lead. A damaged one starts from the beginning. Non-goal: delivering.
"""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from ext_authz.envelope.files import sync_directory

FOLDER: Final = "cursors"


@dataclass(slots=True)
class Position:
    """In one segment: bytes done, and the events among them delivered and dropped."""

    offset: int = 0
    delivered: int = 0
    dropped: int = 0


class Cursor:
    """The positions of the sink `name` in the trail in `directory`. Used by one thread."""

    def __init__(self, directory: Path, name: str) -> None:
        self._sink = name
        folder = directory / FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{file_name(name)}.json"
        self.positions: dict[str, Position] = {}
        self.damaged = False
        self._load()

    def at(self, segment: str) -> Position:
        """Return the position in `segment`; the beginning where it is new."""
        return self.positions.setdefault(segment, Position())

    def save(self) -> None:
        """Replace the file atomically and durably. Raises OSError."""
        plain = {
            "version": 1,
            "sink": self._sink,
            "segments": {name: [at.offset, at.delivered, at.dropped] for name, at in self.positions.items()},
        }
        replace_file(self._path, orjson.dumps(plain, option=orjson.OPT_SORT_KEYS))

    def _load(self) -> None:
        try:
            plain = orjson.loads(self._path.read_bytes())
            if plain["version"] != 1 or plain["sink"] != self._sink:
                raise ValueError("of another version or sink")  # noqa: TRY301  all damage has one consequence
            for name, numbers in plain["segments"].items():
                if not all(type(number) is int and number >= 0 for number in numbers):
                    raise ValueError("not a position")  # noqa: TRY301
                self.positions[name] = Position(*numbers)
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError, AttributeError):
            self.damaged = True
            self.positions = {}


def file_name(sink: str) -> str:
    """Return what a sink's own files are called: readable, and different for different sinks."""
    slug = re.sub(r"[^a-z0-9]+", "-", sink.lower())[:32].strip("-")
    return f"{slug}-{hashlib.sha256(sink.encode()).hexdigest()[:16]}"


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that after a crash the old or the new is there, whole. Raises OSError."""
    draft = path.with_suffix(".tmp")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    finally:
        os.close(fd)
    draft.replace(path)
    sync_directory(path.parent)
