"""Where the monitor's events come from: trails and files here, streams elsewhere (feeds_streams.py, feeds_nats.py).

Law: every event once, and after a restart from where the remembered place says. Non-goal: what events mean.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ext_authz.audit.reader import Trail
from ext_authz.audit.sealing import OpenKey


class Feed(Protocol):
    """A source of events, used by one thread."""

    def entries(self) -> Iterator[Mapping[str, Any]]:
        """Return the events that came since; to be read to the end. Raises OSError and what keys raise."""
        ...

    begins_again: bool
    """Whether a failure in the middle of `entries` may have lost some, so that it is to go on from a place before."""

    def resume(self, place: Any) -> None:  # noqa: ANN401  what `place` returned
        """Go on from a place; None: from the beginning."""
        ...

    def place(self) -> Any:  # noqa: ANN401  JSON data
        """Say how far it was read; true when `entries` was read to its end."""
        ...

    def remembered(self) -> None:
        """Take note that what was read is in a snapshot: it need not be kept for this reader any more."""
        ...

    @property
    def waits(self) -> bool:
        """Whether it delivers no more before what it delivered is remembered."""
        ...

    @property
    def ended(self) -> bool:
        """Whether there will be no more."""
        ...


class TrailFeed:
    """Folders (run_dirs or trails) and files of JSON lines, read as they grow."""

    ended = False
    begins_again = True
    waits = False

    def __init__(self, paths: Iterable[Path], open_key: OpenKey | None) -> None:
        """Take paths; raises FileNotFoundError where one does not exist."""
        self._paths = tuple(paths)
        self._open_key = open_key
        self._trail = Trail(self._paths, open_key)

    def resume(self, place: Any) -> None:  # noqa: ANN401
        """Take up where another was; what makes no sense is read from the beginning."""
        known = place if isinstance(place, dict) else {}
        places = {str(path): at for path, at in known.items() if type(at) is int and at >= 0}
        self._trail = Trail(self._paths, self._open_key, places=places)

    def entries(self) -> Iterator[Mapping[str, Any]]:
        """Return the events that came since, in order of time."""
        for entry in self._trail.entries():
            yield entry.event

    def place(self) -> dict[str, int]:
        """Return the offset in each file."""
        return self._trail.places()

    def remembered(self) -> None:
        """Nothing: files stay."""
