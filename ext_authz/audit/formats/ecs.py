"""Elastic Common Schema. Values of event.* are only those that ECS allows.

A correctly denied request has outcome `success` and type `denied`, as ECS has it (OCSF's status says the opposite);
`event.original` is the native line. Source: ECS 8.17 field reference and its categorization pages.
"""

from typing import Any, Final

import orjson

from ext_authz import __version__
from ext_authz.audit.formats.reading import (
    PRODUCT,
    Event,
    at,
    count,
    event_code,
    failed,
    kind,
    number,
    severity,
    some,
    summary,
    text,
    texts,
)
from ext_authz.audit.sinks import Item

ECS_VERSION: Final = "8.17.0"
_LIFECYCLE: Final = {
    "start": (["process"], ["start"]),
    "stop": (["process"], ["end"]),
    "reload": (["configuration"], ["change"]),
}


def encode(item: Item) -> bytes:
    """Return one document."""
    event = item.event
    identity = text(event, "subject", "id")
    address = text(event, "context", "ip")
    document: dict[str, Any] = {
        "@timestamp": text(event, "time") or "1970-01-01T00:00:00Z",
        "ecs": {"version": ECS_VERSION},
        "message": summary(event),
        "event": some(
            {
                "id": item.event_id,
                "sequence": number(event, "seq"),
                "original": item.line.decode("utf-8", "replace"),
                "provider": PRODUCT,
                "module": "ext_authz",
                "dataset": f"ext_authz.{kind(event)}",
                "severity": severity(event),
                **_category(event),
            }
        ),
        "data_stream": {"type": "logs", "dataset": f"ext_authz.{kind(event)}", "namespace": "default"},
        "service": {"type": PRODUCT, "name": PRODUCT, "version": __version__},
        "user": some(
            {
                "id": identity,
                "name": text(event, "subject", "name"),
                "domain": text(event, "subject", "org"),
                "roles": texts(event, "subject", "roles"),
            }
        ),
        "source": some({"ip": address, "address": text(event, "context", "peer")}),
        "http": {
            "request": some({"id": text(event, "context", "request_id"), "method": text(event, "context", "method")})
        },
        "url": some({"path": text(event, "context", "path"), "domain": text(event, "context", "host")}),
        "rule": some(
            {
                "id": text(event, "policy_id") or text(event, "detector"),
                "version": text(event, "policy_revision"),
                "ruleset": "policies" if kind(event) == "decision" else None,
            }
        ),
        "related": some({"ip": [address] if address else [], "user": [identity] if identity else []}),
        "ext_authz": some(_own(event)),
    }
    document["http"] = {"request": document["http"]["request"]} if document["http"]["request"] else {}
    return orjson.dumps(some(document))


def _category(event: Event) -> dict[str, Any]:
    what, word = kind(event), text(event, "event")
    made: dict[str, Any] = {"kind": "event", "action": f"authz.{what}", "type": ["info"]}
    if what == "decision":
        made |= {
            "category": ["api"],
            "type": ["access", "allowed" if text(event, "decision") == "allow" else "denied"],
            "outcome": "failure" if failed(event) else "success",
            "reason": text(event, "reason"),
        }
    elif what == "lifecycle":
        category, types = _LIFECYCLE.get(word, (None, ["info"]))
        made |= {
            "category": category,
            "type": types,
            "action": f"authz.{event_code(event)}",
            "outcome": "failure" if failed(event) else "success",
        }
    elif what == "state":
        made |= {
            "category": ["iam"],
            "type": ["admin", "deletion" if word.endswith("_withdrawn") else "creation"],
            "action": f"authz.{event_code(event)}",
        }
    elif what == "alert":
        made |= {
            "kind": "alert",
            "category": ["intrusion_detection"],
            "action": f"authz.{event_code(event)}",
            "reason": text(event, "explanation"),
        }
    elif what == "gap":
        made |= {"type": ["error"], "outcome": "failure"}
    return made


def _own(event: Event) -> dict[str, Any]:
    """Return what ECS has no field for, of fixed names and types: what a caller chose makes no new field."""
    resource = at(event, "resource")
    return {
        "decision_id": text(event, "decision_id"),
        "policies": texts(event, "policies"),
        "action": text(event, "action"),
        "resource": some({name: text(event, "resource", name) for name in ("type", "id", "version")})
        if resource
        else None,
        "shadow": [
            some({name: text(each, name) for name in ("policy_id", "effect")}) for each in _records(event, "shadow")
        ],
        "count": count(event),
        "risk": text(event, "context", "risk"),
        "auth": text(event, "subject", "auth"),
        "workload": text(event, "subject", "workload"),
        "claimed_subject": text(event, "claimed_subject"),
        "detail": text(event, "detail"),
        "evidence": texts(event, "evidence"),
    }


def _records(event: Event, name: str) -> list[Event]:
    value = at(event, name)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
