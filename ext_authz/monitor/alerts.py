"""From findings to alerts: one for what goes on, told again as it goes on, resolved when it has ended, never a flood.

Law: the same findings at the same times give the same alerts with the same names, so that a trail that is read again
raises none twice. Non-goal: risk, and where alerts go (they are audit events, and sinks take those).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from ext_authz.audit.event import timestamp
from ext_authz.monitor.detectors.finding import Finding, Severity

SECOND: Final = 1_000_000_000
HOUR: Final = 3600
_ORDER: Final = {severity: place for place, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True)
class AlertParams:
    """Times in seconds."""

    repeat: int = 3600
    """While findings of the same kind go on, the alert is told again this often."""
    resolve: int = 7200
    """It is resolved this long after the last finding."""
    per_hour: int = 30
    """Alerts of one detector and severity in an hour; of more there is one summary. What strangers can raise in any
    number, a lesser severity, hides no graver one."""
    max_open: int = 10_000


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that goes on, or has ended. `name` is the same from its first event to its last.

    `told` numbers its events from 1. `until_ns`: it will be resolved then unless more is found. `done` says what
    followed: `risk`, `quarantine_until` (Unix seconds), `withheld`.
    """

    name: str
    detector: str
    severity: Severity
    explanation: str
    evidence: tuple[str, ...]
    subject: str | None
    source: str | None
    claimed: str | None
    about: str
    firing: bool
    since_ns: int
    last_ns: int
    until_ns: int
    findings: int = 1
    told: int = 1
    done: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name and number: what no two events share."""
        return f"{self.name}.{self.told}"


@dataclass(slots=True)
class _Open:
    alert: Alert
    told_ns: int
    silent: bool
    """The first event was over the limit, so neither is its end told."""


@dataclass(slots=True)
class _Hour:
    """What one detector told in the hour that runs."""

    number: int = 0
    told: dict[Severity, int] = field(default_factory=dict)
    more: int = 0
    worst: Severity = Severity.LOW


def record(alert: Alert) -> dict[str, Any]:
    """Return what an alert's event says."""
    said: dict[str, Any] = {
        "alert": alert.name,
        "told": alert.told,
        "status": "firing" if alert.firing else "resolved",
        "detector": alert.detector,
        "severity": alert.severity.value,
        "explanation": alert.explanation,
        "evidence": list(alert.evidence),
        "findings": alert.findings,
        "since": timestamp(alert.since_ns),
        "last": timestamp(alert.last_ns),
        "until": timestamp(alert.until_ns),
    }
    others = {
        "subject": alert.subject,
        "source": alert.source,
        "claimed_subject": alert.claimed,
        "about": alert.about,
        "response": dict(alert.done),
    }
    return said | {name: value for name, value in others.items() if value}


