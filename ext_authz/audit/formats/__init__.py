"""How events are written for a sink; one file per format beside this one.

Law: every event of every kind gives one line, whatever text is in it, and no text of a caller can end a field, a line
or an event. Non-goal: transport.
"""

from typing import Final

from ext_authz.audit.formats import cef, cloudevents, ecs, leef, ocsf
from ext_authz.audit.sinks import Encode, Item


def native(item: Item) -> bytes:
    """Return the line of the trail itself."""
    return item.line


ENCODERS: Final[dict[str, Encode]] = {
    "native": native,
    "ocsf": ocsf.encode,
    "ecs": ecs.encode,
    "cef": cef.encode,
    "leef": leef.encode,
    "cloudevents": cloudevents.encode,
}
"""By the name that a sink's `format` has."""
TEXT: Final = frozenset({"cef", "leef"})
"""Formats that are no JSON."""
