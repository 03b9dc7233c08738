r"""ArcSight Common Event Format, version 0.

Law: `|` and `\` are escaped in the header, `=`, `\` and line ends in values; other controls become blanks, so that no
text ends a field, a line or an event. Source: ArcSight CEF implementation standard, rev. 25 (keys, escaping, lengths).
"""

import re
from typing import Final

from ext_authz import __version__
from ext_authz.audit.formats.reading import (
    PRODUCT,
    Event,
    count,
    event_code,
    kind,
    microseconds,
    severity,
    summary,
    text,
    texts,
)
from ext_authz.audit.sinks import Item

_SEVERITY: Final = {1: 1, 2: 4, 3: 6, 4: 8, 5: 10}
_REQUEST: Final = 1023
_VALUE: Final = 1023
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def encode(item: Item) -> bytes:
    """Return one line."""
    event = item.event
    what = kind(event)
    header = (
        "CEF:0",
        PRODUCT,
        PRODUCT,
        __version__,
        event_code(event),
        f"{what} {text(event, 'decision') or text(event, 'event')}".strip(),
        str(_SEVERITY[severity(event)]),
    )
    line = "|".join(_header(each) for each in header)
    extension = " ".join(f"{key}={_value(value)}" for key, value in _extension(item, event, what) if value)
    return f"{line}|{extension}".encode("utf-8", "replace")


def _extension(item: Item, event: Event, what: str) -> list[tuple[str, str]]:
    resource = "/".join(filter(None, (text(event, "resource", "type"), text(event, "resource", "id"))))
    pairs = [
        ("rt", str(microseconds(event) // 1000)),
        ("cat", f"authz.{what}"),
        ("act", text(event, "decision") or text(event, "event")),
        ("outcome", text(event, "decision") or text(event, "result")),
        ("reason", text(event, "reason") or text(event, "explanation")),
        ("msg", summary(event)),
        ("cnt", str(count(event) or "")),
        ("externalId", item.event_id),
        ("suid", text(event, "subject", "id")),
        ("suser", text(event, "subject", "name")),
        ("spriv", ",".join(texts(event, "subject", "roles"))),
        ("src", text(event, "context", "ip")),
        ("dhost", text(event, "context", "host")),
        ("requestMethod", text(event, "context", "method")),
        ("request", text(event, "context", "path")[:_REQUEST]),
        ("app", text(event, "context", "protocol")),
        ("cn1", text(event, "http_status")),
        ("cn1Label", "http_status" if text(event, "http_status") else ""),
        ("cn2", text(event, "seq")),
        ("cn2Label", "seq" if text(event, "seq") else ""),
    ]
    custom = (
        ("policy", text(event, "policy_id")),
        ("action", text(event, "action")),
        ("resource", resource),
        ("decision_id", text(event, "decision_id")),
        ("policy_revision", text(event, "policy_revision")),
        ("evidence", ",".join(texts(event, "evidence"))),
    )
    for number, (label, value) in enumerate(custom, 1):
        if value:
            pairs += [(f"cs{number}", value), (f"cs{number}Label", label)]
    return pairs


def _header(value: str) -> str:
    return _CONTROLS.sub(" ", value[:512]).replace("\\", "\\\\").replace("|", "\\|")


def _value(value: str) -> str:
    kept = value[:_VALUE].replace("\\", "\\\\").replace("=", "\\=").replace("\r", "\\r").replace("\n", "\\n")
    return _CONTROLS.sub(" ", kept)
