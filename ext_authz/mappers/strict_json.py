"""The strict reading of JSON, and the bound on what one body may cost.

Law: what is returned every parser behind us reads alike, and no body keeps a
worker from its other callers: what is dense beyond MAX_WORK is not parsed.
Non-goal: what the content means.
"""

import json
from itertools import accumulate
from typing import Any, Final, NoReturn

import orjson

MAX_DEPTH: Final = 64
MAX_WORK: Final = 64 * 1024
"""Parsing holds the GIL: 30,000 numbers, 9,000 keys or 4,000 objects take some 5 ms, a dense MB half a second."""

# What a byte outside strings costs to parse, about 0.08 µs a unit (benchmarks/mapping.py).
_COSTS: Final = ((b",", 2), (b"[", 4), (b":", 5), (b"{", 8))
_DEAREST: Final = max(cost for _, cost in _COSTS)
_NOT_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


class StrictError(ValueError):
    """Not strict JSON, or too much of it; the message completes "the body …"."""


def parse(data: bytes) -> dict[str, Any]:
    """Read one strict JSON object: UTF-8 without BOM, no duplicate key at any level, no NaN, no lone surrogate.

    Two parsers have to accept it: orjson refuses what json lets through
    (lone surrogates, numbers beyond a double), json shows the duplicates.
    Raises StrictError.
    """
    problem = _excess(data)
    if problem:
        raise StrictError(problem)
    try:
        orjson.loads(data)
        value = _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise StrictError(f"is not strict JSON: {str(error)[:80]}") from None
    if not isinstance(value, dict):
        raise StrictError("is not a JSON object")
    return value


def work(data: bytes) -> int:
    """Return an upper bound of what parsing costs, in the units of MAX_WORK.

    Strings count for nothing. Never less than the true cost of any prefix
    that is JSON, so that a late mistake does not hide what came before it.
    """
    outside = _outside_strings(data)
    return MAX_WORK + 1 if outside is None else _cost(outside)


def _excess(data: bytes) -> str:
    """Say what of `data` is too much, or "". Cheap for what is plainly little."""
    dense = len(data) * _DEAREST > MAX_WORK and _cost(data) > MAX_WORK
    if not dense and data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return ""
    outside = _outside_strings(data)
    if outside is None or (dense and _cost(outside) > MAX_WORK):
        return "holds more keys, numbers or brackets than are read here"
    brackets = outside.translate(_STEPS, _NOT_BRACKETS)
    if len(brackets) > MAX_DEPTH and max(accumulate(memoryview(brackets).cast("b")), default=0) > MAX_DEPTH:
        return f"is nested deeper than {MAX_DEPTH}"
    return ""


def _cost(data: bytes) -> int:
    return sum(data.count(byte) * cost for byte, cost in _COSTS)


def _outside_strings(data: bytes) -> bytes | None:
    """Return what stands outside strings; None where there are more strings than may be parsed."""
    # A run of backslashes starts unescaped, so that pairs can be taken from its left; what is left escapes.
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    # A comma or a colon stands between any two strings.
    if plain.count(b'"') > MAX_WORK:
        return None
    return b"".join(plain.split(b'"')[::2])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a duplicate key")
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# float() takes up to 1 µs for a number of 17 digits, orjson a tenth of that.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_float=orjson.loads)
