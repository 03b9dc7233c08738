"""What route entries are written in: host patterns, path templates and names made from what a path holds.

Law: a template matches canonical hosts and paths only, in time linear in
their length; two different resources never get one name.
Non-goal: choosing among entries.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ext_authz.mappers.path import CanonicalPath, canonicalise
from ext_authz.model import Refusal

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\Z")
_ADDRESS = re.compile(r"\[[0-9a-f:.]+\]\Z")
_SLOT = re.compile(r"\{([a-z_][a-z0-9_]*)(\*\*)?\}\Z")
_REFERENCE = re.compile(r"\{([^{}]*)\}")
_REFERENCE_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")
ONE: Final = "*"
REST: Final = "**"


class PatternError(ValueError):
    """A pattern or template that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class HostPattern:
    """An exact host, or one `*` for one or more whole labels between `prefix` and `suffix`."""

    text: str
    prefix: str
    suffix: str
    wild: bool

    def matches(self, host: str) -> bool:
        """Whether the canonical `host` is meant."""
        if not self.wild:
            return host == self.text
        middle = len(host) - len(self.prefix) - len(self.suffix)
        return middle > 0 and host.startswith(self.prefix) and host.endswith(self.suffix)

    def part(self, host: str) -> str:
        """Return what stands for the `*` in a host that matches, "" where there is none."""
        return host[len(self.prefix) : len(host) - len(self.suffix)] if self.wild else ""

    def covers(self, other: "HostPattern") -> bool:
        """Whether every host of `other` is one of ours."""
        if not other.wild:
            return self.matches(other.text)
        return self.wild and other.prefix.startswith(self.prefix) and other.suffix.endswith(self.suffix)

    @property
    def anybody(self) -> bool:
        """Whether anyone can own a name that matches (a `*` at the end)."""
        return self.wild and not self.suffix


