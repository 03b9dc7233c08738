"""From findings to risk and quarantine: whom it concerns, how much, for how long, and how many at most.

Law: only a verified identity has risk, for what it did itself; risk decays by itself, a quarantine ends by itself, and
no more of them hold at once than the budget. Non-goal: telling anybody (alerts.py), storing (runner.py).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from ext_authz.audit.event import timestamp
from ext_authz.model import Risk
from ext_authz.monitor.detectors.finding import Finding, Severity
from ext_authz.monitor.detectors.seen import MAX_TEXT

SECOND: Final = 1_000_000_000
DAY: Final = 86_400
MAX_COUNTED: Final = 100_000
"""Subjects of a day that are counted one by one; more do not raise the budget."""

WEIGHTS: Final = {Severity.LOW: 1.0, Severity.MEDIUM: 4.0, Severity.HIGH: 16.0, Severity.CRITICAL: 64.0}
"""What a finding weighs at first; it halves every half-life."""
THRESHOLDS: Final = ((Risk.CRITICAL, 32.0), (Risk.HIGH, 8.0), (Risk.MEDIUM, 2.0))
"""From where on a sum of weights is which risk: a lone finding keeps its own severity for one half-life."""


class Response(StrEnum):
    """What follows from a detector's findings, each with what stands before it."""

    ALERT = "alert"
    RISK = "risk"
    QUARANTINE = "quarantine"


class Withheld(StrEnum):
    """Why a quarantine was not imposed where the detector's response is one."""

    EXEMPT = "exempt"
    BUDGET = "budget"
    PARDONED = "pardoned"
    OLD = "old"
    HELD = "held"
    """It is quarantined already."""
    WEAK = "weak"


@dataclass(frozen=True, slots=True)
class RiskParams:
    """Parameters of risk and quarantine; times in seconds."""

    half_life: int = 3600
    first: int = 600
    longest: int = 3600
    calm: int = DAY
    """After so long without a quarantine the next one is short again."""
    fresh: int = 600
    """A finding older than this (a trail read late) imposes no quarantine."""
    pardon: int = 3600
    """For so long after a withdrawal the same detector imposes none on that subject."""
    percent: float = 1.0
    """Of the day's subjects, how many may be in quarantine at once; one in any case."""
    max_subjects: int = 20_000


