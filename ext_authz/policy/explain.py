"""Why each policy did or did not apply, and what would have to change for an allow.

Law: asks the compiled policies and conditions that decide; a counterfactual is
listed only after `decide` allowed the changed query. Non-goal: printing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from ext_authz.model import Auth, Identity, Query, Reason, Resource
from ext_authz.policy.engine import CompiledPolicy, PolicySet, ResourceEntry, SubjectEntry, Verdict
from ext_authz.policy.grant import Remedy
from ext_authz.policy.matching import ANYTHING, CLAIM, Values, names_several, resource_value
from ext_authz.policy.windows import SECOND_NS

MAX_REMEDIES: Final = 10
MAX_TRIED: Final = 64
"""How many steps the search for remedies of one request takes, each over all policies or all queries."""
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """What one policy made of the query. `failed_at` names the first part that failed, None where it matched."""

    policy_id: str
    matched: bool
    failed_at: str | None
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Return it as CONTRACT section 6 has it."""
        return {
            "policy_id": self.policy_id,
            "matched": self.matched,
            "failed_at": self.failed_at,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict, what every policy (in order) made of the query, and what would make it an allow, likeliest first."""

    verdict: Verdict
    trace: tuple[TraceEntry, ...]
    would_allow_if: tuple[str, ...]


def explain(policies: PolicySet, query: Query) -> Explanation:
    """Explain one query; pure, and as long as there are policies."""
    verdict = policies.decide(query)
    trace = tuple(_trace(policy, query) for policy in policies.policies)
    wanted = () if verdict.reason is Reason.ALLOWED else would_allow(policies, (query,))
    return Explanation(verdict, trace, wanted)


def would_allow(policies: PolicySet, queries: Sequence[Query]) -> tuple[str, ...]:
    """Return what would have to change for every one of the queries of a request to be allowed, likeliest first.

    They have subject and context in common. Nothing is said where no such change would be enough.
    """
    found: dict[str, int] = {}
    left = iter(range(MAX_TRIED))
    for steps in _together(policies, queries, 0, [], queries[0], left):
        found.setdefault(" and ".join(steps), len(steps))
    return tuple(sorted(found, key=lambda words: found[words])[:MAX_REMEDIES])


def _together(  # noqa: PLR0917  what the recursion carries
    policies: PolicySet,
    queries: Sequence[Query],
    number: int,
    steps: list[str],
    changed: Query,
    left: Iterator[int],
) -> Iterator[list[str]]:
    """Yield the steps after which all queries from `number` on are allowed, with subject and context of `changed`.

    A request may need a thousand grants, each with several ways: nothing is tried once `left` has run out.
    """
    while number < len(queries) and policies.decide(_carried(queries[number], changed)).reason is Reason.ALLOWED:
        number += 1
    if next(left, None) is None:
        return
    if number == len(queries):
        ends = (_carried(each, changed) for each in queries)
        if all(set(_denies_lifted(policies, each)) <= set(steps) for each in ends):
            yield steps
        return
    for more, following in _remedies(policies, _carried(queries[number], changed)):
        fresh = [each for each in more if each not in steps]
        yield from _together(policies, queries, number + 1, [*steps, *fresh], following, left)


def _trace(policy: CompiledPolicy, query: Query) -> TraceEntry:
    now = query.context.now_ns
    if not policy.subject_matches(query):
        return TraceEntry(policy.id, False, "subjects", _subject_detail(policy, query.subject))
    if not policy.resource_matches(query):
        return TraceEntry(policy.id, False, "resources", _resource_detail(policy, query.resource))
    if not policy.action_matches(query.action):
        known = _alternatives(policy.source.actions or ())
        return TraceEntry(policy.id, False, "actions", f"`{query.action}` is not {known}")
    if not policy.in_force(now):
        start, end = policy.source.not_before_ns, policy.source.not_after_ns
        if start is not None and now < start:
            return TraceEntry(policy.id, False, "not_before", f"not in force before {_moment(start)}")
        return TraceEntry(policy.id, False, "not_after", f"not in force since {_moment(end or now)}")
    held = [(condition, condition.holds(query, policy)) for condition in policy.conditions]
    failed = [condition for condition, answer in held if not policy.counts(answer)]
    if failed:
        detail = "; ".join(condition.detail(query, policy) for condition in failed)
        return TraceEntry(policy.id, False, failed[0].kind, detail)
    unsure = [condition.detail(query, policy) for condition, answer in held if answer is None]
    return TraceEntry(policy.id, True, None, _matched(policy, [*_unknown(policy, query.resource), *unsure]))


def _matched(policy: CompiledPolicy, unsure: list[str]) -> str:
    verb = policy.effect.value if not policy.shadow else f"would {policy.effect.value} (shadow)"
    return f"{verb}, because it cannot be ruled out: {'; '.join(unsure)}" if unsure else verb


def _subject_detail(policy: CompiledPolicy, subject: Identity) -> str:
    if subject.auth is Auth.ANONYMOUS:
        return "an anonymous caller matches only an entry that says `auth: anonymous`"
    wanted = [_entry_words(entry.tests) for entry in policy.subjects or ()]
    roles = f" (roles: {', '.join(sorted(subject.roles)[:_SHOWN])})" if subject.roles else " (no roles)"
    return f"{subject.id}{roles} is not {' or '.join(wanted[:_SHOWN])}{' …' if len(wanted) > _SHOWN else ''}"


def _resource_detail(policy: CompiledPolicy, resource: Resource) -> str:
    """Explain by the entry that came closest."""
    entries = policy.resources or ()
    closest = min(entries, key=lambda entry: len(_misses(entry, resource)))
    return f"{resource.type}/{resource.id}: {'; '.join(_misses(closest, resource))}"


def _misses(entry: ResourceEntry, resource: Resource) -> list[str]:
    misses = []
    for attribute, values in entry.tests:
        value = resource_value(resource, attribute)
        if ResourceEntry(((attribute, values),), entry.open).matches(resource):
            continue
        if value is None:
            misses.append(f"`{attribute}` is unknown")
        else:
            misses.append(f"`{attribute}` is `{value}`, not {_alternatives(_patterns(values))}")
    return misses


def _unknown(policy: CompiledPolicy, resource: Resource) -> list[str]:
    """Return what a deny had to take for granted, where no entry matches on what is known."""
    entries = [entry for entry in policy.resources or () if entry.matches(resource)]
    assumed = [
        [name for name, values in entry.tests if not _known_to_match(name, values, resource)] for entry in entries
    ]
    if not assumed or not all(assumed):
        return []
    return [f"`{name}` of {resource.type}/{resource.id} is unknown" for name in min(assumed, key=len)]


def _known_to_match(attribute: str, values: Values, resource: Resource) -> bool:
    value = resource_value(resource, attribute)
    return value is not None and (values.accepts(value) or not (attribute == "id" and names_several(resource.id)))


def _carried(query: Query, changed: Query) -> Query:
    """Return the query with all that the queries of one request have in common taken from `changed`."""
    return replace(query, subject=changed.subject, context=changed.context, attributes=changed.attributes)


def _remedies(policies: PolicySet, query: Query) -> list[tuple[list[str], Query]]:
    """Return the shortest ways to have an allow policy match: the steps, and the query so changed."""
    found: dict[str, tuple[list[str], Query]] = {}
    for policy in policies.policies:
        if policy.deny or policy.shadow or not policy.action_matches(query.action):
            continue
        if not policy.resource_matches(query):
            continue
        for words, changed in _subject_changes(policy, query):
            remedies = _conditions_met(policy, words, changed)
            if remedies is None:
                continue
            steps, changed_query = remedies
            steps += _denies_lifted(policies, changed_query)
            found.setdefault(" and ".join(steps), (steps, changed_query))
    return sorted(found.values(), key=lambda remedy: len(remedy[0]))[:MAX_REMEDIES]


def _subject_changes(policy: CompiledPolicy, query: Query) -> Iterator[tuple[list[str], Query]]:
    """Yield for each way to match the policy's subjects: words, and the query so changed."""
    if policy.subject_matches(query):
        yield [], query
        return
    for entry in policy.subjects or ():
        subject, words = query.subject, []
        if subject.auth is Auth.ANONYMOUS and not entry.anonymous:
            subject = replace(subject, auth=Auth.JWT)
            words.append("with a credential")
        for attribute, values in entry.tests:
            if SubjectEntry(((attribute, values),), anonymous=True).matches(subject):
                continue
            text, subject = _subject_remedy(attribute, values, subject)
            words.append(text)
        yield words, replace(query, subject=subject)


def _subject_remedy(attribute: str, values: Values, subject: Identity) -> tuple[str, Identity]:
    """Return words and the identity for one more test to hold."""
    value = _example(values)
    wanted = _value_words(values)
    match attribute:
        case "role":
            return f"with role {wanted}", replace(subject, roles=subject.roles | {value})
        case "group":
            return f"in group {wanted}", replace(subject, groups=subject.groups | {value})
        case "scope":
            return f"with scope {wanted}", replace(subject, scopes=subject.scopes | {value})
        case "id":
            return f"as {wanted}", replace(subject, id=value)
        case "org":
            return f"of org {wanted}", replace(subject, org=value)
        case "auth":
            return f"signed in by {wanted}", replace(subject, auth=Auth(value))
        case "issuer":
            return f"with a token of {wanted}", replace(subject, issuer=value)
        case "workload":
            return f"through workload {wanted}", replace(subject, workload=value)
        case _:
            path = attribute.removeprefix(CLAIM)
            return f"with claim {path}={wanted}", replace(subject, claims={**subject.claims, path: value})


def _conditions_met(policy: CompiledPolicy, words: list[str], query: Query) -> tuple[list[str], Query] | None:
    steps = list(words)
    start, now = policy.source.not_before_ns, query.context.now_ns
    if start is not None and now < start:
        steps.append(f"after {_moment(start)}")
        query = replace(query, context=replace(query.context, now_ns=start, time_ns=start))
    # Twice: by the time that a window opens, a token has grown old.
    for condition in (*policy.conditions, *policy.conditions):
        if condition.holds(query, policy) is True:
            continue
        remedy: Remedy | None = condition.remedy(query, policy)
        if remedy is None:
            return None
        if remedy[0] not in steps:
            steps.append(remedy[0])
        query = remedy[1]
    if not (policy.concerns(query) and policy.holds(query)):
        return None
    return steps, query


def _denies_lifted(policies: PolicySet, query: Query) -> list[str]:
    """Return the denies that stand in the way still, and one line more where no allow matches at all."""
    verdict = policies.decide(query)
    if verdict.reason is Reason.ALLOWED:
        return []
    if verdict.reason is not Reason.DENIED_BY_POLICY:
        return ["with a policy that allows it"]
    return [f"without the deny policy {name}" for name in verdict.policies]


def _entry_words(tests: tuple[tuple[str, Values], ...]) -> str:
    return " with ".join(f"{name.removeprefix(CLAIM)} {_value_words(values)}" for name, values in tests) or "anybody"


def _value_words(values: Values) -> str:
    return _words(_patterns(values))


def _patterns(values: Values) -> list[str]:
    return sorted(values.exact) + sorted(prefix + "*" for prefix in values.prefixes)


def _alternatives(texts: Sequence[str]) -> str:
    return _words([f"`{text}`" for text in texts])


def _words(texts: list[str]) -> str:
    return " or ".join(texts[:_SHOWN]) + (" …" if len(texts) > _SHOWN else "")


def _example(values: Values) -> str:
    """Return a value that the alternatives accept."""
    if values.exact:
        return min(values.exact)
    return min(values.prefixes) or ANYTHING


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
