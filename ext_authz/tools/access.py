"""Who may do what, read off the policies: one row for each alternative that grants it, with its "if" and "unless".

Law: nothing is tried out. What is known of subject, resource and action decides;
what is not becomes a condition of the row, so a row is left out only where it
could never hold. Non-goal: one request's decision (explain).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from ext_authz.model import Auth
from ext_authz.policy.conditions import (
    Approved,
    AuditLogged,
    Condition,
    IpRange,
    Maximum,
    MaxRisk,
    MaxTokenAge,
    MfaRequired,
    TimeWindow,
    duration_text,
)
from ext_authz.policy.engine import CompiledPolicy, PolicySet, ResourceEntry, SubjectEntry
from ext_authz.policy.matching import ANYTHING, CLAIM, Values

_SINGLE: Final = frozenset({"id", "org", "auth", "issuer", "workload"})
"""Subject keys with at most one value; of the others a subject may have more than a policy asks for."""
_SECOND: Final = 1_000_000_000

Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What is known. None or a missing key: anything, so it becomes a condition.

    `subject` maps subject keys (`role`, `claim:team`) to all the values there
    are; `resource` maps attributes (`type`, `id`, …) to their value. `at_ns` is Unix nanoseconds.
    """

    at_ns: int
    action: str | None = None
    subject: Mapping[str, Collection[str]] | None = None
    resource: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One alternative of one policy. `conditions` must all hold; any of `unless` denies it after all.

    `subject` is the entry as written where nobody is asked about, `held_by` who holds the roles it asks for.
    """

    policy: str
    subject: str
    held_by: Texts
    actions: Texts
    resource: str
    conditions: Texts
    unless: Texts
    ttl: int
    denied_by: str = ""


@dataclass(frozen=True, slots=True)
class Holders:
    """Who holds roles by configuration: (role, member). `tokens`: a token may say any role."""

    bound: tuple[tuple[str, str], ...] = ()
    tokens: bool = False

    def of(self, roles: Values, auth: Values | None) -> Texts:
        """Return who holds one of the roles and signs in by `auth` (None: by anything)."""

        def may(kind: Auth) -> bool:
            return auth is None or auth.accepts(kind.value)

        members = {member for role, member in self.bound if roles.accepts(role) and may(auth_of(member))}
        return (*sorted(members), *(("whoever a token says",) if self.tokens and may(Auth.JWT) else ()))


@dataclass(frozen=True, slots=True)
class Answer:
    """`rows` in policy order; `never` are those that a deny policy always hits, named by `denied_by`."""

    rows: tuple[Row, ...]
    never: tuple[Row, ...] = ()


@dataclass(slots=True)
class _Draft:
    """One subject entry, resource entry and the actions of an allow, while it is compared."""

    policy: CompiledPolicy
    subject: SubjectEntry
    resource: ResourceEntry
    actions: Texts
    conditions: list[str] = field(default_factory=list)


def access(policies: PolicySet, question: Question, holders: Holders | None = None) -> Answer:
    """Return what answers the question. Shadow policies grant and deny nothing, so they are left out."""
    enforced = [policy for policy in policies.policies if not policy.shadow and not _over(policy, question.at_ns)]
    denies = [policy for policy in enforced if policy.deny]
    rows: list[Row] = []
    never: list[Row] = []
    for policy in enforced:
        if policy.deny:
            continue
        for draft in _drafts(policy, question):
            unless: list[str] = []
            denied_by = ""
            for deny in denies:
                found = list(_denied(deny, draft, question))
                if any(not texts for texts in found):
                    denied_by = denied_by or deny.id
                unless += [f"{' and '.join(texts)} ({deny.id})" for texts in found if texts]
            row = _row(draft, question, holders or Holders(), tuple(dict.fromkeys(unless)), denied_by)
            (never if denied_by else rows).append(row)
    return Answer(tuple(dict.fromkeys(rows)), tuple(dict.fromkeys(never)))


def auth_of(name: str) -> Auth:
    """Return how the bearer of a typed name (or of a `group:`) proves itself."""
    if name.startswith(("sub:", "group:")):
        return Auth.JWT
    return Auth.API_KEY if name.startswith("key:") else Auth.MTLS


def _over(policy: CompiledPolicy, at_ns: int) -> bool:
    end = policy.source.not_after_ns
    return end is not None and end <= at_ns


def _drafts(policy: CompiledPolicy, question: Question) -> Iterator[_Draft]:
    """Yield the alternatives of an allow policy that could answer, with what is left to ask."""
    if question.action is not None and not policy.action_matches(question.action):
        return
    actions = policy.source.actions or (ANYTHING,)
    if question.action is not None:
        actions = (question.action,)
    for subject in policy.subjects or ():
        asked_of_subject = _left_of_subject(subject, question.subject)
        if asked_of_subject is None:
            continue
        for resource in policy.resources or ():
            asked_of_resource = _left_of_resource(resource, question.resource)
            if asked_of_resource is not None:
                own = [*asked_of_subject, *asked_of_resource, *condition_words(policy, question.at_ns)]
                yield _Draft(policy, subject, resource, actions, own)


def _left_of_subject(entry: SubjectEntry, known: Mapping[str, Collection[str]] | None) -> list[str] | None:
    """Return what of an entry is not known of the subject; None where it cannot match."""
    if known is None:
        return []
    if set(known.get("auth", ())) == {Auth.ANONYMOUS.value} and not entry.anonymous:
        return None
    left = []
    for name, values in entry.tests:
        if name not in known:
            left.append(test_words(name, values))
        elif not values.accepts_any(known[name]):
            return None
    return left


def _left_of_resource(entry: ResourceEntry, known: Mapping[str, str] | None) -> list[str] | None:
    if known is None:
        return []
    left = []
    for name, values in entry.tests:
        if name not in known:
            if not (name == "id" and ANYTHING in patterns(values)):
                left.append(attribute_words(name, values))
        elif not values.accepts(known[name]):
            return None
    return left


def _row(draft: _Draft, question: Question, holders: Holders, unless: Texts, denied_by: str) -> Row:
    tests = dict(draft.subject.tests)
    held = holders.of(tests["role"], tests.get("auth")) if "role" in tests and question.subject is None else ()
    return Row(
        policy=draft.policy.id,
        subject=entry_words(draft.subject) if question.subject is None else "",
        held_by=held,
        actions=draft.actions,
        resource=resource_words(draft.resource) if question.resource is None else "",
        conditions=tuple(dict.fromkeys(draft.conditions)),
        unless=unless,
        ttl=draft.policy.ttl,
        denied_by=denied_by,
    )


def _denied(deny: CompiledPolicy, draft: _Draft, question: Question) -> Iterator[Texts]:
    """Yield each way in which a deny hits the alternative: what must be so for it, nothing where it always does."""
    actions = _deny_actions(deny, draft.actions)
    if actions is None:
        return
    always = tuple(condition_words(deny, question.at_ns))
    for subject in deny.subjects if deny.subjects is not None else (None,):
        of_subject = () if subject is None else _deny_subject(subject, draft.subject, question.subject)
        if of_subject is None:
            continue
        for resource in deny.resources if deny.resources is not None else (None,):
            of_resource = () if resource is None else _deny_resource(resource, draft.resource, question.resource)
            if of_resource is not None:
                yield (*of_subject, *of_resource, *actions, *always)


def _deny_actions(deny: CompiledPolicy, actions: Texts) -> Texts | None:
    if deny.actions is None or all(_covers(deny.actions, each) for each in actions):
        return ()
    common = [each for each in actions if _overlap(deny.actions, each)]
    return (f"the action is {_or(patterns(deny.actions))}",) if common else None


def _deny_subject(deny: SubjectEntry, allow: SubjectEntry, known: Mapping[str, Collection[str]] | None) -> Texts | None:
    asked = dict(allow.tests)
    known = known or {}
    kinds = known.get("auth", patterns(asked["auth"]) if "auth" in asked else ())
    if set(kinds) == {Auth.ANONYMOUS.value} and not deny.anonymous:
        return None
    left = []
    for name, values in deny.tests:
        if name in known:
            if not values.accepts_any(known[name]):
                return None
        elif name in asked and all(_covers(values, each) for each in patterns(asked[name])):
            continue
        elif name in asked and name in _SINGLE and not any(_overlap(values, each) for each in patterns(asked[name])):
            return None
        else:
            left.append(test_words(name, values))
    return tuple(left)


def _deny_resource(deny: ResourceEntry, allow: ResourceEntry, known: Mapping[str, str] | None) -> Texts | None:
    asked = dict(allow.tests)
    known = known or {}
    left = []
    for name, values in deny.tests:
        if name in known:
            # An id such as `*` stands for several: a deny of one of them hits it.
            if not (values.meets(known[name]) if name == "id" else values.accepts(known[name])):
                return None
        elif name in asked and all(_covers(values, each) for each in patterns(asked[name])):
            continue
        elif name in asked and not any(_overlap(values, each) for each in patterns(asked[name])):
            return None
        elif name in asked or name in ("type", "id"):
            left.append(attribute_words(name, values))
        else:
            left.append(f"{attribute_words(name, values)} or not known")
    return tuple(left)


def _covers(values: Values, pattern: str) -> bool:
    """Whether whatever the pattern matches is one of the values."""
    return pattern.removesuffix("*").startswith(values.prefixes) or pattern in values.exact


def _overlap(values: Values, pattern: str) -> bool:
    if not pattern.endswith("*"):
        return values.accepts(pattern)
    start = pattern[:-1]
    return any(each.startswith(start) for each in values.exact) or any(
        each.startswith(start) or start.startswith(each) for each in values.prefixes
    )


def patterns(values: Values) -> list[str]:
    """Return the alternatives as written, sorted."""
    return sorted(values.exact) + sorted(prefix + "*" for prefix in values.prefixes)


def entry_words(entry: SubjectEntry) -> str:
    """Return a subject entry in words."""
    return " with ".join(test_words(name, values) for name, values in entry.tests) or "anybody with a credential"


def test_words(name: str, values: Values) -> str:
    """Return one test of a subject in words: `role a or b`."""
    if name == "id":
        return _or(patterns(values))
    return f"{'claim ' if name.startswith(CLAIM) else ''}{name.removeprefix(CLAIM)} {_or(patterns(values))}"


def resource_words(entry: ResourceEntry) -> str:
    """Return a resource entry in words: `model with stage production`."""
    tests = dict(entry.tests)
    kind = _or(patterns(tests.pop("type"))) if "type" in tests else "anything"
    name = f"/{_or(patterns(tests.pop('id')))}" if "id" in tests else ""
    kind = "anything" if kind == ANYTHING and not name else kind
    rest = " and ".join(f"{name} {_or(patterns(values))}" for name, values in tests.items())
    return f"{kind}{name}{f' with {rest}' if rest else ''}"


def attribute_words(name: str, values: Values) -> str:
    """Return one test of a resource as a condition: `stage is production`."""
    return f"{name} is {_or(patterns(values))}"


def _or(texts: Sequence[str]) -> str:
    return " or ".join(texts)


def condition_words(policy: CompiledPolicy, at_ns: int) -> Iterator[str]:
    """Yield what else a policy asks for, in words; of its time in force what is still to come."""
    start, end = policy.source.not_before_ns, policy.source.not_after_ns
    if start is not None and start > at_ns:
        yield f"from {_moment(start)} on"
    if end is not None:
        yield f"until {_moment(end)}"
    for condition in policy.source.conditions:
        # Asking for a record restricts an allow by nothing a caller can do.
        if not (policy.deny and isinstance(condition, AuditLogged)):
            yield _condition(condition, policy)


def _condition(condition: Condition, policy: CompiledPolicy) -> str:
    match condition:
        case IpRange():
            return f"from {_or(condition.networks)}"
        case TimeWindow():
            window = condition.window.describe()
            return f"in {condition.name} ({window})" if condition.name else f"in {window}"
        case MfaRequired():
            return "with MFA"
        case AuditLogged():
            return "recorded before the answer"
        case Approved():
            many = policy.approvals
            return f"with {'an approval' if many == 1 else f'{many} approvals'} by {condition.group}"
        case MaxTokenAge():
            return f"with a token no older than {duration_text(condition.milliseconds)}"
        case MaxRisk():
            return f"with risk {condition.risk.value} or lower"
        case Maximum():
            return " and ".join(f"with {name} at most {limit}" for name, limit in condition.limits)
        case _:
            return f"where {condition.data()}"


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // _SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
