"""Where events are delivered to; one file per kind.

Law: `write` returns only when the sink has the lines, and raises otherwise;
calling it again with the same lines leaves no torn line behind.
Non-goal: retrying (the exporter does, without end).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from ext_authz.audit.settings import FileSinkSettings, SinkSettings
from ext_authz.audit.sinks.file import FileSink
from ext_authz.audit.sinks.stdout import StdoutSink


class Sink(Protocol):
    """One destination, used by one thread. `name` is stable over restarts: the cursor goes by it."""

    name: str

    def write(self, lines: bytes) -> None:
        """Deliver whole lines of JSON, each ending in a newline. Raises OSError when they may not have arrived."""
        ...

    def close(self) -> None:
        """Let go of the destination."""
        ...


def open_sinks(settings: Iterable[SinkSettings], directory: Path) -> list[Sink]:
    """Return the configured sinks of the trail in `directory`. Raises ValueError, saying which cannot be."""
    sinks: list[Sink] = []
    for each in settings:
        if isinstance(each, FileSinkSettings):
            problem = path_problem(each.path, directory)
            if problem is not None:
                raise ValueError(problem)
            sinks.append(FileSink(each.path))
        else:
            sinks.append(StdoutSink())
    return sinks


def path_problem(path: Path, directory: Path) -> str | None:
    """Say why the file sink `path` cannot be used beside the trail in `directory`, or None."""
    if path.resolve().is_relative_to(directory.resolve()):
        return f"`{path}` is inside the trail's own folder {directory}: name a file elsewhere"
    return None
