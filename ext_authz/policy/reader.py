"""Marked nodes to plain values, every mistake collected instead of the first one raised.

Law: a reader never guesses. What it cannot read becomes one Diagnostic at its
place and None to the caller. Non-goal: what the values are for.
"""

import ipaddress
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from ext_authz.documents import Budget, Diagnostic, MappingNode, Mark, Node, Scalar, Sequence, nearest
from ext_authz.policy.windows import DAYS, MINUTES_PER_DAY, Window

MAX_TEXT: Final = 1024
MAX_ALTERNATIVES: Final = 10_000
MAX_DURATION_MS: Final = 3650 * 86_400_000
# The years 1678 to 2261 (UTC): nanoseconds of them fit 64 bits, as digests, events and answers have them.
MIN_MOMENT_NS: Final = -9_214_560_000 * 10**9
MAX_MOMENT_NS: Final = 9_214_646_400 * 10**9 - 1
# Behind so many mistakes nobody reads suggestions, and looking for one in a thousand names takes milliseconds.
_MANY: Final = 100

_DURATION = re.compile(r"(\d{1,12})(ms|s|m|h|d)\Z", re.ASCII)
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\Z", re.ASCII)
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(:\d\d)?(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)\Z",
    re.ASCII,
)
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,9})?\Z", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*\Z")
_LONG_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY_OF: Final = {name: day for names in (DAYS, _LONG_DAYS) for day, name in enumerate(names)}
# Names of this machine's own zone or of no zone at all: they would mean something else on the next host.
_LOCAL_ZONES: Final = frozenset({"localtime", "posixrules", "Factory"})


