"""The decision object (CONTRACT section 6) of one outcome: what `explain`, policy tests and the admin API show.

Law: subject, resource and context are word for word what the audit trail records.
Non-goal: deciding.
"""

from typing import Any

import orjson

from ext_authz.audit.decision import decision_event
from ext_authz.check import Snapshot
from ext_authz.model import Outcome

_CONTEXT = ("ip", "time", "risk", "approvals", "method", "host", "path", "protocol")


def decision_object(outcome: Outcome, snapshot: Snapshot) -> dict[str, Any]:
    """Return the decision as plain JSON-able data; `trace` and `would_allow_if` are empty (explain fills them)."""
    line = decision_event(outcome, log_id="", seq=0, claims_read=snapshot.policies.claims_read)
    event = orjson.loads(line)
    decision = outcome.decision
    context = event.get("context", {})
    plain: dict[str, Any] = {
        "decision": event["decision"],
        "reason": event["reason"],
        "http_status": event["http_status"],
        "policy_id": event["policy_id"],
        "policies": list(decision.policies),
        "shadow": event["shadow"],
        "policy_revision": event["policy_revision"],
        "subject": event.get("subject"),
        "resource": event.get("resource"),
        "action": event.get("action"),
        "context": {key: context[key] for key in _CONTEXT if key in context},
        "headers": dict(decision.headers),
        "remove_headers": list(decision.remove_headers),
        "ttl": decision.ttl,
        "trace": [],
        "would_allow_if": [],
    }
    for name in ("accesses", "detail", "claimed_subject"):
        if name in event:
            plain[name] = event[name]
    if outcome.target is not None:
        plain["context"]["route"] = outcome.target.route
        plain["context"]["attributes"] = dict(outcome.target.attributes)
    return plain
