"""Recorded decisions made again under other policies: who gains, who loses, what stays.

Law: the policies are asked exactly what they were asked then, by the engine the
server runs; whatever cannot be replayed faithfully is counted and named, never
passed over. Non-goal: what came before policies (credentials, routes).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import NoneType
from typing import Any, Final, TypeVar

import orjson

from ext_authz.audit.event import DECISION
from ext_authz.check import ask
from ext_authz.model import Access, Approval, Auth, Context, Identity, Query, Reason, Resource, Risk, Target
from ext_authz.policy.cel import Cel
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.conditions import Approved, IpRange, Maximum, MaxRisk, MaxTokenAge, TimeWindow
from ext_authz.policy.engine import CompiledPolicy, PolicySet, Verdict
from ext_authz.policy.matching import CLAIM
from ext_authz.policy.schema import undump
from ext_authz.tools import recorded_query as recorded
from ext_authz.tools.recorded_query import UnfaithfulError
from ext_authz.tools.replay_tally import GAINED, LOST, Change, Tally
from ext_authz.tools.trail_fold import Seen

_MEMO: Final = 100_000
_MEMO_BYTES: Final = 4096
"""What is recorded of one subject or resource is some hundred bytes."""
_FAMILY: Final = DECISION.rpartition("/")[0] + "/"
_SECOND: Final = 1_000_000_000
_MINUTE_TEXT: Final = 16
_START_OF_MINUTE: Final = ":00.000000Z"
_WHOLE_MINUTE_ZONES: Final = "2000"


class Needs:
    """What the conditions of a set of policies read, so that questions with the same answer are recognised.

    `edges` are moments where a policy begins or ends, `ages` limits of a token's age (both nanoseconds).
    """

    def __init__(self, policies: PolicySet) -> None:
        asked = {each: policy for policy in policies.policies for each in policy.conditions}
        self.ranges = [(each, policy) for each, policy in asked.items() if isinstance(each, IpRange)]
        self.windows = [(each, policy) for each, policy in asked.items() if isinstance(each, TimeWindow)]
        self.strict = any(each.strict for each, _ in self.windows)
        self.risk = any(isinstance(each, MaxRisk) for each in asked)
        self.approvals = any(isinstance(each, Approved) for each in asked)
        self.attributes = any(isinstance(each, Maximum) for each in asked)
        self.cel = any(isinstance(each, Cel) for each in asked)
        moments = {
            moment
            for policy in policies.policies
            for moment in (policy.source.not_before_ns, policy.source.not_after_ns)
            if moment is not None
        }
        self.edges = sorted(moments)
        self.ages = sorted({each.milliseconds * 1_000_000 for each in asked if isinstance(each, MaxTokenAge)})
        self._addresses: dict[str | None, tuple[bool | None, ...]] = {}
        self._times: dict[tuple[str, str], tuple[bool | None, ...]] = {}

    def of_address(self, ip: str | None) -> tuple[bool | None, ...]:
        """Return what every range says of an address; it is all that matters of it."""
        known = self._addresses.get(ip)
        if known is None:
            context = replace(_BLANK.context, ip=None if ip is None else recorded.address_of(ip))
            query = replace(_BLANK, context=context)
            known = _kept(self._addresses, ip, tuple([each.holds(query, policy) for each, policy in self.ranges]))
        return known

    def of_time(self, time: str, now: str) -> tuple[bool | None, ...]:
        """Return what every window says of the request's time and this machine's (asked only where it matters).

        Windows open and close at whole minutes; only long ago zones differed from UTC by seconds.
        """
        if time >= _WHOLE_MINUTE_ZONES and now >= _WHOLE_MINUTE_ZONES:
            time, now = time[:_MINUTE_TEXT] + _START_OF_MINUTE, now[:_MINUTE_TEXT] + _START_OF_MINUTE
        key = (time, now if self.strict else "")
        known = self._times.get(key)
        if known is None:
            context = replace(_BLANK.context, time_ns=recorded.moment_of(time), now_ns=recorded.moment_of(now))
            query = replace(_BLANK, context=context)
            answers = [each.holds(query, policy) for each, policy in self.windows]
            known = _kept(self._times, key, tuple(answers))
        return known


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _kept(memo: dict[_Key, _Value], key: _Key, value: _Value, size: int = 0) -> _Value:
    """Remember a value, of a bounded number of small ones: lines of a megabyte each would fill the memory."""
    if size > _MEMO_BYTES:
        return value
    if len(memo) >= _MEMO:
        memo.clear()
    memo[key] = value
    return value


_BLANK: Final = Query(Identity("", "", Auth.MTLS), Resource("", ""), "", Context(None, 0, 0, None, None))


class Replayer:
    """Decides recorded events again; makes a Tally of lines."""

    def __init__(self, policies: PolicySet) -> None:
        self.policies = policies
        self.needs = Needs(policies)
        self.digests = {policy.id: policy.digest for policy in policies.policies}
        self.claim_readers = [(policy, paths) for policy in policies.policies if (paths := _claims_of(policy))]
        self.claims = frozenset[str]().union(*(paths for _, paths in self.claim_readers))
        self._memo: dict[tuple[Any, ...], tuple[str, str]] = {}
        self._subjects: dict[bytes, Identity] = {}
        self._resources: dict[bytes, Resource] = {}

    def fold(self, lines: Iterable[bytes | None], seen: Seen) -> Tally:
        """Fold the events of some lines."""
        tally = Tally()
        for line in lines:
            try:
                event = None if line is None else orjson.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                self._event(event, tally, seen)
            else:
                tally.cannot("damaged", "a line that is no event", "")
        return tally

    def _event(self, event: dict[str, Any], tally: Tally, seen: Seen) -> None:
        schema, event_id = event.get("schema"), event.get("event_id")
        seq = event.get("seq")
        if isinstance(event_id, str) and type(seq) is int and not seen.add(event_id.rpartition(":")[0], seq):
            tally.duplicates += 1
            return
        name = event_id if isinstance(event_id, str) else ""
        if schema != DECISION:
            if isinstance(schema, str) and not schema.startswith(_FAMILY):
                tally.others += 1
            else:
                tally.requests += 1
                tally.cannot("unknown_schema", str(schema)[:64], name)
            return
        tally.requests += 1
        try:
            reason, time = recorded.reason_of(event), event.get("time")
            recorded.moment_of(time)
            tally.saw(str(time))
            if reason not in recorded.BY_POLICIES:
                tally.came_before(reason[:64])
                return
            now_reason, now_policy = self._decided(event, tally)
        except UnfaithfulError as error:
            tally.cannot(error.kind, error.detail, name)
        except Exception as error:  # noqa: BLE001  one odd event must not end the replay of a million
            tally.cannot("error", type(error).__name__, name)
        else:
            self._compare(event, reason, now_reason, now_policy, tally)

    def _compare(self, event: dict[str, Any], reason: str, now_reason: str, now_policy: str, tally: Tally) -> None:
        policy = event.get("policy_id")
        allowed, allows = reason == Reason.ALLOWED.value, now_reason == Reason.ALLOWED.value
        if allowed == allows:
            if allowed:
                tally.outcomes["same" if policy == now_policy else "other_policy"] += 1
            else:
                tally.outcomes["same" if reason == now_reason else "other_reason"] += 1
            return
        direction = GAINED if allows else LOST
        tally.outcomes[direction] += 1
        subject, resource = event["subject"]["id"], event["resource"]
        what, action = f"{resource['type']}/{resource['id']}", event["action"]
        then = policy if isinstance(policy, str) else ""
        named = now_policy if allows or now_reason == Reason.DENIED_BY_POLICY.value else then
        for kind, name in (("policy", named), ("subject", subject), ("resource", what), ("action", action)):
            tally.changed(kind, direction, name)
        key = (direction, subject, what, action, then, reason, now_policy, now_reason)
        time, decision_id = event["time"], event.get("decision_id")
        tally.add_change(key, Change(1, time, time, [decision_id] if isinstance(decision_id, str) else []))

    def _decided(self, event: dict[str, Any], tally: Tally) -> tuple[str, str]:
        """Return reason and policy as they would be now. Raises UnfaithfulError."""
        if "truncated" in event or "erased" in event:
            recorded.whole(event, cel=self.needs.cel)
        subject, context, action = event.get("subject"), event.get("context"), event.get("action")
        for name, value, kind in (("subject", subject, dict), ("context", context, dict), ("action", action, str)):
            if not isinstance(value, kind):
                raise UnfaithfulError("incomplete", f"`{name}` is missing or odd")
        assert isinstance(subject, dict)  # noqa: S101  checked above
        assert isinstance(context, dict)  # noqa: S101
        assert isinstance(action, str)  # noqa: S101
        identity, who = self._subject(subject)
        resource, what = self._resource(event.get("resource"))
        accesses = recorded.accesses_of(event)
        key = None if accesses else self._key(event, subject, context)
        if key is not None:
            key = (who, what, action, *key)
            known = self._memo.get(key)
            if known is not None:
                return known
        made = self._fresh(event, identity, accesses or (Access(resource, action),), tally)
        if key is not None:
            size = sum(len(each) for each in key if isinstance(each, (bytes, str)))
            _kept(self._memo, key, made, size)
        return made

    def _fresh(
        self, event: dict[str, Any], identity: Identity, accesses: tuple[Access, ...], tally: Tally
    ) -> tuple[str, str]:
        now_ns = recorded.moment_of(event["time"])
        age = event["subject"].get("token_age")
        if age is not None:
            if not isinstance(age, int):
                raise UnfaithfulError("incomplete", "`subject.token_age` is missing or odd")
            identity = replace(identity, issued_at=now_ns // _SECOND - age)
        written = event["context"]
        attributes = written.get("attributes", {})
        if not isinstance(attributes, dict):
            raise UnfaithfulError("incomplete", "`context.attributes` is missing or odd")
        context = recorded.context_of(written, now_ns)
        self._claims_known(event["subject"], identity, accesses, context)
        target = Target(accesses, "", context.protocol, attributes)
        renewed = self._renewed(context)
        verdict = self._ask(identity, target, renewed)
        if renewed is not context and verdict.reason is Reason.ALLOWED:
            tally.renewals += self._ask(identity, target, context).reason is not Reason.ALLOWED
        return verdict.reason.value, verdict.policy.id if verdict.policy is not None else ""

    def _ask(self, identity: Identity, target: Target, context: Context) -> Verdict:
        return ask(self.policies, identity, target, context)[1]

    def _claims_known(
        self, subject: Mapping[str, Any], identity: Identity, accesses: tuple[Access, ...], context: Context
    ) -> None:
        """Raise UnfaithfulError where a policy about these resources reads a claim that was not recorded."""
        if not self.claim_readers:
            return
        unknown = recorded.unknown_claims(subject, self.claims)
        if not unknown:
            return
        for policy, paths in self.claim_readers:
            missing = sorted(paths & unknown.keys())
            if missing and any(
                policy.action_matches(each.action)
                and policy.resource_matches(Query(identity, each.resource, each.action, context))
                for each in accesses
            ):
                raise UnfaithfulError(unknown[missing[0]], missing[0])

    def _renewed(self, context: Context) -> Context:
        """Bind approvals to the policies' present texts: those asked for them then would be asked again."""
        if not context.approvals or not self.needs.approvals:
            return context
        approvals = tuple([self._bound(each) for each in context.approvals])
        return context if approvals == context.approvals else replace(context, approvals=approvals)

    def _bound(self, approval: Approval) -> Approval:
        digest = None if approval.policy is None else self.digests.get(approval.policy)
        if digest is None or approval.policy_digest in (None, digest):
            return approval
        return replace(approval, policy_digest=digest)

    def _subject(self, subject: dict[str, Any]) -> tuple[Identity, bytes]:
        key = orjson.dumps({name: value for name, value in subject.items() if name not in _OF_THE_TOKEN})
        known = self._subjects.get(key)
        if known is None:
            known = _kept(self._subjects, key, recorded.subject_of(subject), len(key))
        return known, key

    def _resource(self, resource: Any) -> tuple[Resource, bytes]:  # noqa: ANN401  JSON
        key = orjson.dumps(resource)
        known = self._resources.get(key)
        if known is None:
            known = _kept(self._resources, key, recorded.resource_of(resource), len(key))
        return known, key

    def _key(self, event: dict[str, Any], subject: dict[str, Any], context: dict[str, Any]) -> tuple[Any, ...] | None:
        """Return all else that the verdict can depend on; None where that is too much to compare."""
        needs, age = self.needs, subject.get("token_age")
        if needs.cel or not _ordinary(context) or not (age is None or isinstance(age, int)):
            return None
        time = event["time"]
        key: list[Any] = [context["approvals"] is None]
        if needs.ranges:
            key.append(needs.of_address(context["ip"]))
        if needs.risk:
            key.append(context["risk"])
        if needs.attributes:
            key.append(orjson.dumps(context.get("attributes"), option=orjson.OPT_SORT_KEYS))
        if needs.windows:
            key.append(needs.of_time(context["time"], time))
        if needs.edges:
            key.append(bisect_right(needs.edges, recorded.moment_of(time)))
        if needs.ages:
            if age is not None:
                now_ns = recorded.moment_of(time)
                age = bisect_left(needs.ages, now_ns - (now_ns // _SECOND - age) * _SECOND)
            key.append(age)
        return tuple(key)


_OF_THE_TOKEN: Final = frozenset({"token_age", "token_id"})


_TEXTS: Final = ("time", "method", "host", "path", "protocol")
_RISKS: Final = frozenset({None, *Risk})


def _ordinary(context: dict[str, Any]) -> bool:
    """Whether all that a context needs is there as it should be; what is not goes the long way and is named."""
    get = context.get
    approvals, risk = get("approvals", 0), get("risk", 0)
    if approvals is not None and approvals != []:
        return False
    if not isinstance(risk, (str, NoneType)) or risk not in _RISKS or "ip" not in context:
        return False
    if not all([isinstance(get(name), str) for name in _TEXTS]):  # noqa: C419  quicker for a few
        return False
    try:
        recorded.moment_of(get("time"))
        if context["ip"] is not None:
            recorded.address_of(context["ip"])
    except (TypeError, ValueError):
        return False
    return isinstance(get("attributes", _NOTHING), dict)


_NOTHING: Final[dict[str, Any]] = {}


def _claims_of(policy: CompiledPolicy) -> frozenset[str]:
    """Return the claims that decide whether a policy matches (its headers may read others)."""
    tests = [name for entry in policy.subjects or () for name, _ in entry.tests]
    paths = {name.removeprefix(CLAIM) for name in tests if name.startswith(CLAIM)}
    for condition in policy.conditions:
        if isinstance(condition, Cel):
            paths |= condition.claims_read()
    return frozenset(paths)


def replayer(dumped: bytes, strict_time: bool) -> Replayer:  # noqa: FBT001  called by position in each process
    """Make a Replayer of a dumped policy document (JSON)."""
    return Replayer(compile_policies(undump(orjson.loads(dumped)), strict_time=strict_time))
