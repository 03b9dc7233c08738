"""`x-forwarded-client-cert`: the full tokenizer.

Law: every byte belongs to a known key of an element, or the header is refused.
Envoy 1.40 quotes only some values, so nothing here guesses where one ends.
Non-goal: whom to believe (mtls.py).
"""

import re
from dataclasses import dataclass
from typing import Final

HEADER: Final = "x-forwarded-client-cert"
MAX_BYTES: Final = 64 * 1024
MAX_ELEMENTS: Final = 2

_KEYS = frozenset({"by", "hash", "cert", "chain", "subject", "uri", "dns", "issuer"})
_REPEATABLE = frozenset({"by", "uri", "dns"})
_KEY = re.compile(r"([A-Za-z]+)=")
_RAW = re.compile(r'[^",;]*')
_QUOTED = re.compile(r'[^"\\]*')
_BACKSLASHES = re.compile(r"\\+")
_HASH = re.compile(r"[0-9a-fA-F]{64}\Z")


class XfccError(ValueError):
    """The header cannot be read one way only; the message is for the audit trail."""


@dataclass(frozen=True, slots=True)
class Element:
    """One certificate as a proxy described it; empty values are left out. `hash` is SHA-256 in lower-case hex."""

    by: tuple[str, ...] = ()
    hash: str = ""
    cert: str = ""
    chain: str = ""
    subject: str = ""
    uri: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    issuer: str = ""


def parse(text: str) -> tuple[Element, ...]:
    """Parse a header (several header lines joined by `,`); raises XfccError."""
    if len(text) > MAX_BYTES:
        raise XfccError(f"larger than {MAX_BYTES} bytes")
    if not text.isascii() or not text.isprintable():
        raise XfccError("holds a byte that is not printable ASCII")
    elements: list[Element] = []
    at = 0
    while True:
        pairs, at = _element(text, at)
        elements.append(_build(pairs))
        if len(elements) > MAX_ELEMENTS:
            raise XfccError(f"has more than {MAX_ELEMENTS} elements")
        if at == len(text):
            return tuple(elements)
        at += 1  # the comma


def _element(text: str, at: int) -> tuple[list[tuple[str, str]], int]:
    """Read `key=value;key=value` up to a comma or the end; return the pairs and where it stopped."""
    pairs: list[tuple[str, str]] = []
    while text.startswith(" ", at):
        at += 1
    while True:
        found = _KEY.match(text, at)
        if found is None:
            raise XfccError("a key is missing")
        key = found[1].lower()
        if key not in _KEYS:
            raise XfccError("has an unknown key")
        value, at = _quoted(text, found.end() + 1) if text.startswith('"', found.end()) else _raw(text, found.end())
        pairs.append((key, value))
        if at == len(text) or text[at] == ",":
            return pairs, at
        if text[at] != ";":
            raise XfccError("has text after a quoted value")
        at += 1


def _raw(text: str, at: int) -> tuple[str, int]:
    found = _RAW.match(text, at)
    end = found.end() if found else at
    if text.startswith('"', end):
        raise XfccError("has a quote inside a value")
    return text[at:end].rstrip(" "), end


def _quoted(text: str, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while True:
        found = _QUOTED.match(text, at)
        end = found.end() if found else at
        parts.append(text[at:end])
        if end == len(text):
            raise XfccError("has an unbalanced quote")
        if text[end] == '"':
            return "".join(parts), end + 1
        run = _BACKSLASHES.match(text, end)
        at = run.end() if run else end
        if text.startswith('"', at):
            # `\"` is a quote; after more backslashes proxies differ on whether the value ends here.
            if at - end > 1:
                raise XfccError("has backslashes before a quote")
            parts.append('"')
            at += 1
        else:
            parts.append(text[end:at])


def _build(pairs: list[tuple[str, str]]) -> Element:
    single: dict[str, str] = {}
    many: dict[str, list[str]] = {"by": [], "uri": [], "dns": []}
    for index, (key, value) in enumerate(pairs):
        # Envoy writes URIs before DNS names and quotes neither: one that follows was part of a DNS name.
        if key == "uri" and any(earlier == "dns" for earlier, _ in pairs[:index]):
            raise XfccError("has a URI after a DNS name")
        if key in _REPEATABLE:
            if value:
                many[key].append(value)
        elif key in single:
            raise XfccError("repeats a key")
        else:
            single[key] = value
    digest = single.get("hash", "")
    if digest and not _HASH.match(digest):
        raise XfccError("`Hash` is not SHA-256 in hex")
    return Element(
        by=tuple(many["by"]),
        hash=digest.lower(),
        cert=single.get("cert", ""),
        chain=single.get("chain", ""),
        subject=single.get("subject", ""),
        uri=tuple(many["uri"]),
        dns=tuple(many["dns"]),
        issuer=single.get("issuer", ""),
    )
