"""Audit events as the server records them, for detectors."""

import datetime as dt

from ext_authz.audit.event import timestamp

MONDAY = int(dt.datetime(2026, 1, 5, tzinfo=dt.UTC).timestamp())
"""Monday 2026-01-05 00:00 UTC, Unix seconds."""
HOUR = 3600
DAY = 86_400
_number = iter(range(1, 10**9))


def at(day, hour=12.0):
    """Return the Unix second of an hour of a day, day 0 a Monday."""
    return int(MONDAY + day * DAY + hour * HOUR)


def event(second, subject="sub:alice", **parts):
    """Return a decision; `subject` None: refused before anybody was known. `ip`, `claimed`, `resource` (type/id), …"""
    resource = parts.get("resource", "model/fraud")
    allowed = parts.get("allowed", subject is not None)
    made = {
        "schema": "ext_authz.decision/1",
        "event_id": parts.get("event_id") or f"w:{next(_number)}",
        "time": timestamp(round(second * 1e9)),
        "decision": "allow" if allowed else "deny",
        "reason": parts.get("reason", "allowed" if allowed else "no_policy" if subject else "invalid_token"),
        "context": {
            "ip": parts.get("ip", "10.1.2.3"),
            "path": parts.get("path", "/v2/models/fraud/infer"),
            "bytes": parts.get("bytes", 100),
            **({"input": parts["input"]} if "input" in parts else {}),
            **({"attributes": {"batch_size": parts["batch"]}} if "batch" in parts else {}),
        },
    }
    if subject is not None:
        made["subject"] = {
            "id": subject,
            "name": subject.partition(":")[2],
            "auth": parts.get("auth", "jwt"),
            "issuer": "https://idp.example",
            "cert_fingerprint": parts.get("certificate", ""),
            **({"token_id": parts["token"]} if "token" in parts else {}),
            **({"key_id": parts["key"]} if "key" in parts else {}),
        }
        kind, _, name = resource.partition("/")
        made["resource"] = {"type": kind, "id": name, "version": "", "attributes": parts.get("attributes", {})}
        made["action"] = parts.get("action", "infer")
    if "claimed" in parts:
        made["claimed_subject"] = parts["claimed"]
    return made


def feed(detector, events):
    """Return all findings of the events, in their order."""
    return [found for each in events for found in detector.observe(each, 2**62)]


def working_days(days, hours=(9, 10, 11, 13, 14, 15, 16), requests=5, subject="sub:alice", **parts):
    """Yield a working life: requests in office hours on weekdays."""
    for day in days:
        if day % 7 < 5:
            for hour in hours:
                for number in range(requests):
                    yield event(at(day, hour) + 60 * number, subject, **parts)
