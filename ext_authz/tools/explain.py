"""One request decided by the server's own code, with why each policy did or did not apply.

Law: the decision is the one that `check` gave; explaining changes nothing of it.
Non-goal: the server's own refusals (overloaded, not ready, a full trail).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ext_authz.check import Snapshot, check
from ext_authz.model import Access, Decision, Outcome, Query, Reason, Refusal
from ext_authz.policy.explain import explain, would_allow
from ext_authz.request import read
from ext_authz.state import State
from ext_authz.tools.decisions import decision_object
from ext_authz.tools.recorded_query import (
    UnfaithfulError,
    accesses_of,
    context_of,
    moment_of,
    resource_of,
    subject_of,
    whole,
)

_DECISION_ID: Final = "explain"
_SECOND: Final = 1_000_000_000


def explain_request(
    data: bytes, snapshot: Snapshot, state: State, now_ns: int, *, at_ns: int | None = None
) -> dict[str, Any]:
    """Return the decision object (CONTRACT section 6) of a serialized CheckRequest.

    `now_ns` is the machine's clock in Unix nanoseconds; with `at_ns` both
    clocks, the request's too, are that moment.
    """
    outcome = outcome_of(data, snapshot, state, now_ns if at_ns is None else at_ns, request_time_ns=at_ns)
    plain = decision_object(outcome, snapshot)
    query = query_of(outcome)
    if query is not None:
        explanation = explain(snapshot.policies, query)
        plain["trace"] = [each.as_json() for each in explanation.trace]
        if not outcome.decision.allowed:
            plain["would_allow_if"] = list(would_allow(snapshot.policies, _queries_of(outcome, query)))
    return plain


def explain_recorded(event: Mapping[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    """Return what `snapshot` makes of a recorded decision: `reason`, `trace` and `would_allow_if`.

    Raises UnfaithfulError where the event does not say what they ask for: it came too early, or was cut or redacted.
    """
    whole(event, cel=True)
    subject, written, action = event.get("subject"), event.get("context"), event.get("action")
    if not isinstance(subject, dict) or not isinstance(written, dict) or not isinstance(action, str):
        raise UnfaithfulError("incomplete", "the request was refused before policies were asked")
    now_ns = moment_of(event.get("time"))
    identity, age = subject_of(subject), subject.get("token_age")
    if isinstance(age, int):
        identity = replace(identity, issued_at=now_ns // _SECOND - age)
    attributes = written.get("attributes")
    listed = accesses_of(event) or (Access(resource_of(event.get("resource")), action),)
    context = context_of(written, now_ns)
    queries = [
        Query(identity, each.resource, each.action, context, attributes if isinstance(attributes, dict) else {})
        for each in listed
    ]
    explanation = explain(snapshot.policies, queries[0])
    return {
        "reason": explanation.verdict.reason.value,
        "trace": [each.as_json() for each in explanation.trace],
        "would_allow_if": list(would_allow(snapshot.policies, queries)),
    }


def _queries_of(outcome: Outcome, query: Query) -> list[Query]:
    """Return what the policies were asked for every access of the request."""
    accesses = () if outcome.target is None else outcome.target.accesses
    return [replace(query, resource=each.resource, action=each.action) for each in accesses]


def outcome_of(
    data: bytes,
    snapshot: Snapshot,
    state: State,
    now_ns: int,
    *,
    request_time_ns: int | None = None,
    decision_id: str = _DECISION_ID,
) -> Outcome:
    """Read and decide as the server does; what cannot be read, and what fails inside, is a denial."""
    facts = read(data, snapshot.header_names, snapshot.headers.injectable, snapshot.routes.sources)
    if isinstance(facts, Refusal):
        return Outcome(Decision(False, facts.reason), decision_id, snapshot.revision, now_ns, refusal=facts)
    if request_time_ns is not None:
        facts = replace(facts, time_ns=request_time_ns)
    try:
        return check(facts, snapshot, state, decision_id, now_ns)
    except Exception as error:  # noqa: BLE001  whatever it is, the server answers `internal_error` too
        refusal = Refusal(Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
        decision = Decision(False, Reason.INTERNAL_ERROR)
        return Outcome(decision, decision_id, snapshot.revision, now_ns, facts=facts, refusal=refusal)


def query_of(outcome: Outcome) -> Query | None:
    """Return what the policies were asked, where the check came that far."""
    identity, access, context, target = outcome.identity, outcome.access, outcome.context, outcome.target
    if identity is None or access is None or context is None or target is None:
        return None
    return Query(identity, access.resource, access.action, context, target.attributes)