class Reader:
    """Collects the mistakes of one load; each method returns None after reporting one."""

    def __init__(self) -> None:
        self.mistakes: list[Diagnostic] = []
        self.budget = Budget()

    def mistake(self, at: Node | Mark, message: str) -> None:
        """Report a mistake at a node or mark."""
        self.mistakes.append(Diagnostic(at if isinstance(at, Mark) else at.mark, message))

    def near(self, word: str, known: Collection[str]) -> str:
        """Return `, did you mean `x`?` for the nearest of `known`, or "" (always after many mistakes)."""
        near = self.nearest(word, known)
        return "" if near is None else f", did you mean `{near}`?"

    def nearest(self, word: str, known: Collection[str]) -> str | None:
        """Return the nearest of `known`, or None (always after many mistakes)."""
        return nearest(word, known) if len(self.mistakes) < _MANY else None

    def mapping(self, node: Node, what: str) -> MappingNode | None:
        """Return a mapping with at least one entry."""
        if not isinstance(node, MappingNode):
            self.mistake(node, f"{what} must be a mapping (`key: value`)")
            return None
        if not node.entries:
            self.mistake(node, f"{what} is empty")
            return None
        return node

    def sequence(self, node: Node, what: str) -> Sequence | None:
        """Return a list with at least one item."""
        if not isinstance(node, Sequence):
            self.mistake(node, f"{what} must be a list")
            return None
        if not node.items:
            self.mistake(node, f"{what} is an empty list")
            return None
        return node

    def unknown_key(self, key: Scalar, known: Collection[str], what: str) -> None:
        """Report a key that nothing reads."""
        self.mistake(key, f"unknown {what} `{_short(key.text)}`{self.near(key.text, known)}")

    def text(self, node: Node, what: str) -> str | None:
        """Return a scalar's text, bounded and without control characters."""
        if not isinstance(node, Scalar):
            self.mistake(node, f"{what} must be text")
            return None
        if node.is_null or not node.text.strip():
            self.mistake(node, f"{what} is empty")
            return None
        if len(node.text) > MAX_TEXT:
            self.mistake(node, f"{what} is longer than {MAX_TEXT} characters")
            return None
        if node.text != node.text.strip():
            self.mistake(node, f"{what} begins or ends with a space")
            return None
        if not node.text.isprintable():
            self.mistake(node, f"{what} holds a character that cannot be printed")
            return None
        return node.text

    def scalars(self, node: Node, what: str) -> Iterator[tuple[str, Scalar]]:
        """Yield the text of a scalar, or of each item of a list of scalars."""
        if not isinstance(node, Sequence):
            if not isinstance(node, Scalar):
                self.mistake(node, f"{what} must be text or a list of texts")
                return
            items: tuple[Node, ...] = (node,)
        else:
            items = node.items
            if not items:
                self.mistake(node, f"{what} is an empty list")
            if len(items) > MAX_ALTERNATIVES:
                self.mistake(node, f"{what} lists more than {MAX_ALTERNATIVES} alternatives")
                return
        for item in items:
            text = self.text(item, what)
            if text is not None and isinstance(item, Scalar):
                yield text, item

    def values(self, node: Node, what: str) -> tuple[str, ...] | None:
        """Return alternatives: texts in which `*` stands only at the end."""
        found: list[str] = []
        good = True
        for text, item in self.scalars(node, what):
            if "*" in text[:-1]:
                self.mistake(item, f"in `{_short(text)}` the `*` must be the last character")
                good = False
            else:
                found.append(text)
        return tuple(dict.fromkeys(found)) if found and good else None

    def choice(self, node: Node, known: Collection[str], what: str) -> str | None:
        """Return a text that is one of `known`."""
        text = self.text(node, what)
        if text is None or text in known:
            return text
        listed = ", ".join(f"`{name}`" for name in known)
        self.mistake(node, f"unknown {what} `{_short(text)}`{self.near(text, known) or f'; it is one of {listed}'}")
        return None

    def only_true(self, node: Node, key: str) -> bool:
        """Whether the value is `true`, the only one such a key takes."""
        if isinstance(node, Scalar) and node.text == "true":
            return True
        if isinstance(node, Scalar) and node.text == "false":
            self.mistake(node, f"`{key}: false` asks for nothing; leave it out")
        else:
            self.mistake(node, f"`{key}` takes only `true`")
        return False

    def duration_ms(self, node: Node, what: str) -> int | None:
        """Return a positive duration in milliseconds."""
        text = self.text(node, what)
        if text is None:
            return None
        found = _DURATION.match(text)
        if found is None:
            self.mistake(node, f"`{_short(text)}` is not a duration such as `500ms`, `30s`, `15m`, `1h` or `7d`")
            return None
        milliseconds = int(found[1]) * _UNIT_MS[found[2]]
        if not 0 < milliseconds <= MAX_DURATION_MS:
            self.mistake(node, f"{what} must be more than nothing and at most 3650d")
            return None
        return milliseconds

    def moment_ns(self, node: Node, what: str) -> int | None:
        """Return a point in time (RFC 3339, with its offset) in Unix nanoseconds."""
        text = self.text(node, what)
        if text is None:
            return None
        moment = moment_ns(text)
        if moment is None:
            self.mistake(node, f"`{_short(text)}` is not a time with an offset such as `2026-11-23T10:00:00Z`")
        elif not MIN_MOMENT_NS <= moment <= MAX_MOMENT_NS:
            self.mistake(node, f"{what} must be from 1678 to 2261; what has no end is left out")
            return None
        return moment

    def count(self, node: Node, what: str, low: int, high: int) -> int | None:
        """Return an integer from `low` to `high`."""
        text = self.text(node, what)
        if text is None:
            return None
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            self.mistake(node, f"{what} must be a whole number from {low} to {high}")
            return None
        return int(text)

    def number(self, node: Node, what: str) -> int | float | None:
        """Return a whole or decimal number."""
        if not isinstance(node, Scalar):
            self.mistake(node, f"{what} must be a number")
            return None
        text = self.text(node, what)
        if text is None:
            return None
        if not _NUMBER.match(text):
            self.mistake(node, f"{what} must be a number, not `{_short(text)}`")
            return None
        return float(text) if "." in text else int(text)

    def networks(self, node: Node, what: str) -> tuple[str, ...] | None:
        """Return CIDR blocks in canonical form; IPv4-mapped blocks become IPv4."""
        found: list[str] = []
        good = True
        for text, item in self.scalars(node, what):
            network = _network(text)
            if isinstance(network, str):
                self.mistake(item, network)
                good = False
            else:
                found.append(str(network))
        return tuple(dict.fromkeys(found)) if found and good else None

    def window(self, node: Node, what: str) -> Window | None:
        """Return a time window; `days` are all and `timezone` is UTC where they are not written."""
        mapping = self.mapping(node, what)
        if mapping is None:
            return None
        before = len(self.mistakes)
        for key, _ in mapping:
            if key.text not in _WINDOW_KEYS:
                self.unknown_key(key, _WINDOW_KEYS, "key of a time window")
        for bound in ("from", "to"):
            if mapping.get(bound) is None:
                self.mistake(mapping, f"{what} has no `{bound}`")
        days = self._days(mapping.get("days"))
        start, end = self._clock(mapping.get("from"), "from"), self._clock(mapping.get("to"), "to")
        zone = self._zone(mapping.get("timezone"))
        if start is not None and start == end:
            hint = 'for the whole day write `from: "00:00"`, `to: "24:00"`'
            self.mistake(mapping.get("to") or mapping, f"`from` and `to` are the same; {hint}")
        if len(self.mistakes) > before or days is None or start is None or end is None or zone is None:
            return None
        return Window(days, start, end, zone)

    def _days(self, node: Node | None) -> tuple[int, ...] | None:
        if node is None:
            return tuple(range(7))
        days: set[int] = set()
        good = True
        for text, item in self.scalars(node, "`days`"):
            first, dash, last = text.lower().partition("-")
            names = (first, last) if dash else (first,)
            unknown = [name for name in names if name not in _DAY_OF]
            for name in unknown:
                self.mistake(item, f"unknown day `{_short(name)}`{self.near(name, DAYS) or self.near(name, _DAY_OF)}")
            if unknown:
                good = False
                continue
            start, end = _DAY_OF[first], _DAY_OF[names[-1]]
            days.update((start + step) % 7 for step in range((end - start) % 7 + 1))
        return tuple(sorted(days)) if days and good else None

    def _clock(self, node: Node | None, key: str) -> int | None:
        if node is None:
            return None
        text = self.text(node, f"`{key}`")
        if text is None:
            return None
        if text == "24:00" and key == "to":
            return MINUTES_PER_DAY
        found = _CLOCK.match(text)
        if found is None:
            range_text = "`00:00` to `24:00`" if key == "to" else "`00:00` to `23:59`"
            self.mistake(node, f"`{key}` must be a time of day from {range_text}, not `{_short(text)}`")
            return None
        return int(found[1]) * 60 + int(found[2])

    def _zone(self, node: Node | None) -> str | None:
        if node is None:
            return "UTC"
        text = self.text(node, "`timezone`")
        if text is None:
            return None
        if not zone_exists(text):
            inside = next((name for name in _zone_names() if name.startswith(f"{text}/")), None)
            hint = self.near(text, _zone_names()) if inside is None else f"; it has several, such as `{inside}`"
            self.mistake(node, f"unknown time zone `{_short(text)}`{hint}")
            return None
        return text


