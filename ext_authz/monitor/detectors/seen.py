"""One audit event as detectors look at it, read once for all of them.

Law: `subject` is set only for an identity that was verified and is somebody in
particular; an anonymous caller and a claim in a refused credential are not.
Non-goal: believing a clock. An event of the future counts as of now.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

DECISION: Final = "ext_authz.decision/1"
SECOND_NS: Final = 1_000_000_000
HOUR: Final = 3600
DAY: Final = 86_400
MAX_TEXT: Final = 512
MAX_WEIGHT: Final = 1_000_000
_STAMP: Final = 20
_NOBODY: Final[Mapping[str, Any]] = {}


@dataclass(slots=True)
class Seen:
    """What one event says. Text is "" where the event does not say; `second` is Unix seconds."""

    event_id: str
    at_ns: int
    second: int
    allowed: bool
    reason: str
    subject: str
    claimed: str
    ip: str
    type: str
    id: str
    action: str
    weight: int
    """How many inputs it brings (`batch_size`), at least 1."""
    input: str
    """Equal for equal inputs: the keyed digest where recorded, else what else tells requests apart."""
    event: Mapping[str, Any]
    resource: str
    """`type/id`, "" without a resource."""
    name: str
    """What the verified subject is called without the kind of its name."""


def seen(event: Mapping[str, Any], now_ns: int) -> Seen | None:
    """Return the event as detectors look at it; None for anything but a decision."""
    if event.get("schema") != DECISION:
        return None
    # A time before 1970 would make states that are damaged when they are taken up again.
    at_ns = min(max(event_ns(event.get("time")) or now_ns, 0), now_ns)
    subject, resource, context = _map(event, "subject"), _map(event, "resource"), _map(event, "context")
    kind, name = text(resource.get("type")), text(resource.get("id"))
    verified = bool(subject) and subject.get("auth") != "anonymous"
    return Seen(
        text(event.get("event_id")),
        at_ns,
        at_ns // SECOND_NS,
        event.get("decision") == "allow",
        text(event.get("reason")),
        text(subject.get("id")) if verified else "",
        text(event["claimed_subject"]) if "claimed_subject" in event else "",
        text(context.get("ip", context.get("peer"))),
        kind,
        name,
        text(event.get("action")),
        _weight(context) if "attributes" in context else 1,
        _input(context),
        event,
        f"{kind}/{name}" if kind else "",
        text(subject.get("name")) if verified else "",
    )


def text(value: object) -> str:
    """Return bounded text, "" for anything else."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT]
    return ""


def part(seen: Seen, name: str) -> Mapping[str, Any]:
    """Return a member of the event that is an object; an empty one otherwise."""
    return _map(seen.event, name)


def _map(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = of.get(name, _NOBODY)
    return value if isinstance(value, dict) else _NOBODY


def _weight(context: Mapping[str, Any]) -> int:
    size = _map(context, "attributes").get("batch_size")
    return min(size, MAX_WEIGHT) if type(size) is int and size > 1 else 1


def _input(context: Mapping[str, Any]) -> str:
    digest = context.get("input")
    if isinstance(digest, str):
        return digest
    query = _map(context, "query").get("hash", "") if "query" in context else ""
    return f"{context.get('bytes')}.{query}.{context.get('path')}"


def event_ns(stamp: object) -> int | None:
    """Return Unix nanoseconds of `YYYY-MM-DDTHH:MM:SS.ffffffZ` (audit.event.timestamp); None where it is no such."""
    if not isinstance(stamp, str) or len(stamp) < _STAMP:
        return None
    second = _second(stamp[:19])
    if second is None:
        return None
    try:
        return second + int(stamp[20:26].rstrip("Z").ljust(6, "0") or 0) * 1000
    except ValueError:
        return None


@lru_cache(maxsize=256)
def _second(stamp: str) -> int | None:
    try:
        minute = datetime.strptime(stamp[:16], "%Y-%m-%dT%H:%M").replace(tzinfo=UTC)
        return (int(minute.timestamp()) + int(stamp[17:19])) * SECOND_NS
    except ValueError:
        return None


_OCTETS: Final = frozenset(map(str, range(256)))


def network(ip: str, v4: int, v6: int) -> str:
    """Return the network of an address, "" for what is none. An IPv4-mapped address is the IPv4 address."""
    # What nearly every address is takes no parser, and strangers with many addresses make no memo useless.
    parts = ip.split(".")
    if len(parts) == 4 and (v4 == 32 or v4 == 16) and _OCTETS.issuperset(parts):  # noqa: PLR1714, PLR2004
        return ip if v4 == 32 else f"{parts[0]}.{parts[1]}.0.0/16"  # noqa: PLR2004
    return _network(ip, v4, v6)


@lru_cache(maxsize=4096)
def _network(ip: str, v4: int, v6: int) -> str:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    length = v4 if address.version == 4 else v6  # noqa: PLR2004
    if length == address.max_prefixlen:
        return str(address)
    return str(ipaddress.ip_network((address, length), strict=False))
