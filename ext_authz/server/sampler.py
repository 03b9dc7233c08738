"""The last quarter of an hour of rates and durations, from the processes' own counters.

Law: a few numbers every few seconds, bounded, whoever looks; counters that went back begin anew.
Non-goal: keeping them (Prometheus does).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from ext_authz.model import Reason
from ext_authz.server.metrics import BOUNDS_NS, CHECKS, Snapshot

EVERY_SECONDS: Final = 3.0
KEEP: Final = 300
QUANTILES: Final = (0.5, 0.99)
_FAILURES: Final = frozenset(reason.value for reason in Reason if reason.http_status == 503)  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class Sample:
    """Totals at one moment (Unix seconds): checks allowed, denied, failed (a 503), and the duration histogram."""

    at: float
    allowed: float
    denied: float
    failed: float
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """What one interval, ending at `at`, was like: checks a second by outcome; seconds at the quantiles, or None."""

    at: float
    allowed: float
    denied: float
    failed: float
    quantiles: tuple[float | None, ...]

    @property
    def total(self) -> float:
        """Checks a second."""
        return self.allowed + self.denied + self.failed


class Sampler:
    """Looks at `read()` every few seconds on a thread of its own."""

    def __init__(self, read: Callable[[], Iterable[Snapshot]], clock: Callable[[], float] = time.time) -> None:
        self._read, self._clock = read, clock
        self._samples: deque[Sample] = deque(maxlen=KEEP + 1)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Take one sample."""
        self._samples.append(totals(self._read(), self._clock()))

    def points(self) -> list[Point]:
        """Return the intervals so far, oldest first."""
        return [point(before, after) for before, after in pairwise(list(self._samples)) if after.at > before.at]

    def _run(self) -> None:
        while True:
            self.look()
            if self._done.wait(EVERY_SECONDS):
                return


def totals(snapshots: Iterable[Snapshot], now: float) -> Sample:
    """Add up what the processes have counted; a damaged snapshot is left out."""
    allowed = denied = failed = 0.0
    buckets = [0] * (len(BOUNDS_NS) + 1)
    for snapshot in snapshots:
        try:
            counted = [(each[1], each[2], float(each[3])) for each in snapshot["counters"] if each[0] == CHECKS]
            mine = [int(each) for each in snapshot["buckets"]] if snapshot.get("bounds") == list(BOUNDS_NS) else []
        except (KeyError, TypeError, ValueError, IndexError):
            continue
        for decision, reason, count in counted:
            if decision == "allow":
                allowed += count
            elif reason in _FAILURES:
                failed += count
            else:
                denied += count
        for index, count in enumerate(mine):
            buckets[index] += count
    return Sample(now, allowed, denied, failed, tuple(buckets))


def point(before: Sample, after: Sample) -> Point:
    """Return what happened between two samples."""
    seconds = after.at - before.at
    allowed, denied, failed = (
        max(0.0, late - early) / seconds
        for early, late in (
            (before.allowed, after.allowed),
            (before.denied, after.denied),
            (before.failed, after.failed),
        )
    )
    new = [max(0, late - early) for early, late in zip(before.buckets, after.buckets, strict=True)]
    return Point(after.at, allowed, denied, failed, tuple(quantile(new, each) for each in QUANTILES))


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """Return the seconds under which `share` of a histogram's durations are, within a bucket by proportion.

    As `histogram_quantile` of Prometheus: what is beyond the last bound counts as that bound. None: nothing counted.
    """
    total = sum(buckets)
    if not total:
        return None
    wanted, below, lower = share * total, 0, 0
    for bound, count in zip(BOUNDS_NS, buckets, strict=False):
        if count and below + count >= wanted:
            return (lower + (bound - lower) * (wanted - below) / count) / 1e9
        below, lower = below + count, bound
    return BOUNDS_NS[-1] / 1e9


def hits(snapshots: Iterable[Mapping[str, Any]], name: str) -> dict[tuple[str, ...], float]:
    """Return a counter's totals by labels."""
    found: dict[tuple[str, ...], float] = {}
    for snapshot in snapshots:
        for each in snapshot.get("counters", ()):
            if isinstance(each, list) and each[:1] == [name] and isinstance(each[-1], (int, float)):
                key = tuple(map(str, each[1:-1]))
                found[key] = found.get(key, 0) + each[-1]
    return found
