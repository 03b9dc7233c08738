"""Open Cybersecurity Schema Framework 1.8: decisions are API Activity with the profile security_control.

Alerts are Detection Findings, starts and reloads Application Lifecycle, state changes Entity Management; checkpoints
and gaps Base Events. `raw_data` is the native line. Source: ocsf-schema 1.8.0, classes 0, 2004, 3004, 6002 and 6003.
"""

from typing import Any, Final

import orjson

from ext_authz import __version__
from ext_authz.audit.formats.reading import (
    PRODUCT,
    Event,
    at,
    count,
    failed,
    kind,
    microseconds,
    number,
    severity,
    shadow_denies,
    some,
    summary,
    text,
    texts,
)
from ext_authz.audit.sinks import Item

OCSF_VERSION: Final = "1.8.0"
OTHER: Final = 99
_READ: Final = (
    "read",
    "list",
    "infer",
    "generate",
    "embed",
    "explain",
    "rerank",
    "classify",
    "tokenize",
    "monitor",
    "health",
)
_CREATE: Final = ("deploy", "register", "submit", "create")
_UPDATE: Final = ("update", "write", "cancel")
_DELETE: Final = ("delete", "undeploy")
_ACTIVITIES: Final = {
    **dict.fromkeys(_CREATE, 1),
    **dict.fromkeys(_READ, 2),
    **dict.fromkeys(_UPDATE, 3),
    **dict.fromkeys(_DELETE, 4),
}
_LIFECYCLE: Final = {"start": 3, "stop": 4, "reload": 8}
_UNAUTHENTICATED: Final = 401
_CREATE_OF, _UPDATE_OF, _CLOSE = 1, 2, 3
"""What a finding's event says of it (class 2004)."""
_NEW, _RESOLVED = 1, 4
_RISKS: Final = {"low": 1, "medium": 2, "high": 3, "critical": 4}


def encode(item: Item) -> bytes:
    """Return one OCSF event."""
    event = item.event
    made = {"decision": _decision, "alert": _alert, "lifecycle": _lifecycle, "state": _state}.get(kind(event), _base)(
        item, event
    )
    ids = {
        # Zero is a value of these (Unknown, Other, Base Event), and stays.
        **{name: made[name] for name in ("class_uid", "category_uid", "activity_id")},
        "type_uid": made["class_uid"] * 100 + made["activity_id"],
        "time": microseconds(event) // 1000,
        "severity_id": severity(event),
    }
    metadata = _metadata(item, event, made.pop("profiles", []))
    shared = {
        "count": count(event),
        "message": summary(event),
        "metadata": metadata,
        "raw_data": item.line.decode("utf-8", "replace"),
    }
    return orjson.dumps(some(made | shared) | ids)


def _metadata(item: Item, event: Event, profiles: list[str]) -> dict[str, Any]:
    return some(
        {
            "version": OCSF_VERSION,
            "product": {"name": PRODUCT, "uid": PRODUCT, "vendor_name": PRODUCT, "version": __version__},
            "profiles": profiles,
            "uid": item.event_id,
            "sequence": number(event, "seq"),
            "log_name": item.log_id,
            "log_version": text(event, "schema"),
            "original_time": text(event, "time"),
            "correlation_uid": text(event, "context", "request_id"),
            "is_truncated": True if at(event, "truncated") else None,
        }
    )


def _decision(_: Item, event: Event) -> dict[str, Any]:
    allowed = text(event, "decision") == "allow"
    action = text(event, "action")
    activity = _ACTIVITIES.get(action.partition("_")[0], OTHER) if action else 0
    status = number(event, "http_status")
    return {
        "class_uid": 6003,
        "category_uid": 6,
        "activity_id": activity,
        "activity_name": action,
        "profiles": ["security_control"],
        "status_id": 1 if allowed else 2,
        "status_code": text(event, "reason"),
        "status_detail": text(event, "detail"),
        **_disposition(event, allowed=allowed),
        "actor": _actor(event),
        "api": some(
            {
                "operation": action or text(event, "context", "method") or "unknown",
                "service": some({"name": text(event, "context", "host")}),
                "request": some({"uid": text(event, "context", "request_id")}),
                "response": some({"code": status, "error": "" if allowed else text(event, "reason")}),
            }
        ),
        "http_request": some(
            {
                "http_method": text(event, "context", "method"),
                "uid": text(event, "context", "request_id"),
                "url": some({"hostname": text(event, "context", "host"), "path": text(event, "context", "path")}),
            }
        ),
        "src_endpoint": _source(event),
        "resources": [
            some(
                {
                    "uid": text(each, "id"),
                    "name": text(each, "id"),
                    "type": text(each, "type"),
                    "version": text(each, "version"),
                }
            )
            for each in _resources(event)
        ],
        "policy": _policy(event, text(event, "policy_id")) if text(event, "policy_id") else None,
        "authorizations": [
            {"decision": text(event, "decision"), "policy": _policy(event, each)} for each in texts(event, "policies")
        ],
        "risk_level_id": _RISKS.get(text(event, "context", "risk")),
        "unmapped": some({"decision_id": text(event, "decision_id")}),
    }