_WINDOW_KEYS: Final = ("days", "from", "to", "timezone")


def zone_exists(name: str) -> bool:
    """Whether `name` is an IANA time zone that means the same on every machine."""
    if not _ZONE.match(name) or name in _LOCAL_ZONES or name.startswith(("posix/", "right/")):
        return False
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # KeyError: ZoneInfoNotFoundError; OSError: a folder such as `Europe`
        return False
    return True


def moment_ns(text: str) -> int | None:
    """Return an RFC 3339 time in Unix nanoseconds, or None when it is not one."""
    found = _MOMENT.match(text)
    if found is None:
        return None
    date, clock, seconds, fraction, offset = found.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{seconds or ':00'}{offset.upper().replace('Z', '+00:00')}")
        whole = int(moment.astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        return None
    return whole * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


@lru_cache(maxsize=1)
def _zone_names() -> tuple[str, ...]:
    return tuple(sorted(available_timezones() - _LOCAL_ZONES))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | str:
    """Return the network, or what is wrong with it."""
    if "%" in text:
        return f"`{_short(text)}` names a zone; an address range has none"
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        try:
            loose = ipaddress.ip_network(text, strict=False)
        except ValueError:
            return f"`{_short(text)}` is not an address range such as `10.0.0.0/8` or `2001:db8::/32`"
        return f"`{_short(text)}` has bits beyond its prefix, did you mean `{loose}`?"
    # RFC 4291 2.5.5.2: a mapped block is the IPv4 block it names.
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None  # noqa: PLR2004
    if mapped is not None and network.prefixlen >= 96:  # noqa: PLR2004
        return ipaddress.IPv4Network((int(mapped), network.prefixlen - 96))
    return network


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "…"  # noqa: PLR2004
