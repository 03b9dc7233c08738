"""Deciding a query: candidates from the index, deny over allow, first allow names the decision.

Law: pure and total over queries; no match denies, and what cannot be evaluated
makes an allow not match and a deny match. Non-goal: headers' values and the
answer's form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ext_authz.model import Auth, Identity, Query, Reason, Resource, ShadowMatch
from ext_authz.policy.conditions import Condition
from ext_authz.policy.document import Effect, Policy
from ext_authz.policy.index import Index
from ext_authz.policy.matching import Values, resource_value, subject_values
from ext_authz.template import Template


@dataclass(frozen=True, slots=True)
class SubjectEntry:
    """Compiled tests of one subject entry."""

    tests: tuple[tuple[str, Values], ...]
    anonymous: bool

    def matches(self, identity: Identity) -> bool:
        """Whether every test holds; an anonymous caller only matches an entry that says so."""
        if identity.auth is Auth.ANONYMOUS and not self.anonymous:
            return False
        for name, values in self.tests:  # noqa: SIM110  here and below: a loop costs half of what `all` and `any` do
            if not values.accepts_any(subject_values(identity, name)):
                return False
        return True


@dataclass(frozen=True, slots=True)
class ResourceEntry:
    """Compiled tests of one resource entry. `open`: what is unknown matches (deny policies)."""

    tests: tuple[tuple[str, Values], ...]
    open: bool

    def matches(self, resource: Resource) -> bool:
        """Whether every test holds of the resource."""
        for attribute, values in self.tests:
            value = resource_value(resource, attribute)
            if value is None:
                if not self.open:
                    return False
            elif not values.accepts(value) and not (self.open and attribute == "id" and values.meets(value)):
                return False
        return True


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPolicy:
    """One policy, ready to be asked. `ttl` is seconds; None instead of entries or actions means any.

    `digest` is what approvals are bound to; `source` is what was written.
    """

    id: str
    digest: str
    headers: tuple[tuple[str, Template], ...]
    ttl: int
    source: Policy
    subjects: tuple[SubjectEntry, ...] | None
    resources: tuple[ResourceEntry, ...] | None
    actions: Values | None
    conditions: tuple[Condition, ...]
    audit_logged: bool
    deny: bool
    shadow: bool

    @property
    def approvals(self) -> int:
        """Distinct people that each approval needs."""
        return self.source.approvals

    @property
    def effect(self) -> Effect:
        """What it does when it matches."""
        return self.source.effect

    def concerns(self, query: Query) -> bool:
        """Whether subject, resource and action match."""
        return self.action_matches(query.action) and self.resource_matches(query) and self.subject_matches(query)

    def subject_matches(self, query: Query) -> bool:
        """Whether one of the subject entries matches."""
        if self.subjects is None:
            return True
        subject = query.subject
        for entry in self.subjects:  # noqa: SIM110
            if entry.matches(subject):
                return True
        return False

    def resource_matches(self, query: Query) -> bool:
        """Whether one of the resource entries matches."""
        if self.resources is None:
            return True
        resource = query.resource
        for entry in self.resources:  # noqa: SIM110
            if entry.matches(resource):
                return True
        return False

    def action_matches(self, action: str) -> bool:
        """Whether one of the actions matches."""
        return self.actions is None or self.actions.accepts(action)

    def in_force(self, now_ns: int) -> bool:
        """Whether `not_before` has come and `not_after` has not, by this machine's clock."""
        source = self.source
        start, end = source.not_before_ns, source.not_after_ns
        return (start is None or start <= now_ns) and (end is None or now_ns < end)

    def counts(self, held: bool | None) -> bool:  # noqa: FBT001  what a condition answered
        """Whether a condition's answer lets the policy match: an unknown one only a deny."""
        return held is not False if self.deny else held is True

    def holds(self, query: Query) -> bool:
        """Whether the policy is in force and its conditions let it match."""
        if not self.in_force(query.context.now_ns):
            return False
        for condition in self.conditions:  # noqa: SIM110
            if not self.counts(condition.holds(query, self)):
                return False
        return True

    def until_ns(self, query: Query) -> int | None:
        """Return when what a matching allow relied on ends (Unix nanoseconds); None: it does not."""
        until = self.source.not_after_ns
        for condition in self.conditions:
            end = condition.until_ns(query, self)
            if end is not None and (until is None or end < until):
                until = end
        return until


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policies say of one query.

    `policy` names the decision: the first matching allow, the first deny that
    hit, or for `conditions_not_met` the first candidate. `policies` are the ids
    of every matching allow (of an allow) or deny (of a denial). `until_ns` is
    when what the naming allow relied on ends (this machine's clock).
    """

    reason: Reason
    policy: CompiledPolicy | None
    policies: tuple[str, ...]
    shadow: tuple[ShadowMatch, ...]
    audit_logged: bool
    until_ns: int | None = None


class PolicySet:
    """Compiled policies in order. Made by compiler.compile_policies; never changes.

    `revision` identifies the document; `injectable` are the header names that
    any policy can set; `claims_read` the claim paths that any policy reads.
    """

    __slots__ = ("_index", "claims_read", "injectable", "policies", "revision")

    def __init__(
        self,
        policies: Sequence[CompiledPolicy],
        index: Index,
        *,
        revision: str,
        injectable: frozenset[str],
        claims_read: frozenset[str],
    ) -> None:
        self.policies = tuple(policies)
        self._index = index
        self.revision = revision
        self.injectable = injectable
        self.claims_read = claims_read

    def decide(self, query: Query) -> Verdict:
        """Decide one query (CONTRACT section 4)."""
        concerned = self.concerned(query)
        verdict = verdict_of(concerned, held(concerned, query))
        until_ns = lasts_until_ns(verdict, query)
        return verdict if until_ns is None else replace(verdict, until_ns=until_ns)

    def concerned(self, query: Query) -> tuple[CompiledPolicy, ...]:
        """Return the policies whose subject, resource and action match, in order: a function of just these three."""
        policies = self.policies
        found = []
        for number in self._index.candidates(query):
            policy = policies[number]
            if policy.concerns(query):
                found.append(policy)
        return tuple(found)

    def of_subject(self, query: Query) -> tuple[CompiledPolicy, ...]:
        """Return the policies whose subject matches, in order, whatever is asked for."""
        found = (self.policies[number] for number in self._index.of_subject(query))
        return tuple([policy for policy in found if policy.subject_matches(query)])


def held(concerned: Sequence[CompiledPolicy], query: Query) -> int:
    """Return which of the policies hold now, as bits, the first one lowest."""
    holding, bit = 0, 1
    for policy in concerned:
        if policy.holds(query):
            holding |= bit
        bit <<= 1
    return holding


def verdict_of(concerned: Sequence[CompiledPolicy], holding: int) -> Verdict:
    """Return what the policies say when those of the bits `holding` hold; how long that lasts is left open."""
    allows: list[CompiledPolicy] = []
    denies: list[CompiledPolicy] = []
    shadow: list[ShadowMatch] = []
    unmet: CompiledPolicy | None = None
    for policy in concerned:
        if holding & 1:
            if policy.shadow:
                shadow.append(ShadowMatch(policy.id, policy.effect.value))
            else:
                (denies if policy.deny else allows).append(policy)
        elif unmet is None and not policy.deny and not policy.shadow:
            unmet = policy
        holding >>= 1
    matched = denies or allows
    logged = any([policy.audit_logged for policy in matched])  # noqa: C419
    names = tuple([policy.id for policy in matched])
    return Verdict(_reason(denies, allows, unmet), matched[0] if matched else unmet, names, tuple(shadow), logged)


def lasts_until_ns(verdict: Verdict, query: Query) -> int | None:
    """Return when what an allow relied on ends (Unix nanoseconds); None: it does not, or nothing was allowed."""
    if verdict.reason is not Reason.ALLOWED or verdict.policy is None:
        return None
    return verdict.policy.until_ns(query)


def _reason(denies: list[CompiledPolicy], allows: list[CompiledPolicy], unmet: CompiledPolicy | None) -> Reason:
    if denies:
        return Reason.DENIED_BY_POLICY
    if allows:
        return Reason.ALLOWED
    return Reason.NO_POLICY if unmet is None else Reason.CONDITIONS_NOT_MET
