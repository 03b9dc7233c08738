"""Active at an hour of the week when a subject never is.

Law: a profile of hours in which the subject was active, however busy, so that no burst is taken for a habit; a
subject that is surprising by habit is given more room. Non-goal: opening hours (time windows are).
"""

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ext_authz.monitor.detectors.baseline import texts, whole
from ext_authz.monitor.detectors.finding import MAX_EVIDENCE, Finding, Severity
from ext_authz.monitor.detectors.fold import ALLOWED, NONE, REFUSED, Fold, Found, kept
from ext_authz.monitor.detectors.seen import HOUR, Seen
from ext_authz.monitor.detectors.table import Table

WEEK_HOURS: Final = 168
_LEARN: Final = 0.2
_EARNED: Final = 16
"""Requests within an hour after which a subject stays in the table."""
_SIZES: Final = 16
"""Sizes of hours that are told apart: 1, 2, 4, … requests, the last and more."""
_DAYS: Final = ("Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday")


@dataclass(frozen=True, slots=True)
class TimeParams:
    """Parameters of `unusual_time` (docs/monitoring.md)."""

    warm_days: int = 14
    """Days since a subject was first seen before it is judged."""
    warm_active_days: int = 10
    """Of these, days on which it was active."""
    warm_hours: int = 20
    """Active hours (not requests) before it is judged."""
    surprise: float = 5.0
    """How improbable the visit must be: the sum of what follows, in natural logarithms.

    Minus the logarithm of the hour's probability in relation to an even spread, …
    """
    crowd: float = 1.3
    """… this share of minus the logarithm of how rarely an hour of the subject's had so many requests, …"""
    crowd_from: float = 0.3
    """… in full where the hour alone is this improbable: many requests at a usual hour are `unusual_volume`'s, …"""
    carried: float = 1.0
    """… and this share of what these two were in the hour directly before: a visit is longer than a moment's work."""
    habit: float = 0.5
    """This share of the surprise that one of twenty of the subject's own days brings is added to the limit."""
    requests: int = 3
    """Requests within the hour before it counts: one retry or a phone that wakes up is no visit."""
    half_life_weeks: float = 208.0
    """After this time an active hour counts half."""
    quiet_hours: int = 12
    """One alert per subject in this time."""
    max_subjects: int = 20_000
    """Subjects that are remembered."""


class _Profile:
    __slots__ = (
        "alarmed",
        "before",
        "crowds",
        "days",
        "evidence",
        "first",
        "habit",
        "hour",
        "hours",
        "n",
        "pending",
        "score",
        "today",
        "week",
    )

    def __init__(self, hour: int) -> None:
        self.first = hour
        self.hour = hour
        self.week = hour // WEEK_HOURS
        self.n = 0
        self.days = 0
        self.alarmed = 0
        self.score = 0.0
        """How surprising the hour that runs is by itself …"""
        self.before = 0.0
        """… and the hour directly before it was."""
        self.today = 0.0
        """The most surprising hour of the day that runs."""
        self.habit = 0.0
        """About the 95th percentile of what that was on other days."""
        self.hours = array("f", bytes(4 * WEEK_HOURS))
        self.crowds = array("f", bytes(4 * _SIZES))
        """Active hours by the binary logarithm of their number of requests."""
        self.pending: list[int] = []
        """Hours of the day that runs, learned when it ends: else a visit's first hour would excuse its second."""
        self.evidence: list[str] = []

    def pack(self) -> list[Any]:
        cells = {str(cell): weight for cell, weight in enumerate(self.hours) if weight}
        rest = [self.score, self.before, self.today, self.habit, cells, list(self.crowds), self.pending, self.evidence]
        return [self.first, self.hour, self.week, self.n, self.days, self.alarmed, *rest]

    @classmethod
    def unpack(cls, packed: Any) -> "_Profile":  # noqa: ANN401
        first, hour, week, n, days, alarmed, score, before, today, habit, cells, crowds, pending, evidence = packed
        made = cls(whole(hour))
        made.first, made.week, made.n, made.days = whole(first), whole(week), whole(n), whole(days)
        made.alarmed, made.score, made.before = whole(alarmed), _finite(score), _finite(before)
        made.today, made.habit = _finite(today), _finite(habit)
        for cell, weight in cells.items():
            made.hours[whole(int(cell))] = max(_finite(weight), 0.0)
        made.crowds = array("f", [max(_finite(each), 0.0) for _, each in zip(range(_SIZES), crowds, strict=True)])
        made.pending = [whole(each) for each in pending[:24]]
        made.evidence = texts(evidence, MAX_EVIDENCE)
        return made


def _finite(value: Any) -> float:  # noqa: ANN401
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number