def _disposition(event: Event, *, allowed: bool) -> dict[str, Any]:
    if allowed and shadow_denies(event):
        action, disposition = 3, 17  # observed, logged: a watched policy would have denied
    elif allowed:
        action, disposition = 1, 1
    elif failed(event):
        action, disposition = 2, 25 if text(event, "reason") == "overloaded" else 27
    elif number(event, "http_status") == _UNAUTHENTICATED:
        action, disposition = 2, 26
    else:
        action, disposition = 2, 2
    return {"action_id": action, "disposition_id": disposition}


def _alert(item: Item, event: Event) -> dict[str, Any]:
    detector = text(event, "detector") or "unknown"
    evidence = texts(event, "evidence")
    resolved = text(event, "status") == "resolved"
    return {
        "class_uid": 2004,
        "category_uid": 2,
        "activity_id": _CLOSE if resolved else _UPDATE_OF if (number(event, "told") or 1) > 1 else _CREATE_OF,
        "profiles": ["security_control"],
        "status_id": _RESOLVED if resolved else _NEW,
        "action_id": 3,
        "disposition_id": 19,
        "is_alert": True,
        "finding_info": some(
            {
                "uid": text(event, "alert") or item.event_id,
                "title": detector,
                "desc": text(event, "explanation"),
                "analytic": {"name": detector, "uid": detector, "type_id": 2},
                "related_events": [{"uid": each} for each in evidence],
                "related_events_count": len(evidence) or None,
            }
        ),
        "evidences": [
            some(
                {
                    "actor": _named(text(event, "subject")) if text(event, "subject") else None,
                    "src_endpoint": {"name": text(event, "source")} if text(event, "source") else None,
                    "data": {"event_ids": evidence},
                }
            )
        ],
    }


def _lifecycle(_: Item, event: Event) -> dict[str, Any]:
    return {
        "class_uid": 6002,
        "category_uid": 6,
        "activity_id": _LIFECYCLE.get(text(event, "event"), OTHER),
        "activity_name": text(event, "event"),
        "status_id": 2 if failed(event) else 1,
        "app": {"name": PRODUCT, "uid": PRODUCT, "vendor_name": PRODUCT, "version": __version__},
    }


def _state(_: Item, event: Event) -> dict[str, Any]:
    word = text(event, "event")
    return {
        "class_uid": 3004,
        "category_uid": 3,
        "activity_id": 4 if word.endswith("_withdrawn") else 1,
        "activity_name": word,
        "status_id": 1,
        "actor": _named(text(event, "record", "by") or "unknown"),
        "entity": some(
            {
                "uid": f"{text(event, 'store')}:{text(event, 'change')}",
                "type": word.rpartition("_")[0] or "state",
                "name": text(event, "record", "subject"),
                "data": at(event, "record") if isinstance(at(event, "record"), dict) else None,
            }
        ),
    }


def _base(_: Item, event: Event) -> dict[str, Any]:
    return {"class_uid": 0, "category_uid": 0, "activity_id": OTHER, "activity_name": kind(event)}


def _actor(event: Event) -> dict[str, Any]:
    identity = text(event, "subject", "id")
    if not identity:
        # `app_name` is what satisfies "at least one of"; nobody was verified.
        return {"app_name": "unverified"}
    return {
        "user": some(
            {
                "uid": identity,
                "name": text(event, "subject", "name"),
                "type_id": OTHER,
                "type": text(event, "subject", "auth"),
                "has_mfa": at(event, "subject", "mfa") if isinstance(at(event, "subject", "mfa"), bool) else None,
                "groups": [{"name": each} for each in texts(event, "subject", "groups")],
                "org": some({"name": text(event, "subject", "org")}),
            }
        ),
        **some(
            {"idp": some({"name": text(event, "subject", "issuer")}), "invoked_by": text(event, "subject", "workload")}
        ),
    }


def _named(subject: str) -> dict[str, Any]:
    return {"user": {"uid": subject, "name": subject}}


def _source(event: Event) -> dict[str, Any]:
    address = text(event, "context", "ip") or text(event, "context", "peer")
    return {"ip": address} if address else {"name": "unknown"}


def _policy(event: Event, policy: str) -> dict[str, Any]:
    return some({"uid": policy, "name": policy, "version": text(event, "policy_revision"), "is_applied": True})


def _resources(event: Event) -> list[Event]:
    several = at(event, "accesses")
    found = [at(each, "resource") for each in several if isinstance(each, dict)] if isinstance(several, list) else []
    return [each for each in (found or [at(event, "resource")]) if isinstance(each, dict)]
