"""What a caller is refused tells what it looks for: many resources, or ever mightier actions.

Law: a verified subject answers for its own denials; an unverified one has only its source.
Non-goal: denials for want of a credential that holds (credential_stuffing).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ext_authz.monitor.detectors.baseline import state_of, texts, whole
from ext_authz.monitor.detectors.finding import MAX_EVIDENCE, Finding, Severity, SnapshotError
from ext_authz.monitor.detectors.fold import NOBODY, NONE, REFUSED, Fold, Found, kept
from ext_authz.monitor.detectors.recent import MOST, Recent
from ext_authz.monitor.detectors.seen import DAY, Seen, network, part, text
from ext_authz.monitor.detectors.sketch import digest
from ext_authz.monitor.detectors.table import Table

DENIED: Final = frozenset({"no_policy", "denied_by_policy", "conditions_not_met", "no_route"})
PROBED: Final = frozenset({"no_credentials", "no_route", "ambiguous_path", "malformed_request"})
_SETTLED: Final = 3


@dataclass(frozen=True, slots=True)
class EnumerationParams:
    """Parameters of `enumeration` (docs/monitoring.md). At most 64 resources are told apart per caller."""

    window: int = 600
    """Seconds of the short window."""
    resources: int = 10
    """Distinct resources denied to a subject within the window."""
    slow_resources: int = 30
    """The same within 24 hours."""
    paths: int = 30
    """Distinct paths refused to a source without a verified identity within the window."""
    habit: float = 2.0
    """A caller is refused this often by habit: alarm only above this times the most of its past days."""
    quiet: int = 3600
    """Seconds before the same caller is reported again."""
    ipv6_prefix: int = 64
    max_callers: int = 20_000


class _Denied:
    __slots__ = ("alarmed", "count", "day", "evidence", "most", "peak", "things")

    def __init__(self, day: int) -> None:
        self.day = day
        self.alarmed = 0
        self.count = 0
        self.peak = 0
        self.most = 0
        self.things = Recent()
        self.evidence: list[str] = []

    def pack(self) -> list[Any]:
        return [self.day, self.alarmed, self.count, self.peak, self.most, self.things.pack(), self.evidence]

    @classmethod
    def unpack(cls, packed: Any) -> "_Denied":  # noqa: ANN401
        day, alarmed, count, peak, most, things, evidence = packed
        made = cls(whole(day))
        made.alarmed, made.count, made.peak, made.most = whole(alarmed), whole(count), whole(peak), whole(most)
        made.things, made.evidence = Recent.unpack(things), texts(evidence, MAX_EVIDENCE)
        return made


class Enumeration(Fold):
    """Many distinct resources denied to one subject, or paths to one source."""

    name = "enumeration"
    kinds = frozenset({REFUSED, NOBODY})

    def __init__(self, params: EnumerationParams | None = None, key: bytes = b"") -> None:
        self.params = params or EnumerationParams()
        self._key = key
        self._callers: Table[_Denied] = Table(self.params.max_callers)

    def see(self, one: Seen) -> Found:
        """Take one event in; see Fold."""
        if one.allowed or one.reason not in (DENIED if one.subject else PROBED):
            return NONE
        thing = one.resource or text(part(one, "context").get("path"))
        source = network(one.ip, 32, self.params.ipv6_prefix)
        caller = f"subject\n{one.subject}" if one.subject else f"source\n{source}"
        if not one.subject and not source:
            return NONE
        day = one.second // DAY
        known = self._callers.get(caller)
        if known is None:
            known = _Denied(day)
            self._callers.put(caller, known)
        if day > known.day:
            # One day teaches at most a doubling, and what an alarm was raised for teaches nothing.
            if not known.alarmed or known.alarmed // DAY != known.day:
                known.most = max(known.most, min(known.peak, 2 * known.most or known.peak))
            known.day, known.peak = day, 0
        known.count += 1
        if known.count == _SETTLED:
            self._callers.settle(caller)
        kept(known.evidence, one.event_id)
        known.things.forget(one.second - DAY)
        known.things.add(f"{digest(thing, self._key):016x}", one.second)
        return self._judge(one, known, source)

    def _judge(self, one: Seen, known: _Denied, source: str) -> Found:
        params, now = self.params, one.second
        known.peak = max(known.peak, len(known.things))
        least = params.resources if one.subject else params.paths
        if len(known.things) < least or (known.alarmed and now - known.alarmed < params.quiet):
            return NONE
        if len(known.things) <= min(params.habit * known.most, MOST - 1):
            return NONE
        lately, slow = known.things.since(now - params.window), len(known.things)
        if lately >= least:
            what = "resources" if one.subject else "paths"
            said = f"{lately} distinct {what} refused within {params.window // 60} minutes"
        elif slow >= params.slow_resources and one.subject and now - known.alarmed > DAY:
            said = f"{slow} distinct resources refused within 24 hours (low and slow)"
        else:
            return NONE
        known.alarmed = now
        said += f"; its days before had at most {known.most}"
        severity = Severity.MEDIUM if one.subject else Severity.LOW
        subject, where = one.subject or None, (one.ip if one.subject else source) or None
        return (Finding(self.name, subject, where, severity, said, tuple(known.evidence), one.at_ns),)

    def snapshot(self) -> dict[str, Any]:
        """See Fold.snapshot."""
        return {"callers": self._callers.pack(_Denied.pack)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Fold.restore."""
        made = Enumeration(self.params, self._key)
        try:
            made._callers.unpack(state_of(state, "callers"), _Denied.unpack)
        except (TypeError, ValueError) as error:
            raise SnapshotError("not a state of `enumeration`") from error
        self._callers = made._callers


