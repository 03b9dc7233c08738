"""The flow of one check: canonical path, public route, identity, meaning, context, decision.

Law: synchronous and pure. It reads two frozen values, the `Snapshot` and the
`State`, and the arguments; each early exit is one `return` of a denial.
Non-goal: turning exceptions into answers (server/service.py does, once).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

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


@dataclass(slots=True)
class _Draft:
    """What is known so far; becomes an Outcome at whichever exit is taken."""

    facts: RequestFacts
    snapshot: Snapshot
    decision_id: str
    now_ns: int
    path: str = ""
    error_shape: str = ""
    identity: Identity | None = None

    def outcome(
        self,
        decision: Decision,
        target: Target | None = None,
        access: Access | None = None,
        context: Context | None = None,
        refusal: Refusal | None = None,
    ) -> Outcome:
        return Outcome(
            decision,
            self.decision_id,
            self.snapshot.revision,
            self.now_ns,
            self.facts,
            self.path,
            self.identity,
            target,
            access,
            context,
            refusal,
            self.error_shape,
        )

    def refused(self, refusal: Refusal) -> Outcome:
        return self.outcome(Decision(allowed=False, reason=refusal.reason), refusal=refusal)


def check(facts: RequestFacts, snapshot: Snapshot, state: State, decision_id: str, now_ns: int) -> Outcome:
    """Decide one request. `now_ns` is this machine's clock in Unix nanoseconds."""
    draft = _Draft(facts, snapshot, decision_id, now_ns)

    match = snapshot.routes.match(facts)
    if isinstance(match, Refusal):
        return draft.refused(match)
    if match is not None:
        draft.path, draft.error_shape = match.path.text, match.error_shape
        if match.public:
            return _public(draft, match)

    identity = snapshot.authenticators.authenticate(facts, state, now_ns)
    if isinstance(identity, Refusal):
        return draft.refused(identity)
    draft.identity = identity
    if match is None:
        return draft.refused(Refusal(Reason.NO_ROUTE, "no route matches host, method and path"))

    target = snapshot.routes.target(match, facts)
    if isinstance(target, Refusal):
        return draft.refused(target)

    quarantine = state.quarantine_of(identity.id, now_ns)
    if quarantine is not None:
        return draft.refused(Refusal(Reason.QUARANTINED, quarantine))

    context = gather(facts, draft.path, identity, target, state, snapshot.trusted_proxies, now_ns)
    access, verdict = ask(snapshot.policies, identity, target, context)
    if verdict.reason is not Reason.ALLOWED:
        return draft.outcome(_denial(verdict), target, access, context)
    try:
        return draft.outcome(_allow(draft, identity, access, verdict), target, access, context)
    except TemplateError as error:
        return draft.refused(Refusal(Reason.INTERNAL_ERROR, str(error)))


def _public(draft: _Draft, match: RouteMatch) -> Outcome:
    headers, remove = draft.snapshot.headers.public(draft.facts, draft.decision_id)
    return draft.outcome(
        Decision(allowed=True, reason=Reason.PUBLIC_ROUTE, headers=headers, remove_headers=remove),
        target=Target((), match.name, match.protocol),
    )


def ask(policies: PolicySet, identity: Identity, target: Target, context: Context) -> tuple[Access, Verdict]:
    """Ask for every access of the request; return the one that the decision speaks of, and the verdict on all."""
    asked = [
        (access, policies.decide(Query(identity, access.resource, access.action, context, target.attributes)))
        for access in target.accesses
    ]
    return asked[0] if len(asked) == 1 else _together(asked, context.now_ns)


def _together(asked: Sequence[tuple[Access, Verdict]], now_ns: int) -> tuple[Access, Verdict]:
    """All must be allowed, the gravest denial answers; an allow lasts as long as the shortest of them."""
    access, verdict = min(asked, key=lambda pair: _GRAVITY[pair[1].reason])
    verdicts = [each for _, each in asked]
    shadow = tuple(dict.fromkeys(match for each in verdicts for match in each.shadow))
    if verdict.reason is not Reason.ALLOWED:
        return access, replace(verdict, shadow=shadow)
    ends = [each.until_ns for each in verdicts if each.until_ns is not None]
    ends += [now_ns + each.policy.ttl * _SECOND for each in verdicts if each.policy is not None]
    return access, Verdict(
        reason=Reason.ALLOWED,
        policy=verdict.policy,
        policies=tuple(dict.fromkeys(name for each in verdicts for name in each.policies)),
        shadow=shadow,
        audit_logged=any(each.audit_logged for each in verdicts),
        until_ns=min(ends),
    )


_GRAVITY = {Reason.DENIED_BY_POLICY: 0, Reason.CONDITIONS_NOT_MET: 1, Reason.NO_POLICY: 2, Reason.ALLOWED: 3}
_SECOND: Final = 1_000_000_000


def _denial(verdict: Verdict) -> Decision:
    policy_id = verdict.policy.id if verdict.policy is not None else ""
    return Decision(False, verdict.reason, policy_id, verdict.policies, verdict.shadow)


def _allow(draft: _Draft, identity: Identity, access: Access, verdict: Verdict) -> Decision:
    """Return the decision of an allow; raises TemplateError where its headers are out of bounds."""
    policy = verdict.policy
    assert policy is not None  # noqa: S101  an allow is always some policy's
    ttl = _ttl(policy.ttl, identity.expires_at, verdict.until_ns, draft.now_ns)
    headers, remove = draft.snapshot.headers.allow(
        draft.facts, identity, access, policy.id, policy.headers, draft.decision_id, ttl, draft.now_ns
    )
    return Decision(
        True, Reason.ALLOWED, policy.id, verdict.policies, verdict.shadow, headers, remove, ttl, verdict.audit_logged
    )


def _ttl(ttl: int, expires_at: int | None, until_ns: int | None, now_ns: int) -> int:
    """Seconds the answer may be relied on: the least of policy ttl, credential, approval and window."""
    if until_ns is not None:
        ttl = min(ttl, (until_ns - now_ns) // _SECOND)
    if expires_at is not None:
        ttl = min(ttl, expires_at - now_ns // _SECOND)
    return max(ttl, 0)
