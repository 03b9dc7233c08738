"""When each API key was last used: noted by checks in memory, written to a file by a thread of the worker.

Law: a check pays one assignment; what a killed worker loses is the last few seconds. Only ids are kept, never keys.
Non-goal: deciding anything by it.
"""

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

FOLDER: Final = "last-use"
WRITE_SECONDS: Final = 5.0
MAX_IDS: Final = 65536


class LastUseWriter:
    """Merges `used` (Unix seconds by key id) into `folder/NAME.json` (0600) whenever it changed."""

    def __init__(self, used: dict[str, int], run_dir: Path, name: str) -> None:
        self._used = used
        self._path = run_dir / FOLDER / f"{name}.json"
        self._before = _read(self._path)
        self._written: dict[str, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="last-use", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(WRITE_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        used = dict(self._used)
        if used == self._written:
            return
        merged = sorted({**self._before, **used}.items(), key=lambda each: -each[1])[:MAX_IDS]
        draft = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # next time; nobody's access hangs on it
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(orjson.dumps(dict(merged)))
            draft.replace(self._path)
            self._written = used


def last_uses(run_dir: Path) -> Mapping[str, int]:
    """Return when (Unix seconds) each key was last used on this machine, by id; what cannot be read is left out."""
    found: dict[str, int] = {}
    for path in sorted((run_dir / FOLDER).glob("*.json")):
        for key_id, seconds in _read(path).items():
            found[key_id] = max(seconds, found.get(key_id, 0))
    return found


def _read(path: Path) -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError):
        plain = orjson.loads(path.read_bytes())
        if isinstance(plain, dict):
            return {name: at for name, at in plain.items() if isinstance(at, int) and 0 <= at < 2**40}
    return {}
