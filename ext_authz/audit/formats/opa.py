"""OPA's decision log events (EventV1), for collectors that were written for OPA.

What is no decision comes under a path of its own. Source: open-policy-agent/opa, v1/plugins/logs/plugin.go, EventV1.
"""

from typing import Any

import orjson

from ext_authz import __version__
from ext_authz.audit.formats.reading import PRODUCT, Event, at, kind, number, some, text
from ext_authz.audit.sinks import Item


def encode(item: Item) -> bytes:
    """Return one event of the array that OPA would POST."""
    event = item.event
    what = kind(event)
    decision = what == "decision"
    made: dict[str, Any] = {
        "labels": some({"app": PRODUCT, "id": item.log_id, "version": __version__}),
        "decision_id": (text(event, "decision_id") if decision else "") or item.event_id,
        "path": "envoy/authz/allow" if decision else f"ext_authz/{what}",
        "input": _input(event) if decision else {},
        "result": _result(event) if decision else event,
        "timestamp": text(event, "time") or "1970-01-01T00:00:00Z",
        "metrics": {},
        **some(
            {
                "req_id": number(event, "seq"),
                "requested_by": text(event, "context", "peer") or text(event, "context", "ip"),
                "erased": at(event, "erased"),
                "masked": at(event, "masked"),
            }
        ),
    }
    if text(event, "policy_revision"):
        made["bundles"] = {"policies": {"revision": text(event, "policy_revision")}}
    return orjson.dumps(made)


def _input(event: Event) -> dict[str, Any]:
    context = at(event, "context") or {}
    http = some({name: at(context, name) for name in ("method", "host", "path", "protocol")})
    http |= some({"id": at(context, "request_id"), "size": at(context, "bytes")})
    return some(
        {
            "attributes": some(
                {
                    "request": some({"http": http, "time": at(context, "time")}),
                    "source": some({"address": at(context, "peer"), "principal": text(event, "subject", "id")}),
                }
            ),
            "subject": at(event, "subject"),
            "resource": at(event, "resource"),
            "action": at(event, "action"),
            "context": context,
        }
    )


def _result(event: Event) -> dict[str, Any]:
    return {
        "allowed": text(event, "decision") == "allow",
        **some(
            {
                "http_status": number(event, "http_status"),
                "reason": text(event, "reason"),
                "policy_id": text(event, "policy_id"),
                "policies": at(event, "policies"),
                "shadow": at(event, "shadow"),
                "event_id": text(event, "event_id"),
            }
        ),
    }
