"""The flow of one check: canonical path, public route, identity, meaning, context, decision.

Law: synchronous and pure. It reads two frozen values, the `Snapshot` and the
`State`, and the arguments; each early exit is one `return` of a denial.
Non-goal: turning exceptions into answers (server/service.py does, once).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from ext_authz.authn import Chain
from ext_authz.context import HEADER_NAMES, Network, client_address, gather
from ext_authz.headers import HeaderPlan
from ext_authz.mappers.routes import RouteMatch, RouteTable
from ext_authz.memo import Answer, Memo, Pair
from ext_authz.model import (
    Access,
    Auth,
    Context,
    Decision,
    Identity,
    Outcome,
    Pieces,
    Query,
    Reason,
    Refusal,
    RequestFacts,
    Target,
)
from ext_authz.policy.engine import PolicySet, Verdict, held, lasts_until_ns, verdict_of
from ext_authz.policy.visible import Visibility, Visible
from ext_authz.state import State
from ext_authz.template import TemplateError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a check reads besides the state. A reload replaces it whole; a check sees exactly one.

    `remembers` False decides every check from scratch, to the same bytes.
    """

    revision: str
    authenticators: Chain
    routes: RouteTable
    policies: PolicySet
    headers: HeaderPlan
    trusted_proxies: Sequence[Network] = ()
    remembers: bool = True
    header_names: frozenset[str] = field(init=False)
    memo: Memo | None = field(init=False, repr=False, compare=False)
    listings: Visibility = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Collect the header names that reading a request has to fetch; begin with nothing remembered."""
        names = HEADER_NAMES | self.authenticators.header_names | self.routes.header_names
        object.__setattr__(self, "header_names", names)
        object.__setattr__(self, "memo", Memo(self.routes) if self.remembers else None)
        object.__setattr__(self, "listings", _visibility(self.policies, self.routes))


@lru_cache(maxsize=1)
def _visibility(policies: PolicySet, routes: RouteTable) -> Visibility:
    """Return what listings show; fetched keys, which make a new snapshot, change nothing of it."""
    return Visibility(policies, routes.listed())


def check(facts: RequestFacts, snapshot: Snapshot, state: State, decision_id: str, now_ns: int) -> Outcome:
    """Decide one request. `now_ns` is this machine's clock in Unix nanoseconds."""
    memo = snapshot.memo
    key = memo.key(facts) if memo is not None else None
    known = memo.route(key) if memo is not None and key is not None else None
    match: RouteMatch | None
    target: Target | None = None
    if known is not None:
        match, target = known
    else:
        found = snapshot.routes.match(facts)
        if isinstance(found, Refusal):
            return _refused(found, facts, snapshot, decision_id, now_ns)
        if found is not None and found.public:
            return _public(found, facts, snapshot, decision_id, now_ns)
        match = found

    identity = snapshot.authenticators.authenticate(facts, state, now_ns)
    if isinstance(identity, Refusal):
        return _refused(identity, facts, snapshot, decision_id, now_ns, match)
    if match is None:
        refusal = Refusal(Reason.NO_ROUTE, "no route matches host, method and path")
        return _refused(refusal, facts, snapshot, decision_id, now_ns, match, identity)

    if target is None:
        meant = snapshot.routes.target(match, facts)
        if isinstance(meant, Refusal):
            return _refused(meant, facts, snapshot, decision_id, now_ns, match, identity)
        target = meant
        if memo is not None:
            kept = memo.keep(key, match, target, identity)
            target, memo = (target, None) if kept is None else (kept, memo)

    quarantine = state.quarantine_of(identity.id, now_ns)
    if quarantine is not None:
        refusal = Refusal(Reason.QUARANTINED, quarantine)
        return _refused(refusal, facts, snapshot, decision_id, now_ns, match, identity)

    path = match.path.text
    context = gather(facts, path, identity, target, state, snapshot.trusted_proxies, now_ns)
    answer: Answer | None = None
    until_ns: int | None
    if memo is not None and len(target.accesses) == 1 and identity.auth is not Auth.ANONYMOUS:
        access = target.accesses[0]
        query = Query(identity, access.resource, access.action, context, target.attributes)
        answer = _answer(memo, snapshot.policies, access, query)
        verdict = answer.verdict
        until_ns = lasts_until_ns(verdict, query)
    else:
        access, verdict = ask(snapshot.policies, identity, target, context)
        until_ns = verdict.until_ns
    try:
        if verdict.reason is Reason.ALLOWED:
            visible = _visible(match, snapshot, identity, context)
            if visible is not None:
                answer = None
            decision = _allow(
                answer, verdict, until_ns, snapshot.headers, facts, identity, access, decision_id, now_ns, visible
            )
        else:
            decision = _denial(verdict)
    except TemplateError as error:
        refusal = Refusal(Reason.INTERNAL_ERROR, str(error))
        return _refused(refusal, facts, snapshot, decision_id, now_ns, match, identity)
    return Outcome(
        decision,
        decision_id,
        snapshot.revision,
        now_ns,
        facts,
        path,
        identity,
        target,
        access,
        context,
        None,
        match.error_shape,
    )


