"""Standard output as a sink.

Law: a reader that stops reading holds up this sink's thread and nothing else.
Non-goal: acknowledgement; a pipe has none.
"""

import os
import select
from collections.abc import Sequence

from ext_authz.audit.sinks import Encode, Item, Refused


class StdoutSink:
    """Writes to descriptor 1 (or the one given)."""

    best_effort = True

    def __init__(self, name: str, encode: Encode, fd: int = 1) -> None:
        self.name = name
        self._encode = encode
        self._fd = fd
        self._torn = False

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Write a line for each item. Raises OSError."""
        self.write(b"\n".join([self._encode(item) for item in items]) + b"\n")
        return ()

    def write(self, lines: bytes) -> None:
        """Write all of `lines`; a line torn by an earlier failure is ended first. Raises OSError."""
        view = memoryview(b"\n" + lines if self._torn else lines)
        while view:
            try:
                written = os.write(self._fd, view)
            except BlockingIOError:
                select.select([], [self._fd], [])
                continue
            self._torn = view[written - 1] != ord("\n")
            view = view[written:]

    def close(self) -> None:
        """Do nothing: standard output is not ours to close."""
