"""What a sink refused for good: which event, why, and where it stands in the trail.

Law: no event is in here, only its name and place: the trail keeps it, encrypted as ever. Written and synced before
the cursor passes it, so a crash may list an event twice. Non-goal: sending again.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from ext_authz.audit.cursor import file_name
from ext_authz.envelope.files import make_folder, sync_directory

FOLDER: Final = "dead-letters"
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Letter:
    """One refusal. Where it is not known which of `among` events it was, `event_id` is the first of them."""

    event_id: str
    reason: str
    among: int
    segment: str
    offset: int


class DeadLetters:
    """The file of the sink `name`, `dead-letters/….jsonl` beside the cursors, 0600."""

    def __init__(self, directory: Path, name: str) -> None:
        self._sink = name
        self.path = directory / FOLDER / f"{file_name(name)}.jsonl"

    def write(self, letters: Sequence[Letter]) -> None:
        """Append and sync. Raises OSError."""
        lines = b"".join(
            orjson.dumps(
                {
                    "sink": self._sink,
                    "event_id": each.event_id,
                    "reason": each.reason[:200],
                    "segment": each.segment,
                    "offset": each.offset,
                }
                | ({"among": each.among} if each.among > 1 else {}),
                option=orjson.OPT_APPEND_NEWLINE,
            )
            for each in letters
        )
        make_folder(self.path.parent)
        fd = os.open(self.path, _FLAGS, 0o600)
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(fd, view) :]
            os.fdatasync(fd)
        finally:
            os.close(fd)
        sync_directory(self.path.parent)
