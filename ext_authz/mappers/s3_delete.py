"""The keys that a `POST ?delete` on a bucket names, in its XML body.

Law: only the plainest spelling of the document is read, which every XML parser reads alike; what is not so plain
(DTD, comments, CDATA, prefixes, attributes, an odd key) names any key. Non-goal: XML.
"""

import re
from typing import Final, NamedTuple

MAX_KEYS: Final = 100
MAX_BYTES: Final = 128 * 1024
_SPACE: Final = r"[ \t\r\n]*"
# Text holds no `<`, and `&` only in the five names and in numbers of characters.
_TEXT: Final = r"(?:[^<&\x00-\x1f\x7f]++|&(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});)*+"
_REFERENCE = re.compile(r"&(?:#x([0-9A-Fa-f]+)|#([0-9]+)|([a-z]+));")
_NAMES: Final = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
# What XML 1.0 (2.2) allows, without control characters: parsers differ on what they make of the others.
_PLAIN = re.compile("[\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*\\Z")
_HEAD = re.compile(
    rf"(?:<\?xml version=(?:'1\.0'|\"1\.0\")(?: encoding=(?:'[Uu][Tt][Ff]-8'|\"[Uu][Tt][Ff]-8\"))?{_SPACE}\?>)?{_SPACE}"
    r"<Delete(?: xmlns=\"http://s3\.amazonaws\.com/doc/2006-03-01/\")?>"
)
_TAIL = re.compile(rf"{_SPACE}</Delete>{_SPACE}\Z")
_QUIET = re.compile(rf"{_SPACE}<Quiet>(?:true|false)</Quiet>")
_OBJECT = re.compile(rf"{_SPACE}<Object>")
_FIELD = re.compile(rf"{_SPACE}<(Key|VersionId|ETag|LastModifiedTime|Size)>({_TEXT})</\1>")
_END = re.compile(rf"{_SPACE}</Object>")
_ODD_STEPS: Final = frozenset({"", ".", ".."})


class Doomed(NamedTuple):
    """One object to be deleted; `version` is "" for the newest."""

    key: str
    version: str


def doomed(body: bytes) -> tuple[Doomed, ...] | None:
    """Return what a whole body names, each once; None where it may be anything."""
    if len(body) > MAX_BYTES:
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    head = _HEAD.match(text)
    if head is None:
        return None
    at, found, quiet = head.end(), dict[Doomed, None](), False
    while True:
        if not quiet and (said := _QUIET.match(text, at)) is not None:
            quiet, at = True, said.end()
        begin = _OBJECT.match(text, at)
        if begin is None:
            break
        one = _one(text, begin.end())
        if one is None or len(found) >= MAX_KEYS:
            return None
        found[one[0]] = None
        at = one[1]
    return tuple(found) if found and _TAIL.match(text, at) else None


def _one(text: str, at: int) -> tuple[Doomed, int] | None:
    """Return the object whose fields begin at `at`, and where it ends."""
    fields: dict[str, str] = {}
    while (field := _FIELD.match(text, at)) is not None:
        name, value = field.groups()
        if name in fields:
            return None
        fields[name] = _REFERENCE.sub(_referred, value)
        at = field.end()
    end = _END.match(text, at)
    key = fields.get("Key", "")
    if end is None or not key or "\\" in key or key != key.strip() or not _ODD_STEPS.isdisjoint(key.split("/")):
        return None
    if not all(map(_PLAIN.match, fields.values())):
        return None
    return Doomed(key, fields.get("VersionId", "")), end.end()


def _referred(found: re.Match[str]) -> str:
    hexadecimal, decimal, name = found.groups()
    if name:
        return _NAMES[name]
    number = int(hexadecimal, 16) if hexadecimal else int(decimal)
    # U+0000 is plain nowhere.
    return chr(number) if number < 0x110000 else "\0"  # noqa: PLR2004