class Alerts:
    """A fold over findings; used by one thread."""

    def __init__(self, params: AlertParams | None = None) -> None:
        self.params = params or AlertParams()
        self.withheld = 0
        self._open: OrderedDict[tuple[str, ...], _Open] = OrderedDict()
        self._hours: dict[str, _Hour] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def take(self, finding: Finding, done: Mapping[str, Any]) -> list[Alert]:
        """Take in a finding and what followed from it; return what is to be told now."""
        # Whoever has a name is one, wherever it calls from.
        source = "" if finding.subject else finding.source or ""
        key = (finding.detector, finding.subject or "", source, finding.about)
        known = self._open.pop(key, None)
        if known is not None and finding.at_ns >= known.alert.until_ns:
            self._open[key] = known
            ended = self._end(key, finding.at_ns)
            return [*ended, *self._begin(key, finding, done)]
        if known is None:
            return [*self._make_room(finding.at_ns), *self._begin(key, finding, done)]
        return self._go_on(key, known, finding, done)

    def due(self, now_ns: int) -> list[Alert]:
        """Return what has ended, and what was over the limit in hours that are over."""
        ended = []
        # In order of the last finding.
        while self._open:
            key = next(iter(self._open))
            if self._open[key].alert.until_ns > now_ns:
                break
            ended += self._end(key, self._open[key].alert.until_ns)
        return [*ended, *self._summaries(now_ns)]

    def _begin(self, key: tuple[str, ...], finding: Finding, done: Mapping[str, Any]) -> list[Alert]:
        named = "\n".join((*key, str(finding.at_ns), *finding.evidence[-1:]))
        alert = Alert(
            name=hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest(),
            detector=finding.detector,
            severity=finding.severity,
            explanation=finding.explanation,
            evidence=finding.evidence,
            subject=finding.subject,
            source=finding.source,
            claimed=finding.claimed,
            about=finding.about,
            firing=True,
            since_ns=finding.at_ns,
            last_ns=finding.at_ns,
            until_ns=finding.at_ns + self.params.resolve * SECOND,
            done=done,
        )
        told = self._may(alert, finding.at_ns)
        self._open[key] = _Open(alert, finding.at_ns, silent=not told)
        return [alert] if told else []

    def _go_on(self, key: tuple[str, ...], known: _Open, finding: Finding, done: Mapping[str, Any]) -> list[Alert]:
        was = known.alert
        worse = _ORDER[finding.severity] > _ORDER[was.severity]
        acted = "quarantine_until" in done
        last_ns = max(was.last_ns, finding.at_ns)
        alert = replace(
            was,
            severity=finding.severity if worse else was.severity,
            explanation=finding.explanation,
            evidence=finding.evidence,
            claimed=finding.claimed,
            last_ns=last_ns,
            until_ns=last_ns + self.params.resolve * SECOND,
            findings=was.findings + 1,
            done=done,
        )
        again = worse or acted or finding.at_ns - known.told_ns >= self.params.repeat * SECOND
        told = again and self._may(alert, finding.at_ns)
        if told and not known.silent:
            alert = replace(alert, told=was.told + 1)
        known.alert = alert
        if told:
            known.told_ns, known.silent = finding.at_ns, False
        self._open[key] = known
        return [alert] if told else []

    def _end(self, key: tuple[str, ...], at_ns: int) -> list[Alert]:
        known = self._open.pop(key)
        if known.silent:
            return []
        return [replace(known.alert, firing=False, told=known.alert.told + 1, until_ns=at_ns)]

    def _may(self, alert: Alert, at_ns: int) -> bool:
        """Whether it is within the detector's limit. A quarantine is always told: its number has a limit of its own."""
        hour = self._hours.setdefault(alert.detector, _Hour())
        number = at_ns // SECOND // HOUR
        if number > hour.number and not hour.more:
            hour.number, hour.told = number, {}
        told = hour.told.get(alert.severity, 0)
        if "quarantine_until" in alert.done or told < self.params.per_hour:
            hour.told[alert.severity] = told + 1
            return True
        hour.more += 1
        hour.worst = max(hour.worst, alert.severity, key=lambda each: _ORDER[each])
        self.withheld += 1
        return False

    def _summaries(self, now_ns: int) -> list[Alert]:
        found = []
        number = now_ns // SECOND // HOUR
        for detector, hour in self._hours.items():
            if not hour.more or number <= hour.number:
                continue
            begin = hour.number * HOUR * SECOND
            said = (
                f"{hour.more} more alerts of `{detector}` in one hour were over the limit of {self.params.per_hour}"
                " of a severity and not told one by one"
            )
            name = hashlib.blake2b(f"{detector}\n{hour.number}".encode(), digest_size=12).hexdigest()
            end = begin + HOUR * SECOND
            found.append(
                Alert(name, detector, hour.worst, said, (), None, None, None, "", True, begin, end, end, hour.more)
            )
            self._hours[detector] = _Hour(number)
        return found

    def _make_room(self, at_ns: int) -> list[Alert]:
        if len(self._open) < self.params.max_open:
            return []
        # What was never told needs no end: an alert that people watch is not resolved for a flood of others.
        silent = next((key for key, each in self._open.items() if each.silent), None)
        return self._end(next(iter(self._open)) if silent is None else silent, at_ns)

    def snapshot(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON data."""
        return {
            "open": [[list(key), asdict(each.alert), each.told_ns, each.silent] for key, each in self._open.items()],
            "hours": {
                name: [at.number, {each.value: n for each, n in at.told.items()}, at.more, at.worst]
                for name, at in self._hours.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what `snapshot` returned. Raises ValueError, and then remembers what it did before."""
        try:
            made: OrderedDict[tuple[str, ...], _Open] = OrderedDict()
            for key, plain, told_ns, silent in state["open"]:
                alert = Alert(
                    **{**plain, "severity": Severity(plain["severity"]), "evidence": tuple(plain["evidence"])}
                )
                made[tuple(map(str, key))] = _Open(alert, int(told_ns), bool(silent))
            hours = {
                str(name): _Hour(
                    int(number), {Severity(each): int(n) for each, n in told.items()}, int(more), Severity(worst)
                )
                for name, (number, told, more, worst) in state["hours"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError("not a state of alerts") from error
        self._open, self._hours = made, hours
