"""Decision events as the server records them, made of queries."""

import orjson

from ext_authz.audit.decision import decision_event
from ext_authz.check import ask
from ext_authz.model import Access, Decision, Outcome, Reason, Target


def event_of(query, policies, *, seq=0, log_id="worker-0", accesses=None, decision_id="d"):
    """Return the line that the server would record for a query that `policies` (a PolicySet) decide."""
    access = Access(query.resource, query.action)
    target = Target(accesses or (access,), "route", query.context.protocol, query.attributes)
    access, verdict = ask(policies, query.subject, target, query.context)
    named = verdict.policy.id if verdict.policy else ""
    decision = Decision(verdict.reason is Reason.ALLOWED, verdict.reason, named, verdict.policies, verdict.shadow)
    outcome = Outcome(
        decision, decision_id, "r", query.context.now_ns, None, "", query.subject, target, access, query.context
    )
    return decision_event(outcome, log_id=log_id, seq=seq, claims_read=policies.claims_read)


def changed(line, **parts):
    """Return the line with other values at dotted places (`subject__mfa=…`); None takes a field away."""
    event = orjson.loads(line)
    for place, value in parts.items():
        *path, last = place.split("__")
        inner = event
        for step in path:
            inner = inner[step]
        if value is None:
            inner.pop(last)
        else:
            inner[last] = value
    return orjson.dumps(event)
