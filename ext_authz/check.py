"""The flow of one check: canonical path, public route, identity, meaning, context, decision.

Law: synchronous and pure. It reads two frozen values, the `Snapshot` and the
`State`, and the arguments; each early exit is one `return` of a denial.
Non-goal: turning exceptions into answers (server/service.py does, once).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ext_authz.authn import Chain
from ext_authz.context import HEADER_NAMES, Network, gather
from ext_authz.headers import HeaderPlan
from ext_authz.mappers.routes import RouteMatch, RouteTable
from ext_authz.model import Access, Context, Decision, Identity, Outcome, Query, Reason, Refusal, RequestFacts, Target
from ext_authz.policy.engine import PolicySet, Verdict
from ext_authz.state import State
from ext_authz.template import TemplateError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a check reads besides the state. A reload replaces it whole; a check sees exactly one."""

    revision: str
    authenticators: Chain
    routes: RouteTable
    policies: PolicySet
    headers: HeaderPlan
    trusted_proxies: Sequence[Network] = ()
    header_names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Collect the header names that reading a request has to fetch."""
        names = HEADER_NAMES | self.authenticators.header_names | self.routes.header_names
        object.__setattr__(self, "header_names", names)


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is known so far; becomes an Outcome at whichever exit is taken."""

    facts: RequestFacts
    snapshot: Snapshot
    decision_id: str
    now_ns: int
    path: str = ""
    error_shape: str = ""

    def outcome(
        self,
        decision: Decision,
        *,
        identity: Identity | None = None,
        target: Target | None = None,
        access: Access | None = None,
        context: Context | None = None,
        refusal: Refusal | None = None,
    ) -> Outcome:
        return Outcome(
            decision=decision,
            decision_id=self.decision_id,
            policy_revision=self.snapshot.revision,
            now_ns=self.now_ns,
            facts=self.facts,
            path=self.path,
            identity=identity,
            target=target,
            access=access,
            context=context,
            refusal=refusal,
            error_shape=self.error_shape,
        )

    def refused(self, refusal: Refusal, identity: Identity | None = None) -> Outcome:
        return self.outcome(Decision(allowed=False, reason=refusal.reason), identity=identity, refusal=refusal)


def check(facts: RequestFacts, snapshot: Snapshot, state: State, decision_id: str, now_ns: int) -> Outcome:
    """Decide one request. `now_ns` is this machine's clock in Unix nanoseconds."""
    draft = _Draft(facts, snapshot, decision_id, now_ns)

    match = snapshot.routes.match(facts)
    if isinstance(match, Refusal):
        return draft.refused(match)
    if match is not None:
        draft = replace(draft, path=match.path.text, error_shape=match.error_shape)
        if match.public:
            return _public(draft, match)

    identity = snapshot.authenticators.authenticate(facts, state, now_ns)
    if isinstance(identity, Refusal):
        return draft.refused(identity)
    if match is None:
        return draft.refused(Refusal(Reason.NO_ROUTE, "no route matches host, method and path"), identity)

    target = snapshot.routes.target(match, facts)
    if isinstance(target, Refusal):
        return draft.refused(target, identity)

    quarantine = state.quarantine_of(identity.id, now_ns)
    if quarantine is not None:
        return draft.refused(Refusal(Reason.QUARANTINED, quarantine), identity)

    context = gather(facts, draft.path, identity, target, state, snapshot.trusted_proxies, now_ns)
    return _decide(draft, identity, target, context)


def _public(draft: _Draft, match: RouteMatch) -> Outcome:
    headers, remove = draft.snapshot.headers.public(draft.facts, draft.decision_id)
    return draft.outcome(
        Decision(allowed=True, reason=Reason.PUBLIC_ROUTE, headers=headers, remove_headers=remove),
        target=Target((), match.name, match.protocol),
    )


def _decide(draft: _Draft, identity: Identity, target: Target, context: Context) -> Outcome:
    """Ask for every access of the request; all must be allowed, the gravest denial answers."""
    verdicts = [
        (
            access,
            draft.snapshot.policies.decide(Query(identity, access.resource, access.action, context, target.attributes)),
        )
        for access in target.accesses
    ]
    access, verdict = min(verdicts, key=lambda pair: _GRAVITY[pair[1].reason])
    shadow = tuple(dict.fromkeys(match for _, each in verdicts for match in each.shadow))
    if verdict.reason is not Reason.ALLOWED:
        decision = Decision(
            allowed=False,
            reason=verdict.reason,
            policy_id=verdict.policy.id if verdict.policy else "",
            policies=verdict.policies,
            shadow=shadow,
        )
        return draft.outcome(decision, identity=identity, target=target, access=access, context=context)

    access, verdict = verdicts[0]
    policy = verdict.policy
    assert policy is not None  # noqa: S101  an allow is always some policy's
    ttl = _ttl(identity, [each for _, each in verdicts], draft.now_ns)
    try:
        headers, remove = draft.snapshot.headers.allow(
            draft.facts, identity, access, policy.id, policy.headers, draft.decision_id, ttl, draft.now_ns
        )
    except TemplateError as error:
        return draft.refused(Refusal(Reason.INTERNAL_ERROR, str(error)), identity)
    decision = Decision(
        allowed=True,
        reason=Reason.ALLOWED,
        policy_id=policy.id,
        policies=tuple(dict.fromkeys(name for _, each in verdicts for name in each.policies)),
        shadow=shadow,
        headers=headers,
        remove_headers=remove,
        ttl=ttl,
        audit_logged=any(each.audit_logged for _, each in verdicts),
    )
    return draft.outcome(decision, identity=identity, target=target, access=access, context=context)


_GRAVITY = {Reason.DENIED_BY_POLICY: 0, Reason.CONDITIONS_NOT_MET: 1, Reason.NO_POLICY: 2, Reason.ALLOWED: 3}


def _ttl(identity: Identity, verdicts: Sequence[Verdict], now_ns: int) -> int:
    """Seconds the answer may be relied on: the least of policy ttl, credential, approval and window."""
    bounds = [verdict.policy.ttl for verdict in verdicts if verdict.policy is not None]
    bounds += [(verdict.until_ns - now_ns) // 1_000_000_000 for verdict in verdicts if verdict.until_ns is not None]
    if identity.expires_at is not None:
        bounds.append(identity.expires_at - now_ns // 1_000_000_000)
    return max(min(bounds), 0)