def host_pattern(text: str) -> HostPattern:
    """Compile a host pattern. Raises PatternError."""
    host = text.lower()
    if _ADDRESS.match(host):
        return HostPattern(host, host, "", wild=False)
    labels = host.split(".")
    stars = labels.count("*")
    for label in labels:
        if label != "*" and not _LABEL.match(label):
            raise PatternError(f"`{text}` is not a host: names without port, `*` for whole labels")
    if stars > 1:
        raise PatternError(f"`{text}` holds more than one `*`")
    if not stars:
        return HostPattern(host, host, "", wild=False)
    prefix, _, suffix = host.partition("*")
    return HostPattern(host, prefix, suffix, wild=True)


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A compiled path template. `slots` are the segment indexes of `{x}`, `rest` the name of a last `{x**}`."""

    text: str
    tokens: tuple[str, ...]
    slots: frozenset[int]
    rest: str
    trailing: bool
    pattern: re.Pattern[str]

    @property
    def exact(self) -> bool:
        """Whether one path only matches."""
        return not any(token == ONE or _is_open(token) or _SLOT.match(token) for token in self.tokens)

    @property
    def first(self) -> str | None:
        """The literal first segment, None where the template begins with a slot."""
        token = self.tokens[0] if self.tokens else ""
        return None if token == ONE or _is_open(token) or _SLOT.match(token) else token

    @property
    def names(self) -> frozenset[str]:
        """The names a match captures."""
        return frozenset(self.pattern.groupindex)

    def match(self, path: CanonicalPath) -> dict[str, str] | None:
        """Return what the slots hold, decoded, or None."""
        found = self.pattern.match(path.text)
        if found is None:
            return None
        captured = found.groupdict()
        if path.slashed:
            return {name: value.replace("%2F", "/") for name, value in captured.items()}
        return captured

    def covers(self, other: "PathTemplate") -> bool:
        """Whether every path of `other` is one of ours (where it cannot be told: False)."""
        if self.trailing != other.trailing:
            return False
        for index, token in enumerate(self.tokens):
            theirs = other.tokens[index] if index < len(other.tokens) else REST
            if _is_open(token):
                return token == REST or theirs not in (REST, "")
            slot = token == ONE or _SLOT.match(token) is not None
            if _is_open(theirs) or (theirs == "" if slot else theirs != token):
                return False
        return len(self.tokens) == len(other.tokens)


def path_template(text: str) -> PathTemplate:
    """Compile a path template. Raises PatternError."""
    if not text.startswith("/"):
        raise PatternError(f"`{text}` does not start with `/`")
    trailing = text.endswith("/") and text != "/"
    body = text[1:-1] if trailing else text[1:]
    tokens = tuple(body.split("/"))
    parts: list[str] = []
    slots: set[int] = set()
    names: set[str] = set()
    rest = ""
    for index, token in enumerate(tokens):
        slot = _SLOT.match(token)
        last = index == len(tokens) - 1
        if _is_open(token) and not last:
            raise PatternError(f"`{token}` stands last or not at all")
        if token == ONE:
            parts.append("/[^/]+")
        elif token == REST:
            # "/" alone is a path of no segments.
            parts.append("(?:/[^/]+)*" if index or trailing else "/(?:[^/]+(?:/[^/]+)*)?")
        elif slot is None:
            parts.append("/" + re.escape(_literal(token, text)))
        elif slot.group(1) in names:
            raise PatternError(f"`{{{slot.group(1)}}}` stands twice")
        else:
            names.add(slot.group(1))
            if slot.group(2):
                rest = slot.group(1)
                parts.append(f"/(?P<{rest}>[^/]+(?:/[^/]+)*)")
            else:
                slots.add(index)
                parts.append(f"/(?P<{slot.group(1)}>[^/]+)")
    pattern = re.compile("".join(parts) + ("/" if trailing else "") + r"\Z")
    return PathTemplate(text, tokens, frozenset(slots), rest, trailing, pattern)


def _is_open(token: str) -> bool:
    return token == REST or token.endswith("**}")


def _literal(token: str, text: str) -> str:
    if token == "" and text == "/":
        return token
    if any(mark in token for mark in "{}*"):
        raise PatternError(
            f"`{token}`: `{{x}}`, `*`, `{{x**}}` and `**` are whole segments, names are a-z, 0-9 and `_`"
        )
    if token == "" or "%" in token:
        raise PatternError(f"`{text}` can match no path: templates are written decoded, without empty segments")
    if isinstance(canonicalise(CanonicalPath("", (token,)).raw), Refusal):
        raise PatternError(f"`{token}` can match no path: such a segment is refused as `ambiguous_path`")
    return token


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """A name made from what a path holds: literals and slot names alternate, a literal first."""

    literals: tuple[str, ...]
    slots: tuple[str, ...]

    def render(self, captured: Mapping[str, str]) -> str:
        """Return the name."""
        if not self.slots:
            return self.literals[0]
        if len(self.slots) == 1:
            return f"{self.literals[0]}{captured[self.slots[0]]}{self.literals[1]}"
        parts = [self.literals[0]]
        for slot, literal in zip(self.slots, self.literals[1:], strict=True):
            parts += (captured[slot], literal)
        return "".join(parts)


def name_template(text: str, path: PathTemplate | None, *, encoded_slash: bool) -> NameTemplate:
    """Compile a name whose `{x}` refer to `path`.

    Raises PatternError on an unknown reference, and where two different
    paths could get one name.
    """
    names = path.names if path is not None else frozenset()
    literals: list[str] = []
    slots: list[str] = []
    at = 0
    for found in _REFERENCE.finditer(text):
        name = found.group(1)
        if name.endswith(REST):
            name = name.removesuffix(REST)
        if not _REFERENCE_NAME.match(name) or name not in names:
            raise PatternError(f"`{found.group(0)}` is not in the path")
        literals.append(text[at : found.start()])
        slots.append(name)
        at = found.end()
    literals.append(text[at:])
    if any(brace in literal for literal in literals for brace in "{}"):
        raise PatternError(f"`{text}` holds a brace that closes nothing")
    if len(slots) > 1 and (encoded_slash or not all("/" in literal for literal in literals[1:-1])):
        raise PatternError(
            f"`{text}` gives two resources one name: put a `/` between the references (without `encoded_slash`)"
        )
    return NameTemplate(tuple(literals), tuple(slots))
