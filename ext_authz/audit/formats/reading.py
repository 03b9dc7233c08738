"""What every format asks of an event, whatever kind it is and whatever is missing in it.

Law: total: any JSON object gives an answer of the type that is said. Non-goal: a format.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

PRODUCT: Final = "ext-authz"
_SEVERITIES: Final = {"low": 2, "medium": 3, "high": 4, "critical": 5}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Event = Mapping[str, Any]


def at(event: Event, *path: str) -> Any:  # noqa: ANN401  JSON
    """Return what stands there, None where nothing does."""
    value: Any = event
    for step in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


def text(event: Event, *path: str) -> str:
    """Return a value as one text: "" for nothing, JSON for what is no scalar."""
    return plain(at(event, *path))


def plain(value: object) -> str:
    """Return a JSON value as one text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return orjson.dumps(value).decode()


def number(event: Event, *path: str) -> int | None:
    """Return a whole number, None where there is none."""
    value = at(event, *path)
    return value if type(value) is int else None


def texts(event: Event, *path: str) -> list[str]:
    """Return a list's texts; an empty one where there is no list."""
    value = at(event, *path)
    return [plain(each) for each in value] if isinstance(value, list) else []


def kind(event: Event) -> str:
    """Return `decision` for `ext_authz.decision/1`, and so on."""
    return text(event, "schema").partition("/")[0].rpartition(".")[2] or "unknown"


def event_code(event: Event) -> str:
    """Return the word of few that says what happened: a reason, a lifecycle word, a detector."""
    word = {"decision": "reason", "lifecycle": "event", "state": "event", "alert": "detector"}.get(kind(event))
    found = text(event, word) if word else kind(event)
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in found)[:64] or kind(event)


def microseconds(event: Event) -> int:
    """Return the event's time since the epoch; 0 where it has none."""
    try:
        since = datetime.fromisoformat(text(event, "time")) - _EPOCH
    except (ValueError, TypeError, OverflowError):
        return 0
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def failed(event: Event) -> bool:
    """Whether an evaluation, or a step of our own, failed (a denial is no failure)."""
    status = number(event, "http_status")
    return text(event, "result") == "failed" or (status is not None and status >= 500)  # noqa: PLR2004


def severity(event: Event) -> int:
    """Return 1 informational, 2 low, 3 medium, 4 high, 5 critical."""
    what = kind(event)
    if what == "alert":
        return _SEVERITIES.get(text(event, "severity"), 3)
    if what == "gap":
        return 4
    if failed(event):
        return 3
    return 2 if text(event, "decision") == "deny" else 1


def count(event: Event) -> int | None:
    """Return how many happenings the event stands for, None for one."""
    return number(event, "coalesced") or number(event, "count")


def shadow_denies(event: Event) -> bool:
    """Whether a policy that is only watched would have denied what was allowed."""
    watched = at(event, "shadow")
    return (
        text(event, "decision") == "allow"
        and isinstance(watched, list)
        and any(at(each, "effect") == "deny" for each in watched if isinstance(each, Mapping))
    )


def summary(event: Event) -> str:
    """Say in a line what happened. It may hold a caller's text: escape it."""
    what = kind(event)
    if what == "decision":
        who = text(event, "subject", "id") or text(event, "claimed_subject") or "nobody verified"
        resource = "/".join(filter(None, (text(event, "resource", "type"), text(event, "resource", "id"))))
        words = (text(event, "decision"), who, text(event, "action"), resource, f"({text(event, 'reason')})")
        return " ".join(filter(None, words))
    if what == "alert":
        return " ".join(filter(None, (text(event, "detector"), text(event, "explanation"))))
    if what == "gap":
        return f"{text(event, 'count')} events could not be recorded"
    return " ".join(filter(None, (what, text(event, "event"), text(event, "result"), text(event, "cause"))))


def some(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return what says something: neither null nor empty."""
    return {name: value for name, value in members.items() if value is not None and value not in ("", [], {})}
