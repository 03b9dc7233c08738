"""What of the trail is deleted in its time: segments that are old, ended, and with every sink.

Law: nothing younger than `retain`, nothing being written, nothing that a sink still lacks by its durable cursor; the
segment goes before its key, so that a crash leaves no segment that cannot be read. Non-goal: making room by force.
"""

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ext_authz.audit.open_segment import being_written
from ext_authz.audit.sealing import Opener, OpenKey, ShreddedError
from ext_authz.audit.trail import DRAFT_SUFFIX, SUFFIX, Segment, segments
from ext_authz.envelope.errors import AlteredError, EnvelopeError, UnsupportedError
from ext_authz.envelope.files import sync_directory

STRAY_SECONDS: Final = 3600.0
"""A wrapped key without a segment, or a draft, is left alone for that long: its segment may be about to be made."""
_STRAY = re.compile(r"[a-z][a-z0-9-]{0,63}-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}\.[0-9]{6,9}\.(key|draft)\Z")
BELIEVED_SECONDS: Final = 86_400.0
TOLERATED_SECONDS: Final = 60.0


def _passed() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class UnhurriedClock:
    """The time, in Unix seconds, but for a clock that was set ahead: that is believed after a day of standing so.

    Set ahead by a year for a minute it would delete a trail. At the start it is measured by the last segment that
    ended. A clock that was set back is believed at once: less is deleted by it.
    """

    def __init__(
        self, directory: Path, *, wall: Callable[[], float] = time.time, passed: Callable[[], float] = _passed
    ) -> None:
        """Begin with the trail in `directory`; `passed` counts seconds, also of a machine asleep. Raises OSError."""
        self._wall, self._passed = wall, passed
        now, ended = wall(), _last_end(directory)
        self._base, self._at = now if ended is None else min(now, ended + BELIEVED_SECONDS), passed()
        self._ahead_since: float | None = None

    def __call__(self) -> float:
        """Return the time."""
        wall, passed = self._wall(), self._passed()
        expected = self._base + passed - self._at
        if wall > expected + TOLERATED_SECONDS:
            self._ahead_since = passed if self._ahead_since is None else self._ahead_since
            if passed - self._ahead_since < BELIEVED_SECONDS:
                return expected
        self._base, self._at, self._ahead_since = wall, passed, None
        return wall


def _last_end(directory: Path) -> float | None:
    ends = []
    for segment in segments(directory):
        with contextlib.suppress(FileNotFoundError):
            if not being_written(segment.path):
                ends.append(segment.path.stat().st_mtime)
    return max(ends, default=None)


def prune(
    directory: Path,
    retain_seconds: float,
    delivered: Callable[[Segment], bool],
    *,
    announce: Callable[[Sequence[Segment]], bool] = lambda _: True,
    clock: Callable[[], float] = time.time,
    open_key: OpenKey | None = None,
) -> list[str]:
    """Delete what is over its time and return the names of the segments deleted. Raises OSError.

    A segment's age is that of its last write, and with `open_key` no more than that of its header, which nobody
    changes without its key: whoever sets a file's time is not to have it deleted on record. A log goes from its
    beginning, so that no gap is left in one. `delivered` says whether every sink has all of a segment. `announce` puts
    on record what is about to be deleted, so that nobody takes it for missing; where it cannot (the trail is full), it
    is asked once more when there is room.
    """
    now = clock()
    until = now - retain_seconds
    due = []
    stays: set[str] = set()
    ages = _Ages(open_key)
    for segment in segments(directory):
        with contextlib.suppress(FileNotFoundError):
            old = segment.log_id not in stays and segment.path.stat().st_mtime <= until
            old = old and not being_written(segment.path) and delivered(segment)
            if old and (open_key is None or ages.begun(segment) <= until):
                due.append(segment)
                continue
        stays.add(segment.log_id)
    gone: list[str] = []
    told = not due or announce(due)
    for segment in due:
        with contextlib.suppress(FileNotFoundError):
            segment.path.unlink()
            sync_directory(directory)
            segment.key.unlink(missing_ok=True)
            gone.append(segment.name)
    if not told:
        announce(due)
    for path in (*directory.glob("*.key"), *directory.glob(f"*{DRAFT_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):
            stray = _STRAY.match(path.name) and not path.with_suffix(SUFFIX).exists()
            if stray and path.stat().st_mtime < now - STRAY_SECONDS:
                path.unlink()
    return gone


class _Ages:
    """When segments were begun, as far as that can be believed: a file's time is anybody's who may write the file."""

    def __init__(self, open_key: OpenKey | None) -> None:
        self._opener = Opener(open_key)
        self._asks = True

    def begun(self, segment: Segment) -> float:
        """Return Unix seconds from the header; of one that does not open, when its file was last changed in any way."""
        found = None
        try:
            found = self._opener.segment(segment.path) if self._asks else None
        except (AlteredError, ShreddedError, UnsupportedError, OSError):
            pass
        except EnvelopeError:
            self._asks = False  # a key service that is away is waited for once
        return segment.path.stat().st_ctime if found is None else found.header.started_ns / 1e9
