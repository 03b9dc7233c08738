"""IBM QRadar's Log Event Extended Format 2.0, attributes separated by a tab.

Law: LEEF cannot escape its separator, so values lose tabs, line ends and other controls. The event id is of few words:
QRadar maps events by it. Source: IBM, QRadar LEEF guide, "LEEF event components" and predefined attributes.
"""

import re
from typing import Final

from ext_authz import __version__
from ext_authz.audit.formats.reading import PRODUCT, count, event_code, kind, severity, summary, text, texts
from ext_authz.audit.sinks import Item

_SEVERITY: Final = {1: 1, 2: 4, 3: 6, 4: 8, 5: 10}
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_VALUE: Final = 2048


def encode(item: Item) -> bytes:
    """Return one line."""
    event = item.event
    pairs = (
        ("devTime", text(event, "time")[:23]),
        ("devTimeFormat", "yyyy-MM-dd'T'HH:mm:ss.SSS"),
        ("cat", f"authz.{kind(event)}"),
        ("sev", str(_SEVERITY[severity(event)])),
        ("src", text(event, "context", "ip")),
        ("usrName", text(event, "subject", "id")),
        ("accountName", text(event, "subject", "name")),
        ("role", ",".join(texts(event, "subject", "roles"))),
        ("domain", text(event, "subject", "org")),
        ("resource", "/".join(filter(None, (text(event, "resource", "type"), text(event, "resource", "id"))))),
        ("action", text(event, "action")),
        ("decision", text(event, "decision") or text(event, "result")),
        ("reason", text(event, "reason") or text(event, "explanation")),
        ("policy", text(event, "policy_id")),
        ("url", text(event, "context", "path")),
        ("host", text(event, "context", "host")),
        ("method", text(event, "context", "method")),
        ("eventUid", item.event_id),
        ("decisionId", text(event, "decision_id")),
        ("seq", text(event, "seq")),
        ("count", str(count(event) or "")),
        ("msg", summary(event)),
    )
    attributes = "\t".join(f"{key}={_CONTROLS.sub(' ', value)[:_VALUE]}" for key, value in pairs if value)
    return f"LEEF:2.0|{PRODUCT}|{PRODUCT}|{__version__}|{event_code(event)}|x09|{attributes}".encode("utf-8", "replace")
