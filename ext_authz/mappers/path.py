"""The one canonical path: raw `:path` to decoded segments, or a refusal.

Law: equal results mean the same resource to every parser behind us, and
canonicalising a canonical path changes nothing. What two parsers could read
differently is refused, never repaired. Non-goal: routing.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ext_authz.model import Reason, Refusal

MAX_PATH: Final = 32 * 1024

# RFC 3986 pchar without `%` and `;`, and no segment that is `.` or `..`.
_PLAIN = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_~!$&'()*+,=:@.-]+)+/?\Z|/\Z")
_VISIBLE = re.compile(r"[!-~]*\Z")
_ESCAPES = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*\Z")
# What one more decoding, a path parameter or a C string would read otherwise.
_AMBIGUOUS = re.compile(r"[\\%?#;\x00-\x1f\x7f-\x9f]")
_SAFE: Final = "!$&'()*+,=:@~"
_DOTS = frozenset({"", ".", ".."})


@dataclass(frozen=True, slots=True)
class CanonicalPath:
    """A decoded path.

    `segments` are decoded, the leading slash dropped; the last is "" where the
    path ends in `/`. `text` joins them, a slash inside a segment shown as
    `%2F` (no other `%` can occur, so `text` is as good as the segments).
    `slashed` are the indexes of such segments; `query` is verbatim, without `?`.
    """

    text: str
    segments: tuple[str, ...]
    query: str = ""
    slashed: tuple[int, ...] = ()

    @property
    def raw(self) -> str:
        """The shortest `:path` with this meaning, without the query."""
        return "".join("/" + quote(segment, safe=_SAFE) for segment in self.segments)


def canonicalise(raw: str) -> CanonicalPath | Refusal:
    """Return the canonical path of a `:path`, or the refusal `ambiguous_path`."""
    if len(raw) > MAX_PATH:
        return _refuse("longer than any path we read")
    head, _, query = raw.partition("?")
    if _PLAIN.match(head) and "#" not in query and _VISIBLE.match(query):
        return CanonicalPath(head, tuple(head[1:].split("/")), query)
    return _decode(raw, head, query)


def _decode(raw: str, head: str, query: str) -> CanonicalPath | Refusal:
    if not _VISIBLE.match(raw):
        return _refuse("holds a space, a control character or a byte outside ASCII")
    if "#" in raw:
        return _refuse("holds a fragment")
    if not head.startswith("/"):
        return _refuse("does not start with `/`")
    if not _ESCAPES.match(head):
        return _refuse("holds a broken percent escape")
    segments: list[str] = []
    slashed: list[int] = []
    written = head[1:].split("/")
    for index, part in enumerate(written):
        try:
            segment = unquote_to_bytes(part).decode() if "%" in part else part
        except UnicodeDecodeError:
            return _refuse("is not UTF-8 once decoded")
        if _AMBIGUOUS.search(segment):
            return _refuse("holds `\\`, `%`, `?`, `#`, `;` or a control character once decoded")
        trailing = segment == "" and index == len(written) - 1
        if not trailing and not _DOTS.isdisjoint(segment.split("/")):
            return _refuse("holds an empty or a dot segment")
        if "/" in segment:
            slashed.append(index)
        segments.append(segment)
    text = "".join("/" + segment.replace("/", "%2F") for segment in segments)
    return CanonicalPath(text, tuple(segments), query, tuple(slashed))


def _refuse(why: str) -> Refusal:
    return Refusal(Reason.AMBIGUOUS_PATH, f"the path {why}")
