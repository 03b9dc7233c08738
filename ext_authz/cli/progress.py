"""A sign of life for work that takes longer than two seconds, on a terminal only: a bar for bytes, else a line.

Law: it writes to stderr alone, and to nothing that is not a terminal. Non-goal: knowing what the work is.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE: Final = 2.0
_EVERY: Final = 0.1


class Meter:
    """Counts bytes; shows a bar once `PATIENCE` seconds went by. `size` in bytes, None where it is not known."""

    def __init__(
        self,
        title: str,
        size: int | None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self.size = size
        self.stream = stream or sys.stderr
        self.clock = clock
        self.done = 0
        self.next = clock() + PATIENCE if self.stream.isatty() else float("inf")
        self.bar: tuple[Progress, TaskID] | None = None

    def moved(self, count: int) -> None:
        """`count` more bytes are done."""
        self.done += count
        now = self.clock()
        if now >= self.next:
            self.next = now + _EVERY
            self._show()

    def _show(self) -> None:
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.progress import TransferSpeedColumn as Speed

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True))
            console = Console(file=self.stream, highlight=False)
            progress = Progress(*columns, Speed(), TimeRemainingColumn(), console=console, transient=True)
            progress.start()
            self.bar = progress, progress.add_task(self.title, total=self.size)
        progress, task = self.bar
        progress.update(task, completed=self.done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar[0].stop()


@contextlib.contextmanager
def waiting(doing: str, *, stream: TextIO | None = None, patience: float = PATIENCE) -> Iterator[None]:
    """Say what is being done once it took `patience` seconds, on a terminal; take the words away when it is done."""
    shown = stream or sys.stderr
    if not shown.isatty():
        yield
        return
    said = threading.Event()

    def say() -> None:
        said.set()
        with contextlib.suppress(OSError, ValueError):
            shown.write(f"{doing} …")
            shown.flush()

    timer = threading.Timer(patience, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if said.is_set():
            shown.write("\r\x1b[2K")
            shown.flush()
