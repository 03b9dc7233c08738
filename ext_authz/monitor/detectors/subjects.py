"""Firsts of a verified subject: a sensitive resource or kind of change it never used, a return after long silence.

Law: what was denied teaches nothing and is no first; a subject is known for days before anything is news of it.
Non-goal: saying who may. Policies do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ext_authz.monitor.detectors.baseline import state_of, whole
from ext_authz.monitor.detectors.finding import Finding, Severity, SnapshotError
from ext_authz.monitor.detectors.fold import ALLOWED, NONE, REFUSED, Fold, Found
from ext_authz.monitor.detectors.seen import DAY, Seen, part
from ext_authz.monitor.detectors.sketch import digest
from ext_authz.monitor.detectors.table import Table

CHANGES: Final = frozenset(
    {
        "deploy_model",
        "undeploy_model",
        "register_model",
        "update_model",
        "delete_model",
        "submit_training_job",
        "write_data",
        "delete_data",
        "admin",
    }
)
_MOST_PAIRS: Final = 256


@dataclass(frozen=True, slots=True)
class PairParams:
    """Parameters of `new_pair` (docs/monitoring.md)."""

    attribute: str = "sensitivity"
    """The resource attribute (route or catalog) that says how sensitive it is …"""
    values: frozenset[str] = frozenset({"high", "critical", "secret", "restricted", "confidential"})
    """… and its values that count, compared without case."""
    warm_days: int = 14
    """Days since the subject was first seen before anything is new."""
    warm_active_days: int = 5
    per_day: int = 3
    """Alerts per subject and day."""
    max_subjects: int = 20_000


class _Pairs:
    __slots__ = ("alerts", "day", "days", "first", "pairs")

    def __init__(self, day: int) -> None:
        self.first = day
        self.day = day
        self.days = 1
        self.alerts = 0
        self.pairs: dict[str, None] = {}

    def pack(self) -> list[Any]:
        return [self.first, self.day, self.days, self.alerts, list(self.pairs)]

    @classmethod
    def unpack(cls, packed: Any) -> "_Pairs":  # noqa: ANN401
        first, day, days, alerts, pairs = packed
        made = cls(whole(first))
        made.day, made.days, made.alerts = whole(day), whole(days), whole(alerts)
        made.pairs = {str(each): None for each in pairs[:_MOST_PAIRS]}
        return made


class NewPair(Fold):
    """The first use of a sensitive resource, or the first change of a kind, by a subject known for long."""

    name = "new_pair"
    kinds = frozenset({ALLOWED})

    def __init__(self, params: PairParams | None = None, key: bytes = b"") -> None:
        self.params = params or PairParams()
        self._key = key
        self._subjects: Table[_Pairs] = Table(self.params.max_subjects)

    def see(self, one: Seen) -> Found:
        """Take one event in; see Fold."""
        if not one.subject or not one.allowed:
            return NONE
        day = one.second // DAY
        known = self._subjects.get(one.subject)
        if known is None:
            known = _Pairs(day)
            self._subjects.put(one.subject, known)
        if day > known.day:
            known.day, known.days, known.alerts = day, known.days + 1, 0
            self._subjects.settle(one.subject)
        news = ""
        if one.action in CHANGES:
            news = self._first(known, f"a\n{one.type}\n{one.action}", f"`{one.action}` on a `{one.type}`")
        if self._is_sensitive(one):
            news = self._first(known, f"r\n{one.resource}", f"the sensitive `{one.resource}`") or news
        params = self.params
        warm = day - known.first >= params.warm_days and known.days >= params.warm_active_days
        if not news or not warm or known.alerts >= params.per_day:
            return NONE
        known.alerts += 1
        said = f"first use of {news} in {day - known.first} days since it was first seen, of which {known.days} active"
        return (
            Finding(
                self.name,
                one.subject,
                one.ip or None,
                Severity.LOW,
                said,
                (one.event_id,),
                one.at_ns,
                None,
                one.resource,
            ),
        )

    def _is_sensitive(self, one: Seen) -> bool:
        attributes = part(one, "resource").get("attributes")
        if not attributes or not isinstance(attributes, dict):
            return False
        value = attributes.get(self.params.attribute)
        return isinstance(value, str) and value.lower() in self.params.values

    def _first(self, known: _Pairs, pair: str, said: str) -> str:
        short = f"{digest(pair, self._key):016x}"
        # Who uses more than that has no habits that a further one could break.
        if short in known.pairs or len(known.pairs) >= _MOST_PAIRS:
            return ""
        known.pairs[short] = None
        return said

    def snapshot(self) -> dict[str, Any]:
        """See Fold.snapshot."""
        return {"subjects": self._subjects.pack(_Pairs.pack)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Fold.restore."""
        made = NewPair(self.params, self._key)
        try:
            made._subjects.unpack(state_of(state, "subjects"), _Pairs.unpack)
        except (TypeError, ValueError) as error:
            raise SnapshotError("not a state of `new_pair`") from error
        self._subjects = made._subjects


@dataclass(frozen=True, slots=True)
class DormantParams:
    """Parameters of `dormant_identity` (docs/monitoring.md)."""

    silent_days: int = 30
    """Days of silence …"""
    times_longest: float = 3.0
    """… that are also longer than this times the longest silence before."""
    active_days: int = 3
    """Active days before the silence; who was hardly ever here cannot be missed."""
    max_subjects: int = 50_000


class DormantIdentity(Fold):
    """A subject that comes back after a silence much longer than any before."""

    name = "dormant_identity"
    kinds = frozenset({ALLOWED, REFUSED})

    def __init__(self, params: DormantParams | None = None) -> None:
        self.params = params or DormantParams()
        self._subjects: Table[list[int]] = Table(self.params.max_subjects)
        """Last active day, active days, longest silence in days."""

    def see(self, one: Seen) -> Found:
        """Take one event in; see Fold."""
        if not one.subject:
            return NONE
        day = one.second // DAY
        known = self._subjects.get(one.subject)
        if known is None:
            self._subjects.put(one.subject, [day, 1, 0])
            return NONE
        last, days, longest = known
        if day <= last:
            return NONE
        self._subjects.settle(one.subject)
        silent = day - last
        known[:] = [day, days + 1, max(longest, silent)]
        params = self.params
        if silent < params.silent_days or silent <= params.times_longest * longest or days < params.active_days:
            return NONE
        said = f"active again after {silent} days; the longest silence of its {days} active days before was {longest}"
        return (Finding(self.name, one.subject, one.ip or None, Severity.LOW, said, (one.event_id,), one.at_ns),)

    def snapshot(self) -> dict[str, Any]:
        """See Fold.snapshot."""
        return {"subjects": self._subjects.pack(list)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Fold.restore."""
        subjects: Table[list[int]] = Table(self.params.max_subjects)
        subjects.unpack(state.get("subjects"), _three)
        self._subjects = subjects


def _three(packed: Any) -> list[int]:  # noqa: ANN401  plain data from outside
    last, days, longest = packed
    return [whole(last), whole(days), whole(longest)]
