"""Cutting an event down to its size, naming what was cut.

Law: terminates with a line of at most MAX_BYTES for any JSON-like value, and
never cuts without a pointer (RFC 6901) in `truncated`. Non-goal: speed; only
outsized or odd events come here.
"""

from collections.abc import Mapping
from typing import Final

import orjson

MAX_BYTES: Final = 16 * 1024
MAX_DEPTH: Final = 8
MAX_INTEGER: Final = 2**53 - 1
MAX_POINTERS: Final = 32
_POINTER_CHARACTERS: Final = 64
# (characters of a text, members of a list or mapping), tried in turn.
_LEVELS: Final = ((1024, 64), (256, 32), (64, 8), (24, 2))
_ALWAYS: Final = ("schema", "event_id", "seq", "time", "decision_id", "decision", "reason", "http_status", "policy_id")


Plain = str | int | bool | None | list["Plain"] | dict[str, "Plain"]
"""JSON without floats."""


def plain(value: object, depth: int = 0) -> Plain:
    """Return `value` as texts, booleans, integers under 2^53, None, lists and mappings.

    All else becomes text, and what is nested deeper than MAX_DEPTH `…`.
    """
    if isinstance(value, str):
        return _clean(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # A longer integer would take quadratic time to print and no schema has one.
        return int(value) if -MAX_INTEGER <= value <= MAX_INTEGER else _big(value)
    if isinstance(value, float):
        return repr(value)
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {_clean(str(key)): plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (set, frozenset)):
        return [plain(each, depth + 1) for each in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [plain(each, depth + 1) for each in value]
    return f"({type(value).__name__})"


def bounded(event: Mapping[str, object], options: int) -> bytes:
    """Serialize `event` within MAX_BYTES, cutting ever deeper."""
    whole = {name: plain(value, 1) for name, value in event.items()}
    for characters, members in ((MAX_BYTES, MAX_BYTES), *_LEVELS):
        line = _serialized(whole, characters, members, [], options)
        if len(line) <= MAX_BYTES:
            return line
    least: dict[str, Plain] = {name: whole[name] for name in _ALWAYS if name in whole}
    return _serialized(least, *_LEVELS[-1], [""], options)


def _serialized(event: Mapping[str, Plain], characters: int, members: int, cut: list[str], options: int) -> bytes:
    made = {name: _cut(value, characters, members, _step("", name), cut) for name, value in event.items()}
    if cut:
        made["truncated"] = [*sorted(cut)[:MAX_POINTERS]]
    return orjson.dumps(made, option=options)


def _cut(value: Plain, characters: int, members: int, pointer: str, cut: list[str]) -> Plain:
    if isinstance(value, str):
        if len(value) <= characters:
            return value
        cut.append(pointer)
        return value[:characters]
    if isinstance(value, list):
        if len(value) > members:
            cut.append(pointer)
        kept = enumerate(value[:members])
        return [_cut(each, characters, members, _step(pointer, str(index)), cut) for index, each in kept]
    if isinstance(value, dict):
        names = sorted(value)[:members]
        if len(names) < len(value) or any(len(name) > characters for name in names):
            cut.append(pointer)
        return {name[:characters]: _cut(value[name], characters, members, _step(pointer, name), cut) for name in names}
    return value


def _step(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"[:_POINTER_CHARACTERS]


def _clean(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return str(text)


def _big(value: int) -> str:
    return str(value) if value.bit_length() <= 256 else f"({value.bit_length()} bits)"  # noqa: PLR2004
