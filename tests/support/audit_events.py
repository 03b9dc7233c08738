"""One event of every kind as items, and the same with a hostile text wherever a text may stand."""

from typing import Any

import orjson

from ext_authz.audit.sinks import Item

LOG = "worker-0-20261123T100000Z-00112233445566aa"
TIME = "2026-11-23T10:00:00.123456Z"


def decision(**more: Any) -> dict[str, Any]:
    return {
        "schema": "ext_authz.decision/1",
        "event_id": f"{LOG}:7",
        "seq": 7,
        "time": TIME,
        "decision_id": "61dcd5ac",
        "decision": "allow",
        "reason": "allowed",
        "http_status": 200,
        "policy_id": "scoring",
        "policies": ["scoring", "other"],
        "shadow": [],
        "policy_revision": "r1",
        "subject": {
            "id": "sub:alice", "name": "alice", "auth": "jwt", "issuer": "https://idp.example", "roles": ["scorer"],
            "groups": ["ml"], "org": "example", "scopes": [], "mfa": True, "workload": "", "cert_fingerprint": "",
            "token_age": 10, "claims": {"tier": "gold"},
        },
        "resource": {"type": "model", "id": "fraud", "version": "3", "attributes": {"stage": "production"}},
        "action": "infer",
        "context": {
            "ip": "10.1.2.3", "peer": "10.0.0.1", "time": TIME, "risk": "low", "approvals": [], "method": "POST",
            "host": "fraud.models.internal", "path": "/v2/models/fraud/infer", "protocol": "open-inference",
            "request_id": "q1", "bytes": 12,
        },
        "headers": ["x-authz-subject"],
        "ttl": 60,
        **more,
    }  # fmt: skip


def sibling(kind: str, **more: Any) -> dict[str, Any]:
    return {"schema": f"ext_authz.{kind}/1", "event_id": f"{LOG}:8", "seq": 8, "time": TIME, **more}


EVENTS: dict[str, dict[str, Any]] = {
    "allow": decision(),
    "deny": decision(decision="deny", reason="no_policy", http_status=403, policy_id="", policies=[], ttl=None),
    "unauthenticated": {
        name: value
        for name, value in decision(
            decision="deny", reason="invalid_token", http_status=401, detail="bad signature", claimed_subject="sub:eve"
        ).items()
        if name not in ("subject", "resource", "action")
    },
    "shadow": decision(shadow=[{"policy_id": "strict", "effect": "deny"}]),
    "error": decision(decision="deny", reason="internal_error", http_status=503),
    "several": decision(
        accesses=[
            {"resource": {"type": "model", "id": id_, "version": "", "attributes": {}}, "action": "infer"}
            for id_ in ("a", "b")
        ]
    ),
    "unread": decision(decision="deny", reason="malformed_request", http_status=400, context={}, resource=None),
    "start": sibling("lifecycle", event="start", result="ok", details={"revision": "r1"}),
    "reload": sibling("lifecycle", event="reload", result="failed", details={}, diagnostics=["a.yaml:1:1: no\n  ^"]),
    "state": sibling(
        "state", store="s1", change=3, made=TIME, event="revocation_recorded",
        record={"by": "os:root", "subject": "sub:alice", "reason": "left"},
    ),
    "checkpoint": {
        **sibling("checkpoint", log_id=LOG, cause="interval", size=8, root="00" * 32, nodes=[], key="k", note="a\nb\n"),
        "event_id": f"{LOG}:c0",
    },
    "many": decision(decision="deny", reason="no_credentials", http_status=401, coalesced=40, subject=None),
    "gap": sibling("gap", count=12, since=TIME, until=TIME),
    "alert": sibling(
        "alert", detector="unusual_volume", subject="sub:alice", source="10.1.2.3", severity="high",
        explanation="50 times the usual", evidence=[f"{LOG}:5", f"{LOG}:6"],
    ),
}  # fmt: skip
HOSTILE = 'a|b=c\\d\te\r\nf\x00g\x1b[31m\u2028\u0085h="i"]} CEF:0|x|act=allow\nLEEF:2.0|\tdecision=allow \\'


def item(event: Any) -> Item:
    return Item(orjson.dumps(event, option=orjson.OPT_SORT_KEYS))


def poisoned(value: Any, keep: tuple[str, ...] = ("schema", "event_id", "time", "decision")) -> Any:
    """Return the event with HOSTILE in place of every text that is there but those that we alone write."""
    if isinstance(value, dict):
        return {name: each if name in keep else poisoned(each, keep) for name, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, keep) for each in value]
    return HOSTILE if isinstance(value, str) and value else value
