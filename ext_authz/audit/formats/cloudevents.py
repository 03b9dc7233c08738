"""CloudEvents 1.0 in structured JSON; `data` is the native event, byte for byte.

Source: CloudEvents 1.0.2, and its extensions Sequence and Distributed Tracing.
"""

import orjson

from ext_authz.audit.formats.reading import kind, some, text
from ext_authz.audit.sinks import Item


def encode(item: Item) -> bytes:
    """Return one CloudEvent. `type` is `ext_authz.decision.v1` and so on; `source` names the log."""
    event = item.event
    envelope = some(
        {
            "specversion": "1.0",
            "id": item.event_id,
            "source": f"urn:ext-authz:log:{_urn(item.log_id)}" if item.log_id else "urn:ext-authz",
            "type": f"ext_authz.{kind(event)}.v1",
            "time": text(event, "time"),
            "subject": text(event, "resource", "id"),
            "datacontenttype": "application/json",
            "sequence": text(event, "seq"),
        }
    )
    data = item.line if event.get("schema") != "unreadable" else orjson.dumps(event)
    return orjson.dumps(envelope)[:-1] + b',"data":' + data + b"}"


def _urn(value: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-._") else f"%{ord(c):02X}" for c in value)
