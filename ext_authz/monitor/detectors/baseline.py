"""The most that was ever usual: a threshold from a subject's own busiest windows.

Law: an alarm teaches little (a day's peak raises what is usual at most by
`growth`), and a slow ramp is measured against an anchor that cannot follow it.
Non-goal: averages. Traffic of real clients has no useful mean (docs/monitoring.md).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

MEMORY_DAYS: Final = 28
MAX_COUNT: Final = 2**53


@dataclass(frozen=True, slots=True)
class Limits:
    """When a window is more than usual: above `floor`, and above `factor` times the most of the last 28 active days."""

    floor: int
    factor: float = 3.0
    spread: float = 2.0
    """Bursty subjects get more room: the factor is at least e to this times the mean daily change of the log peak."""
    most: float = 50.0
    """The factor is never more than this, however bursty."""
    warm_days: int = 7
    """Active days before own history counts."""
    growth: float = 2.0
    """How much one day may raise what is usual."""
    long_factor: float = 20.0
    """Alarm above this times the anchor, which grows by `growth` in a week at most."""


class Baseline:
    """Daily peaks of one kind of window for one key."""

    __slots__ = ("_judged", "_limits", "anchor", "day", "peak", "peaks")

    def __init__(self, day: int) -> None:
        self.day = day
        self.peak = 0
        self.peaks: list[int] = []
        self.anchor = 0.0
        self._limits: Limits | None = None
        """For these limits `_judged` is the threshold, until a day is closed."""
        self._judged = 0.0

    def note(self, day: int, count: int, limits: Limits) -> None:
        """Take in that a window of `day` (days since 1970) now holds `count`; an older day is ignored."""
        if day > self.day:
            self._close(day, limits)
        if day == self.day and count > self.peak:
            self.peak = count

    def _close(self, day: int, limits: Limits) -> None:
        if self.peak:
            peaks = self.peaks
            most = max(peaks) if peaks else self.peak
            learned = self.peak
            if len(peaks) >= limits.warm_days:
                learned = min(learned, math.ceil(max(most, limits.floor / limits.factor) * limits.growth))
            if not self.anchor or len(peaks) < limits.warm_days:
                self.anchor = max(self.anchor, learned)
            else:
                slow: float = limits.growth ** (1 / 7)
                self.anchor = min(max(learned, self.anchor / slow), self.anchor * slow)
            peaks.append(learned)
            del peaks[:-MEMORY_DAYS]
            self._limits = None
        self.day = day
        self.peak = 0

    @property
    def most(self) -> int:
        """The most that was usual, 0 without history."""
        return max(self.peaks, default=0)

    def is_warm(self, limits: Limits) -> bool:
        """Whether there is history enough to judge by."""
        return len(self.peaks) >= limits.warm_days

    def threshold(self, limits: Limits) -> float:
        """Return the count above which a window is unusual, by own history alone."""
        if self._limits is limits:
            return self._judged
        room = min(max(limits.factor, math.exp(min(limits.spread * self._spread(limits), 50.0))), limits.most)
        self._judged = max(limits.floor, min(max(self.peaks, default=0) * room, self.anchor * limits.long_factor))
        self._limits = limits
        return self._judged

    def _spread(self, limits: Limits) -> float:
        # Ups and downs that no threshold would notice say nothing about bursts.
        least = limits.floor / limits.factor
        peaks = [max(peak, least) for peak in self.peaks]
        if len(peaks) < 2:  # noqa: PLR2004  no change without two
            return 0.0
        logs = [math.log(peak) for peak in peaks]
        return sum(abs(after - before) for before, after in pairwise(logs)) / (len(logs) - 1)

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        return [self.day, self.peak, self.anchor, self.peaks]

    @classmethod
    def unpack(cls, packed: Any) -> "Baseline":  # noqa: ANN401  plain data from outside
        """Return what `pack` wrote; raises ValueError or TypeError."""
        day, peak, anchor, peaks = packed
        made = cls(whole(day))
        made.peak, made.anchor = whole(peak), float(anchor)
        made.peaks = [whole(each) for each in peaks[-MEMORY_DAYS:]]
        if not 0 <= made.anchor <= MAX_COUNT:
            raise ValueError("not an anchor")
        return made


class Peers:
    """How busy others of a kind get: daily peaks in quarter octaves, halved when a day has passed 30 times."""

    __slots__ = ("_buckets", "_day")

    def __init__(self) -> None:
        self._buckets: dict[int, float] = {}
        self._day = 0

    def note(self, day: int, peak: int) -> None:
        """Take in one key's peak of one day."""
        if day > self._day:
            keep = 0.5 ** min((day - self._day) / 30, 60) if self._day else 1.0
            self._buckets = {place: weight * keep for place, weight in self._buckets.items() if weight * keep > 1e-3}  # noqa: PLR2004
            self._day = day
        place = round(4 * math.log2(peak)) if peak > 0 else 0
        self._buckets[place] = self._buckets.get(place, 0.0) + 1.0

    @property
    def count(self) -> float:
        """How many days of peers it knows."""
        return sum(self._buckets.values())

    def quantile(self, share: float) -> float:
        """Return the peak that this share of days stays under, 0 without peers."""
        left = share * self.count
        for place in sorted(self._buckets):
            left -= self._buckets[place]
            if left <= 0:
                return float(2.0 ** (place / 4))
        return 0.0

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        return [self._day, sorted(self._buckets.items())]

    @classmethod
    def unpack(cls, packed: Any) -> "Peers":  # noqa: ANN401  plain data from outside
        """Return what `pack` wrote; raises ValueError or TypeError."""
        made = cls()
        day, buckets = packed
        made._day = whole(day)
        made._buckets = {min(int(place), 256): max(float(weight), 0.0) for place, weight in buckets[:1024]}
        return made


def whole(value: object) -> int:
    """Return a whole number from plain data; raises ValueError."""
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise ValueError("not a count")
    return value


def texts(value: Any, most: int) -> list[str]:  # noqa: ANN401  plain data from outside
    """Return a list of texts from plain data; raises ValueError."""
    if not isinstance(value, list) or len(value) > most or not all(isinstance(each, str) for each in value):
        raise ValueError("not texts")
    return list(value)


def state_of(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a member that is an object; raises ValueError."""
    value = state.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"no `{name}`")  # noqa: TRY004  one kind of error for a damaged state
    return value
