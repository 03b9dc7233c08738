"""Where an event stands in its log, as two numbers that grow with it.

Events are `LOG_ID:SEQ` and come as (SEQ + 1, 0); a checkpoint is `LOG_ID:cN` with the `seq` of the event that follows
it, and comes as (SEQ, N + 1), between the two. Law: a log's places never repeat and never fall.
"""

import re
from dataclasses import dataclass
from typing import Final

from ext_authz.audit.sinks import Item

_TAIL: Final = re.compile(r"(c?)(0|[1-9][0-9]{0,15})\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a log."""

    log_id: str
    seq: int
    minor: int


def place(item: Item) -> Place | None:
    """Return the event's place, None where its id says none."""
    log_id, _, tail = item.event_id.rpartition(":")
    found = _TAIL.match(tail)
    if found is None or not log_id or log_id == "sha256":
        return None
    if found[1]:
        return Place(log_id, item.seq, int(found[2]) + 1) if item.seq >= 0 else None
    return Place(log_id, int(found[2]) + 1, 0)
