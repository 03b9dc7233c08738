"""More of a kind of resource in an hour than a subject ever asked for: bulk reading, a runaway job, a stolen key.

Law: judged against the subject's own busiest hours, so days and weeks may differ as they like; who has no history
yet is judged against peers. Non-goal: rate limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ext_authz.monitor.detectors.baseline import Baseline, Limits, Peers, state_of, texts, whole
from ext_authz.monitor.detectors.finding import MAX_EVIDENCE, Finding, Severity, SnapshotError
from ext_authz.monitor.detectors.fold import ALLOWED, NONE, Fold, Found, kept
from ext_authz.monitor.detectors.seen import DAY, HOUR, Seen
from ext_authz.monitor.detectors.table import Table

MAX_TYPES: Final = 256
_FEW: Final = 8
_EARNED: Final = 16
"""Requests within an hour after which a key stays in the table."""


@dataclass(frozen=True, slots=True)
class VolumeParams:
    """Parameters of `unusual_volume` (docs/monitoring.md)."""

    limits: Limits = field(default_factory=lambda: Limits(floor=200))
    peers_needed: int = 50
    """Days of peers before a subject without history is judged by them."""
    peer_factor: float = 10.0
    """Alarm for a subject without history above this times the 99th percentile of its peers' busiest hours."""
    max_subjects: int = 20_000
    """Pairs of subject and resource type that are remembered."""


class _Hours:
    """The hour that runs, the one before it, and the busiest of each day."""

    __slots__ = ("alarmed", "baseline", "before", "evidence", "hour", "n")

    def __init__(self, hour: int) -> None:
        self.hour = hour
        self.n = 0
        self.before = 0
        self.alarmed = 0
        self.evidence: list[str] = []
        self.baseline = Baseline(hour * HOUR // DAY)

    def pack(self) -> list[Any]:
        return [self.hour, self.n, self.before, self.alarmed, self.evidence, self.baseline.pack()]

    @classmethod
    def unpack(cls, packed: Any) -> "_Hours":  # noqa: ANN401
        hour, n, before, alarmed, evidence, baseline = packed
        made = cls(whole(hour))
        made.n, made.before, made.alarmed = whole(n), whole(before), whole(alarmed)
        made.evidence, made.baseline = texts(evidence, MAX_EVIDENCE), Baseline.unpack(baseline)
        return made


class UnusualVolume(Fold):
    """Requests of a subject for a type of resource in one hour, against its own past and its peers'."""

    name = "unusual_volume"
    kinds = frozenset({ALLOWED})

    def __init__(self, params: VolumeParams | None = None) -> None:
        self.params = params or VolumeParams()
        self._keys: Table[_Hours] = Table(self.params.max_subjects)
        self._peers: dict[str, Peers] = {}

    def see(self, one: Seen) -> Found:
        """Take one event in; only what a verified subject was allowed counts."""
        if not one.subject or not one.allowed or not one.type:
            return NONE
        return self.add(one, 1)

    def add(self, one: Seen, count: int) -> Found:
        """Take in `count` requests like this one."""
        key = f"{one.subject}\n{one.type}"
        hour = one.second // HOUR
        known = self._keys.get(key)
        if known is None:
            known = _Hours(hour)
            self._keys.put(key, known)
        if hour != known.hour:
            if hour < known.hour:
                if hour == known.hour - 1:
                    known.before += count
                    known.baseline.note(hour * HOUR // DAY, known.before, self.params.limits)
                return NONE
            self._turn(key, one.type, known, hour)
        known.n += count
        if known.n == _EARNED:
            self._keys.settle(key)
        if len(known.evidence) < _FEW or known.n % 64 == 0:
            kept(known.evidence, one.event_id)
        found = (
            self._judge(one, known)
            if known.n > self.params.limits.floor and known.alarmed != known.baseline.day
            else NONE
        )
        if known.n > known.baseline.peak:
            known.baseline.note(hour // 24, known.n, self.params.limits)
        return found

    def _turn(self, key: str, kind: str, known: _Hours, hour: int) -> None:
        day = hour * HOUR // DAY
        if day != known.baseline.day:
            self._keys.settle(key)
            if known.baseline.peak and (kind in self._peers or len(self._peers) < MAX_TYPES):
                self._peers.setdefault(kind, Peers()).note(known.baseline.day, known.baseline.peak)
            known.baseline.note(day, 0, self.params.limits)
        known.before = known.n if hour == known.hour + 1 else 0
        known.hour, known.n = hour, 0
        known.evidence.clear()

    def _judge(self, one: Seen, known: _Hours) -> Found:
        params, baseline = self.params, known.baseline
        if baseline.is_warm(params.limits):
            usual, limit = baseline.most, baseline.threshold(params.limits)
            than = f"{len(baseline.peaks)} days of its own had at most {usual} in an hour"
        else:
            peers = self._peers.get(one.type)
            if peers is None or peers.count < params.peers_needed:
                return NONE
            usual = round(peers.quantile(0.99))
            limit = max(params.limits.floor, params.peer_factor * usual)
            than = f"it is new, and 99 % of its peers' days had at most {usual}"
        if known.n <= limit:
            return NONE
        known.alarmed = known.baseline.day
        severity = Severity.HIGH if known.n > 3 * limit or baseline.is_warm(params.limits) else Severity.MEDIUM
        said = f"{known.n} requests for `{one.type}` within the hour; {than} (limit {round(limit)})"
        return (
            Finding(
                self.name, one.subject, one.ip or None, severity, said, tuple(known.evidence), one.at_ns, None, one.type
            ),
        )

    def snapshot(self) -> dict[str, Any]:
        """See Fold.snapshot."""
        return {
            "keys": self._keys.pack(_Hours.pack),
            "peers": [[kind, peers.pack()] for kind, peers in self._peers.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Fold.restore."""
        keys: Table[_Hours] = Table(self.params.max_subjects)
        try:
            keys.unpack(state_of(state, "keys"), _Hours.unpack)
            peers = {str(kind): Peers.unpack(packed) for kind, packed in state["peers"][:MAX_TYPES]}
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError("not a state of `unusual_volume`") from error
        self._keys, self._peers = keys, peers
