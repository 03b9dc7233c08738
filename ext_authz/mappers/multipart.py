"""The strict reading of `multipart/form-data` bodies.

Law: what is returned every parser behind us reads alike. Refused: text before,
between or after the parts, a boundary that occurs anywhere else, a missing
last one, further parameters and headers, escapes in names, `name*`, a field
twice or in two spellings. Non-goal: files.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from ext_authz.mappers.body import refuse, whole
from ext_authz.model import Refusal, RequestFacts

MAX_PARTS: Final = 128
MAX_HEAD: Final = 4096
MAX_TEXT: Final = 1024
FORM: Final = "multipart/form-data"

# RFC 2046 5.1.1 without the space; quoted or not, one spelling.
_TYPE = re.compile(
    r"multipart/form-data; ?boundary=(?:([A-Za-z0-9'_+-]{1,70})"
    r"|\"([A-Za-z0-9'()+_,./:=? -]{0,69}[A-Za-z0-9'()+_,./:=?-])\")\Z"
)
_DISPOSITION = re.compile(
    rb'form-data; name="([^"\\%;\x00-\x1f\x7f]{1,256})"(; filename="[^"\\;\x00-\x1f\x7f]{0,1024}")?\Z'
)
_KIND = re.compile(rb"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:; ?charset=\"?[Uu][Tt][Ff]-8\"?)?\Z")
_ENCODINGS: Final = frozenset({b"binary", b"8bit", b"7bit"})


class FormError(ValueError):
    """Not a form that every parser reads alike; the message completes "the body …"."""


class Part(NamedTuple):
    """One part: its field's name, whether it is a file, and where its content is in the segment `data`."""

    name: str
    file: bool
    data: bytes
    start: int


def form_fields(facts: RequestFacts, max_request_bytes: int, wanted: frozenset[str]) -> dict[str, str] | Refusal:
    """Return the text fields in `wanted` (lower case) of the whole body, each at most once."""
    data = whole(facts, max_request_bytes)
    if isinstance(data, Refusal):
        return data
    found = _TYPE.match(facts.header("content-type") or "")
    if found is None:
        return refuse("does not say plainly that it is a form")
    try:
        return _fields(data, (found.group(1) or found.group(2)).encode(), wanted)
    except FormError as error:
        return refuse(str(error))


def _fields(data: bytes, boundary: bytes, wanted: frozenset[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in _parts(data, boundary):
        folded = part.name.casefold().strip()
        if folded not in wanted and re.split(r"[\[.]", folded, maxsplit=1)[0].strip() not in wanted:
            continue
        if part.name not in wanted or part.name in fields or part.file:
            raise FormError(f"names `{folded[:64]}` twice, in another spelling, or as a file")
        fields[part.name] = _text(part)
    return fields


def _parts(data: bytes, boundary: bytes) -> Iterator[Part]:
    delimiter = b"--" + boundary
    if data.count(delimiter) > MAX_PARTS:
        raise FormError(f"holds more than {MAX_PARTS} parts")
    # Split wherever the boundary stands: where one parser sees it and another does not, the form is refused.
    before, *segments = data.split(delimiter)
    if before or not segments or segments.pop() not in (b"--\r\n", b"--"):
        raise FormError("has text around its parts, or no last boundary")
    for segment in segments:
        if not segment.startswith(b"\r\n") or not segment.endswith(b"\r\n"):
            raise FormError("has a boundary within a line")
        yield _part(segment)


def _part(segment: bytes) -> Part:
    end = segment.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0 or end + 4 > len(segment) - 2:
        raise FormError("has a part without head, or without content")
    name, file = "", False
    seen: set[bytes] = set()
    for line in segment[2:end].split(b"\r\n"):
        key, colon, value = line.partition(b": ")
        key = key.lower()
        if not colon or key in seen:
            raise FormError("has a part whose head has several readings")
        seen.add(key)
        if key == b"content-disposition":
            found = _DISPOSITION.match(value)
            if found is None:
                raise FormError("has a part whose name has several readings")
            name, file = _decoded(found.group(1)), found.group(2) is not None
        elif not _harmless(key, value, len(segment) - 2 - (end + 4)):
            raise FormError("has a part whose head has several readings")
    if not name:
        raise FormError("has a part without a name")
    return Part(name, file, segment, end + 4)


def _harmless(key: bytes, value: bytes, length: int) -> bool:
    if key == b"content-type":
        return _KIND.match(value) is not None and not value.lower().startswith(b"multipart/")
    if key == b"content-transfer-encoding":
        return value.lower() in _ENCODINGS
    return key == b"content-length" and value == b"%d" % length


def _text(part: Part) -> str:
    content = part.data[part.start : -2]
    if len(content) > MAX_TEXT:
        raise FormError("has a field of undue length")
    return _decoded(content)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise FormError("holds a name that is not UTF-8") from None
