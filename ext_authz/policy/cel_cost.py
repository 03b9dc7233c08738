"""How much a CEL expression can make of what it is given: estimated from its checked tree, at load.

Law: an upper bound in units of one input, so that no expression doubles a value until the memory is gone. The library
bounds how often it goes round (10,000), not how large a value grows. Non-goal: the size of the inputs themselves.
Source: google/cel-spec, proto/cel/expr/{checked,syntax}.proto (what `Expression.serialize` returns, in an Any).
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

MAX_WORK: Final = 100_000
_UNKNOWN: Final = MAX_WORK + 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ANY_VALUE: Final = 2
_CHECKED_EXPR: Final = 4
_IDENT, _SELECT, _CALL, _LIST, _STRUCT, _FOLD = 4, 5, 6, 7, 8, 9
_JOINS: Final = frozenset({"_+_", "_?_:_"})


class _UnreadableError(ValueError):
    """The tree is not as this version of the library writes it."""


class _Value(NamedTuple):
    """A value of at most `items` elements (1 where it is none) of at most `each` units, and the work to make it."""

    items: int
    each: int
    work: int

    @property
    def size(self) -> int:
        return self.items * self.each


_INPUT: Final = _Value(1, 1, 1)
_Names = Mapping[str, _Value]


def work_of(serialized: bytes) -> int:
    """Return the most units that evaluating the expression moves; above MAX_WORK for a tree that nobody can read."""
    try:
        tree = _one(_one(serialized, _ANY_VALUE), _CHECKED_EXPR)
        return _value(tree, {}).work if tree else _UNKNOWN
    except _UnreadableError:
        return _UNKNOWN


def _value(expression: bytes, names: _Names) -> _Value:
    for number, content in _fields(expression):
        if number == _IDENT:
            known = names.get(_one(content, 1).decode())
            return _INPUT if known is None else known._replace(work=1)
        if number == _SELECT:
            return _value(_one(content, 1), names)
        if number == _CALL:
            return _call(content, names)
        if number == _LIST:
            return _listed([_value(each, names) for each in _all(content, 1)])
        if number == _STRUCT:
            pairs = [part for entry in _all(content, 2) for field in (3, 4) for part in _all(entry, field)]
            return _listed([_value(each, names) for each in pairs])
        if number == _FOLD:
            return _fold(content, names)
    return _INPUT


def _call(content: bytes, names: _Names) -> _Value:
    parts = [_value(each, names) for each in (*_all(content, 1), *_all(content, 3))]
    work = sum(each.work + each.size for each in parts) + 1
    if _one(content, 2).decode() in _JOINS:
        return _Value(sum(each.items for each in parts), max(each.each for each in parts), work)
    # A part of a value, another form of it, or a truth: not more than all of them together.
    return _Value(1, max(1, sum(each.size for each in parts)), work)


def _listed(parts: list[_Value]) -> _Value:
    work = sum(each.work for each in parts) + 1
    return _Value(max(1, len(parts)), max([1, *(each.size for each in parts)]), work)


def _fold(content: bytes, names: _Names) -> _Value:
    """Bound a comprehension: it goes round for each element, and adds to what it has made so far."""
    over, start = _value(_one(content, 2), names), _value(_one(content, 4), names)
    element = _Value(over.each, 1, 1)
    inner = {**names, _one(content, 1).decode(): element, _one(content, 3).decode(): start}
    step, test = _value(_one(content, 6), inner), _value(_one(content, 5), inner)
    made = _Value(start.items + over.items * max(0, step.items - start.items), max(start.each, step.each), 1)
    end = _value(_one(content, 7), {**names, _one(content, 3).decode(): made})
    work = over.work + start.work + over.items * (step.work + test.work) + end.work
    return end._replace(work=work)


def _one(message: bytes, wanted: int) -> bytes:
    return next(_all(message, wanted), b"")


def _all(message: bytes, wanted: int) -> Iterator[bytes]:
    return (content for number, content in _fields(message) if number == wanted)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each field that has a length; numbers are passed over. Raises _UnreadableError."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _number(message, at)
            if at + length > len(message):
                raise _UnreadableError("cut off")
            yield tag >> 3, message[at : at + length]
            at += length
        elif kind == _VARINT:
            _, at = _number(message, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise _UnreadableError("an unknown kind of field")


def _number(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:  # noqa: PLR2004  ten bytes hold 64 bits
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004
            return value, at
    raise _UnreadableError("cut off")