class UnusualTime(Fold):
    """A verified subject at an hour of the week at which, going by its past, it is not to be expected."""

    name = "unusual_time"
    kinds = frozenset({ALLOWED, REFUSED})

    def __init__(self, params: TimeParams | None = None) -> None:
        self.params = params or TimeParams()
        self._subjects: Table[_Profile] = Table(self.params.max_subjects)

    def see(self, one: Seen) -> Found:
        """Take one event in; what a verified subject was denied counts too, it was there."""
        if not one.subject:
            return NONE
        hour = one.second // HOUR
        known = self._subjects.get(one.subject)
        if known is None:
            known = _Profile(hour)
            self._subjects.put(one.subject, known)
        if hour != known.hour:
            if hour < known.hour:
                return NONE
            self._turn(one.subject, known, hour)
        known.n += 1
        if len(known.evidence) < MAX_EVIDENCE:
            kept(known.evidence, one.event_id)
        if known.n == _EARNED:
            self._subjects.settle(one.subject)
        n = known.n
        # Judged when it is a visit, and again whenever it doubled.
        if n == self.params.requests or (n > self.params.requests and not n & (n - 1) and n < 1 << _SIZES):
            return self._judge(one, known)
        return NONE

    def _turn(self, subject: str, known: _Profile, hour: int) -> None:
        """Learn the hour that ended; one in alarm, or with few requests, teaches a quarter."""
        params = self.params
        odd = known.n < params.requests or (known.alarmed and known.hour - known.alarmed < params.quiet_hours)
        if odd:
            known.hours[known.hour % WEEK_HOURS] += 0.25
        else:
            known.pending.append(known.hour % WEEK_HOURS)
            known.crowds[_size(known.n)] += 1.0
        if hour // 24 != known.hour // 24:
            known.days += 1
            if self._is_warm(known, known.hour):
                known.habit = max(known.habit + _LEARN * (0.95 if known.today > known.habit else -0.05), 0.0)
            known.today = 0.0
            for cell in known.pending:
                known.hours[cell] += 1.0
            known.pending.clear()
            if known.days == 1:
                self._subjects.settle(subject)
        week = hour // WEEK_HOURS
        if week != known.week:
            fade = 0.5 ** ((week - known.week) / params.half_life_weeks)
            for cell in range(WEEK_HOURS):
                known.hours[cell] *= fade
            for size in range(_SIZES):
                known.crowds[size] *= fade
            known.week = week
        known.before = known.score if hour == known.hour + 1 else 0.0
        known.hour, known.n, known.score = hour, 0, 0.0
        known.evidence.clear()

    def _is_warm(self, known: _Profile, hour: int) -> bool:
        params = self.params
        return (
            hour - known.first >= params.warm_days * 24
            and known.days >= params.warm_active_days
            and sum(known.hours) >= params.warm_hours
        )

    def _judge(self, one: Seen, known: _Profile) -> Found:
        params = self.params
        if not self._is_warm(known, known.hour):
            return NONE
        likely = surprise(known.hours, known.hour % WEEK_HOURS)
        odd = min(likely / params.crowd_from, 1.0)
        known.score = likely + odd * params.crowd * rarity(known.crowds, _size(known.n))
        score = known.score + params.carried * known.before
        limit = params.surprise + params.habit * known.habit
        known.today = max(known.today, score)
        if score < limit or (known.alarmed and known.hour - known.alarmed < params.quiet_hours):
            return NONE
        known.alarmed = known.hour
        day, clock = _DAYS[known.hour // 24 % 7], known.hour % 24
        said = (
            f"active on a {day} at {clock:02d}:00 UTC: {math.exp(-likely) * 100:.1f} % as likely as an even spread of"
            f" its {round(sum(known.hours))} active hours on {known.days} days would make it,"
            f" with {known.n} requests so far (surprise {score:.1f}, limit {limit:.1f})"
        )
        return (
            Finding(self.name, one.subject, one.ip or None, Severity.MEDIUM, said, tuple(known.evidence), one.at_ns),
        )

    def snapshot(self) -> dict[str, Any]:
        """See Fold.snapshot."""
        return {"subjects": self._subjects.pack(_Profile.pack)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Fold.restore."""
        subjects: Table[_Profile] = Table(self.params.max_subjects)
        subjects.unpack(state.get("subjects"), _Profile.unpack)
        self._subjects = subjects


_NEAR: Final = ((-2, 0.3), (-1, 0.7), (0, 1.0), (1, 0.7), (2, 0.3))
_OTHER_KIND: Final = 0.5
_PRIOR: Final = 0.2
"""Active hours, spread evenly over the week, that everybody is given beforehand."""
_WEEKEND: Final = (2, 3)  # the epoch was a Thursday


def _size(n: int) -> int:
    return min(max(n, 1).bit_length(), _SIZES) - 1


def rarity(crowds: "array[float]", size: int) -> float:
    """Return minus the logarithm of the share of active hours with at least 2**size requests, one more given to each.

    0 without a past.
    """
    return math.log((sum(crowds) + 1.0) / (sum(crowds[size:]) + 1.0))


def surprise(hours: "array[float]", cell: int) -> float:
    """Return how surprising activity in a cell of the week (0: Thursday 00:00 UTC) is, 0 for what is usual.

    Minus the logarithm of the smoothed probability of the cell in relation to
    an even spread over the week. Neighbouring hours and the same hour on other
    days lend their weight, those between a working day and a weekend half of it.
    """
    clock, weekend = cell % 24, cell // 24 in _WEEKEND
    near = 0.0
    most = 0.0
    for day in range(7):
        kind = 1.0 if (day in _WEEKEND) == weekend else _OTHER_KIND
        found = 0.0
        for step, weight in _NEAR:
            found += weight * hours[(day * 24 + clock + step) % WEEK_HOURS]
        near += kind * found
        most += kind * sum(weight for _, weight in _NEAR)
    total = sum(hours)
    if not total:
        return 0.0
    likely = (near / most + _PRIOR / WEEK_HOURS) / ((total + _PRIOR) / WEEK_HOURS)
    return max(-math.log(likely), 0.0)
