"""A strict protobuf wire scanner: finds fields of one message without a schema and without copying.

Law: what it accepts, every conforming parser reads alike; what parsers are
known to disagree about (over-long tags and lengths, tags beyond 32 bits,
groups, a wanted field twice or of another wire type) is refused.
Non-goal: values it was not asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

# A message of a million two-byte fields must not cost a worker a second.
MAX_FIELDS: Final = 4096
MAX_INNER_FIELDS: Final = 128
"""For messages that repeat within one: many of them must not cost what one may."""
MAX_NAME_BYTES: Final = 1024
_ONE_BYTE: Final = 0x80
_MAX_TAG: Final = 0xFFFFFFFF
_MAX_LENGTH: Final = 0x7FFFFFFF
_TAG_BYTES: Final = 5
_VALUE_BYTES: Final = 10


class WireError(ValueError):
    """The bytes are not a message, or parsers disagree about which."""


class Field(NamedTuple):
    """One wanted field. BYTES: its value is data[start:end]; VARINT: `start` is its value."""

    number: int
    start: int
    end: int


def scan(data: bytes, start: int, end: int, wanted: Mapping[int, int], limit: int = MAX_FIELDS) -> list[Field]:
    """Return the fields in `wanted` (number to wire type VARINT or BYTES) of the message in data[start:end].

    Raises WireError. Every other field is stepped over. Protocol Buffers
    encoding guide; the refusals answer the differences measured between upb,
    C++, Java and Python parsers.
    """
    found: list[Field] = []
    at = start
    count = 0
    while at < end:
        count += 1
        if count > limit:
            raise WireError(f"more than {limit} fields")
        tag = data[at]
        if tag < _ONE_BYTE:
            at += 1
        else:
            tag, at = _varint(data, at, end, _TAG_BYTES, minimal=True)
            if tag > _MAX_TAG:
                raise WireError("a tag beyond 32 bits")
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise WireError("field number 0")
        value = at
        if kind == BYTES:
            if at >= end:
                raise WireError("ends inside a field")
            length = data[at]
            if length < _ONE_BYTE:
                value = at + 1
            else:
                length, value = _varint(data, at, end, _TAG_BYTES, minimal=True)
                if length > _MAX_LENGTH:
                    raise WireError("a length beyond 31 bits")
            at = value + length
        elif kind == VARINT:
            read, at = _varint(data, at, end, _VALUE_BYTES, minimal=False)
            value = read
        elif kind == FIXED64:
            at += 8
        elif kind == FIXED32:
            at += 4
        else:
            raise WireError("a group or an unknown wire type")
        if at > end:
            raise WireError("ends inside a field")
        if number in wanted:
            if wanted[number] != kind:
                raise WireError(f"field {number} has another wire type")
            found.append(Field(number, value, at))
    return found


def only(fields: Sequence[Field], number: int) -> Field | None:
    """Return the only field `number`, None when it is absent. Raises WireError when it came more than once."""
    found = [field for field in fields if field.number == number]
    if len(found) > 1:
        raise WireError(f"field {number} more than once")
    return found[0] if found else None


def text(data: bytes, fields: Sequence[Field], number: int) -> str:
    """Return the string of the only field `number`, "" when it is absent.

    Raises WireError when it came twice, is not UTF-8, or exceeds MAX_NAME_BYTES.
    """
    field = only(fields, number)
    if field is None:
        return ""
    if field.end - field.start > MAX_NAME_BYTES:
        raise WireError(f"field {number} is longer than {MAX_NAME_BYTES} bytes")
    try:
        return data[field.start : field.end].decode()
    except UnicodeDecodeError:
        raise WireError(f"field {number} is not UTF-8") from None


def packed(data: bytes, start: int, end: int, limit: int) -> list[int]:
    """Return the packed varints in data[start:end], unsigned. Raises WireError on more than `limit`."""
    values: list[int] = []
    at = start
    while at < end:
        if len(values) == limit:
            raise WireError(f"more than {limit} packed values")
        value, at = _varint(data, at, end, _VALUE_BYTES, minimal=False)
        values.append(value)
    return values


def _varint(data: bytes, at: int, end: int, limit: int, *, minimal: bool) -> tuple[int, int]:
    value = shift = 0
    for index in range(at, min(end, at + limit)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < _ONE_BYTE:
            if minimal and byte == 0 and index > at:
                raise WireError("an over-long varint")
            if value >> 64:
                raise WireError("a varint beyond 64 bits")
            return value, index + 1
        shift += 7
    raise WireError("an over-long or unfinished varint")