def _refused(  # noqa: PLR0917  what is known so far, in the order it was learned
    refusal: Refusal,
    facts: RequestFacts,
    snapshot: Snapshot,
    decision_id: str,
    now_ns: int,
    match: RouteMatch | None = None,
    identity: Identity | None = None,
) -> Outcome:
    return Outcome(
        Decision(allowed=False, reason=refusal.reason),
        decision_id,
        snapshot.revision,
        now_ns,
        facts,
        match.path.text if match is not None else "",
        identity,
        refusal=refusal,
        error_shape=match.error_shape if match is not None else "",
        ip=client_address(facts, snapshot.trusted_proxies),
    )


def _public(match: RouteMatch, facts: RequestFacts, snapshot: Snapshot, decision_id: str, now_ns: int) -> Outcome:
    headers, remove = snapshot.headers.public(facts, decision_id)
    return Outcome(
        Decision(
            allowed=True,
            reason=Reason.PUBLIC_ROUTE,
            headers=headers,
            remove_headers=remove,
            remove_parameters=snapshot.headers.parameter_removals(facts, None) if snapshot.headers.parameters else (),
        ),
        decision_id,
        snapshot.revision,
        now_ns,
        facts,
        match.path.text,
        target=Target((), match.name, match.protocol),
        error_shape=match.error_shape,
    )


def _answer(memo: Memo, policies: PolicySet, access: Access, query: Query) -> Answer:
    """Evaluate what may change (conditions, times) of the policies that concern the pair; the rest is looked up."""
    identity = query.subject
    pair = memo.pair(identity, access)
    if pair is None:
        pair = Pair(identity, access, policies.concerned(query))
        if pair.concerned:
            # Else whoever has no rights at all could push out what is known of those who have.
            memo.keep_pair(pair)
    holding = held(pair.concerned, query)
    answer = pair.answers.get(holding)
    if answer is None:
        answer = Answer(verdict_of(pair.concerned, holding))
        pair.keep(holding, answer)
    return answer


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


def _visible(match: RouteMatch, snapshot: Snapshot, identity: Identity, context: Context) -> Visible | None:
    """Return what the answer to a listing may show this caller; None where nothing is listed."""
    if match.found is None or not match.found.row.lists:
        return None
    return snapshot.listings.listing(match.found.row.lists, match.entry.attributes).visible(identity, context)


def _denial(verdict: Verdict) -> Decision:
    policy_id = verdict.policy.id if verdict.policy is not None else ""
    return Decision(False, verdict.reason, policy_id, verdict.policies, verdict.shadow)


def _allow(  # noqa: PLR0917  what a decision is made of
    answer: Answer | None,
    verdict: Verdict,
    until_ns: int | None,
    plan: HeaderPlan,
    facts: RequestFacts,
    identity: Identity,
    access: Access,
    decision_id: str,
    now_ns: int,
    visible: Visible | None = None,
) -> Decision:
    """Return the decision of an allow; raises TemplateError where its headers are out of bounds."""
    policy = verdict.policy
    assert policy is not None  # noqa: S101  an allow is always some policy's
    ttl = _ttl(policy.ttl, identity.expires_at, until_ns, now_ns)
    pieces: Pieces | None = None
    if answer is not None and not answer.prepared:
        answer.prepare(plan.steady(identity, access, policy.id, policy.headers))
    if answer is not None and answer.steady is not None and not facts.forged:
        steady, pieces = answer.steady, answer.pieces
        headers, remove = steady.answered(decision_id, ttl), steady.remove
    else:
        shown = "" if visible is None else visible.text
        headers, remove = plan.allow(
            facts, identity, access, policy.id, policy.headers, decision_id, ttl, now_ns, shown
        )
    return Decision(
        True,
        Reason.ALLOWED,
        policy.id,
        verdict.policies,
        verdict.shadow,
        headers,
        remove,
        ttl,
        verdict.audit_logged,
        pieces,
        plan.parameter_removals(facts, identity) if plan.parameters else (),
        None if visible is None else visible.patterns,
        visible is None or visible.complete,
    )


def _ttl(ttl: int, expires_at: int | None, until_ns: int | None, now_ns: int) -> int:
    """Seconds the answer may be relied on: the least of policy ttl, credential, approval and window."""
    if until_ns is not None:
        ttl = min(ttl, (until_ns - now_ns) // _SECOND)
    if expires_at is not None:
        ttl = min(ttl, expires_at - now_ns // _SECOND)
    return max(ttl, 0)