@dataclass(frozen=True, slots=True)
class Proposal:
    """A quarantine of `subject` until `ends_at` (Unix seconds)."""

    subject: str
    ends_at: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from one finding: the subject's risk now (None: nobody's), a quarantine, or why there is none."""

    risk: Risk | None = None
    quarantine: Proposal | None = None
    withheld: Withheld | None = None

    def done(self) -> dict[str, Any]:
        """Return it as an alert tells it."""
        done: dict[str, Any] = {}
        if self.risk is not None:
            done["risk"] = self.risk.value
        if self.quarantine is not None:
            done["quarantine_until"] = timestamp(self.quarantine.ends_at * SECOND)
        if self.withheld is not None:
            done["withheld"] = self.withheld.value
        return done


@dataclass(slots=True)
class _Standing:
    """One subject: by detector (weight, when, Unix seconds), and its quarantines."""

    weights: dict[str, tuple[float, float]] = field(default_factory=dict)
    times: int = 0
    """Quarantines in a row."""
    ended: int = 0
    pardoned_ns: int = 0
    """What was found up to here was forgiven."""
    pardoned_of: tuple[str, ...] = ()


class RiskBook:
    """The standing of subjects; a fold over findings and withdrawals. `now_ns` is always an argument."""

    def __init__(
        self,
        params: RiskParams | None = None,
        responses: Mapping[str, Response] | None = None,
        never: tuple[str, ...] = (),
        proxies: frozenset[str] = frozenset(),
    ) -> None:
        """`responses` by detector (RISK where it is not named); `never`: typed names, `*` at the end for any rest.

        `never` are not quarantined; `proxies` (their names stand for others) have no risk either.
        """
        self.params = params or RiskParams()
        self._responses = responses or {}
        self._never = never
        self._proxies = proxies
        self._subjects: dict[str, _Standing] = {}
        self._day = 0
        self._today: set[int] = set()
        self._yesterday = 0

    def count(self, subject: str, at_ns: int) -> None:
        """Count a verified subject among the day's (UTC, by the event's time)."""
        day = at_ns // SECOND // DAY
        if day != self._day:
            if day < self._day:
                return
            self._yesterday = len(self._today) if day == self._day + 1 else 0
            self._day, self._today = day, set()
        if len(self._today) < MAX_COUNTED:
            self._today.add(hash_of(subject))

    @property
    def budget(self) -> int:
        """How many may be in quarantine at once: of today's subjects or yesterday's, whichever are more."""
        return max(1, int(max(len(self._today), self._yesterday) * self.params.percent / 100))

    def response(self, detector: str) -> Response:
        """Return what is to follow from the detector's findings."""
        return self._responses.get(detector, Response.RISK)

    def somebody(self, subject: str | None) -> bool:
        """Whether it is one verified identity: no claim, not everybody without a name, no name that was cut."""
        return (
            subject is not None
            and not subject.startswith("anonymous:")
            and len(subject) < MAX_TEXT
            and subject.isprintable()
            and subject not in self._proxies
        )

    def take(self, finding: Finding, now_ns: int, held: Mapping[str, int]) -> Verdict:
        """Take in a finding; `held` are the monitor's quarantines in force, by subject when they end (Unix seconds).

        A finding without a subject is evidence against a source and changes nobody's standing.
        """
        response, subject = self.response(finding.detector), finding.subject
        if subject is None or not self.somebody(subject) or response is Response.ALERT:
            return Verdict()
        standing = self._subjects.get(subject)
        if standing is not None and finding.at_ns <= standing.pardoned_ns:
            return Verdict(self.risk(subject, now_ns), None, Withheld.PARDONED)
        if standing is None:
            self._make_room(now_ns)
            standing = _Standing()
        self._subjects[subject] = standing
        self._weigh(standing, finding, now_ns)
        risk = self.risk(subject, now_ns)
        if response is not Response.QUARANTINE:
            return Verdict(risk)
        why_not = self._obstacle(standing, finding, now_ns, held)
        if why_not is not None:
            return Verdict(risk, None, why_not)
        return Verdict(risk, self._sentence(standing, subject, now_ns))

    def _weigh(self, standing: _Standing, finding: Finding, now_ns: int) -> None:
        """One detector weighs as much as its weightiest finding now does: repeating itself is no new evidence."""
        at = min(finding.at_ns, now_ns) / SECOND
        weight = WEIGHTS[finding.severity]
        known = standing.weights.get(finding.detector)
        if known is not None and self._decayed(known, at) > weight:
            return
        standing.weights[finding.detector] = (weight, at)

    def _obstacle(self, standing: _Standing, finding: Finding, now_ns: int, held: Mapping[str, int]) -> Withheld | None:
        subject, now = finding.subject or "", now_ns // SECOND
        if self.exempt(subject):
            return Withheld.EXEMPT
        if finding.severity is Severity.LOW:
            return Withheld.WEAK
        if held.get(subject, 0) > now:
            return Withheld.HELD
        if now_ns - finding.at_ns > self.params.fresh * SECOND:
            return Withheld.OLD
        forgiven_until = standing.pardoned_ns + self.params.pardon * SECOND
        if finding.detector in standing.pardoned_of and now_ns < forgiven_until:
            return Withheld.PARDONED
        if sum(ends_at > now for ends_at in held.values()) >= self.budget:
            return Withheld.BUDGET
        return None

    def _sentence(self, standing: _Standing, subject: str, now_ns: int) -> Proposal:
        now, params = now_ns // SECOND, self.params
        if now - standing.ended > params.calm:
            standing.times = 0
        length = min(params.first << min(standing.times, 16), max(params.longest, params.first))
        standing.times += 1
        standing.ended = now + length
        return Proposal(subject, now + length)

    def exempt(self, subject: str) -> bool:
        """Whether the subject is never quarantined."""
        return subject in self._proxies or any(
            subject.startswith(each[:-1]) if each.endswith("*") else subject == each for each in self._never
        )

    def forgive(self, subject: str, at_ns: int, detector: str = "") -> bool:
        """Somebody withdrew a quarantine at `at_ns`: what was found up to then counts no more. False where that is old.

        The detectors that found it impose no other for a while, nor does `detector`: its finding may have been another
        host's, or made just before a crash.
        """
        standing = self._subjects.get(subject)
        if standing is None:
            standing = self._subjects[subject] = _Standing()
        if at_ns <= standing.pardoned_ns:
            return False
        lasting = standing.pardoned_of if at_ns < standing.pardoned_ns + self.params.pardon * SECOND else ()
        standing.pardoned_ns = at_ns
        standing.pardoned_of = tuple({*lasting, *standing.weights, *([detector] if detector else [])})
        standing.weights = {name: each for name, each in standing.weights.items() if each[1] * SECOND > at_ns}
        standing.times, standing.ended = 0, 0
        return True

    def risk(self, subject: str, now_ns: int) -> Risk:
        """Return the subject's risk now."""
        standing = self._subjects.get(subject)
        return Risk.LOW if standing is None else _level(self._sum(standing, now_ns / SECOND))

    def levels(self, now_ns: int) -> Iterator[tuple[str, Risk, int]]:
        """Yield who has a risk above low: (subject, risk, Unix seconds when it is low again by itself)."""
        now = now_ns / SECOND
        for subject, standing in self._subjects.items():
            total = self._sum(standing, now)
            risk = _level(total)
            if risk is not Risk.LOW:
                lowest = THRESHOLDS[-1][1]
                yield subject, risk, math.ceil(now + self.params.half_life * math.log2(total / lowest)) + 1

    def _sum(self, standing: _Standing, now: float) -> float:
        return sum(self._decayed(each, now) for each in standing.weights.values())

    def _decayed(self, weight: tuple[float, float], now: float) -> float:
        return float(weight[0] * 2.0 ** -(max(now - weight[1], 0.0) / self.params.half_life))

    def forget(self, now_ns: int) -> None:
        """Let go of whom nothing is known any more that could matter.

        What a clock that was ahead wrote down counts as of now: else it would hold until that time comes.
        """
        now = now_ns / SECOND
        keep = max(self.params.calm, self.params.pardon)
        self._day = min(self._day, now_ns // SECOND // DAY)
        for subject, standing in list(self._subjects.items()):
            if any(at > now for _, at in standing.weights.values()):
                standing.weights = {name: (weight, min(at, now)) for name, (weight, at) in standing.weights.items()}
            standing.ended = min(standing.ended, int(now) + max(self.params.longest, self.params.first))
            standing.pardoned_ns = min(standing.pardoned_ns, now_ns)
            past = max(standing.ended, standing.pardoned_ns // SECOND) + keep < now
            if past and self._sum(standing, now) < WEIGHTS[Severity.LOW] / 16:
                del self._subjects[subject]

    def _make_room(self, now_ns: int) -> None:
        if len(self._subjects) < self.params.max_subjects:
            return
        self.forget(now_ns)
        if len(self._subjects) >= self.params.max_subjects:
            now = now_ns / SECOND
            least = sorted(
                self._subjects,
                key=lambda subject: (
                    max(self._subjects[subject].ended, self._subjects[subject].pardoned_ns // SECOND) > now - DAY,
                    self._sum(self._subjects[subject], now),
                ),
            )
            # Many at once: to look for the least of them at every finding would cost each one a tenth of a second.
            for subject in least[: max(1, self.params.max_subjects // 20)]:
                del self._subjects[subject]

    def __len__(self) -> int:
        """Return how many subjects are remembered."""
        return len(self._subjects)

    def snapshot(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON data."""
        return {
            "day": [self._day, sorted(self._today), self._yesterday],
            "subjects": {
                subject: [
                    {name: list(each) for name, each in at.weights.items()},
                    at.times,
                    at.ended,
                    at.pardoned_ns,
                    list(at.pardoned_of),
                ]
                for subject, at in self._subjects.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what `snapshot` returned. Raises ValueError, and then remembers what it did before."""
        try:
            day, today, yesterday = state["day"]
            made = {}
            for subject, (weights, times, ended, pardoned_ns, of) in state["subjects"].items():
                made[str(subject)] = _Standing(
                    {str(name): (min(float(weight), 64.0), float(at)) for name, (weight, at) in weights.items()},
                    int(times),
                    int(ended),
                    int(pardoned_ns),
                    tuple(map(str, of)),
                )
            self._day, self._today, self._yesterday = int(day), set(map(int, today)), int(yesterday)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError("not a state of the risk book") from error
        self._subjects = made


@lru_cache(maxsize=4096)
def hash_of(subject: str) -> int:
    """Return a number for counting: the same in every process."""
    return int.from_bytes(hashlib.blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=6).digest())


def _level(total: float) -> Risk:
    return next((risk for risk, least in THRESHOLDS if total >= least), Risk.LOW)