RANKS: Final[Mapping[str, int]] = {
    action: rank
    for rank, actions in enumerate(
        (
            ("health", "read_metadata", "list_models", "read_metrics", "monitor_performance", "tokenize"),
            ("infer", "generate", "embed", "explain", "rerank", "classify"),
            ("list_data", "read_data", "read_job"),
            ("write_data", "submit_training_job", "cancel_job", "update_model"),
            ("register_model", "deploy_model", "undeploy_model", "delete_model", "delete_data"),
            ("admin",),
        )
    )
    for action in actions
}
"""How mighty an action is; a route's own actions have no rank and are passed over."""


@dataclass(frozen=True, slots=True)
class ProbingParams:
    """Parameters of `privilege_probing` (docs/monitoring.md)."""

    window: int = 3600
    """Seconds in which the actions were denied."""
    steps: int = 3
    """Denied actions, each mightier than the one before."""
    least: int = 3
    """Rank that the last of them must reach: 3 is writing, 4 deploying and deleting, 5 administration."""
    quiet: int = 3600
    """Seconds before the same subject is reported again."""
    max_subjects: int = 10_000


class _Steps:
    __slots__ = ("alarmed", "steps")

    def __init__(self) -> None:
        self.alarmed = 0
        self.steps: list[tuple[int, int, str, str]] = []
        """Rank, second, action, event id."""

    def pack(self) -> list[Any]:
        return [self.alarmed, [list(each) for each in self.steps]]

    @classmethod
    def unpack(cls, packed: Any) -> "_Steps":  # noqa: ANN401
        alarmed, steps = packed
        made = cls()
        made.alarmed = whole(alarmed)
        made.steps = [(whole(rank), whole(at), str(action), str(event)) for rank, at, action, event in steps[:8]]
        return made


class PrivilegeProbing(Fold):
    """A subject denied one action after the other, each mightier than the last."""

    name = "privilege_probing"
    kinds = frozenset({REFUSED})

    def __init__(self, params: ProbingParams | None = None) -> None:
        self.params = params or ProbingParams()
        self._subjects: Table[_Steps] = Table(self.params.max_subjects)

    def see(self, one: Seen) -> Found:
        """Take one event in; see Fold."""
        rank = RANKS.get(one.action)
        if one.allowed or not one.subject or rank is None or one.reason not in DENIED:
            return NONE
        params, now = self.params, one.second
        known = self._subjects.get(one.subject)
        if known is None:
            known = _Steps()
            self._subjects.put(one.subject, known)
        steps = [step for step in known.steps if step[1] >= now - params.window]
        if not steps or rank > steps[-1][0]:
            steps.append((rank, now, one.action, one.event_id))
        elif rank < steps[0][0]:
            steps = [(rank, now, one.action, one.event_id)]
        known.steps = steps
        if len(steps) > 1:
            self._subjects.settle(one.subject)
        if len(steps) < params.steps or steps[-1][0] < params.least:
            return NONE
        if known.alarmed and now - known.alarmed < params.quiet:
            return NONE
        known.alarmed = now
        known.steps = []
        actions = ", ".join(f"`{step[2]}`" for step in steps)
        minutes = max(steps[-1][1] - steps[0][1], 0) // 60 + 1
        said = f"denied {actions} within {minutes} minutes, each mightier than the one before"
        evidence = tuple(step[3] for step in steps)
        return (
            Finding(
                self.name, one.subject, one.ip or None, Severity.MEDIUM, said, evidence, one.at_ns, None, one.resource
            ),
        )

    def snapshot(self) -> dict[str, Any]:
        """See Fold.snapshot."""
        return {"subjects": self._subjects.pack(_Steps.pack)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Fold.restore."""
        made = PrivilegeProbing(self.params)
        try:
            made._subjects.unpack(state_of(state, "subjects"), _Steps.unpack)
        except (TypeError, ValueError) as error:
            raise SnapshotError("not a state of `privilege_probing`") from error
        self._subjects = made._subjects
