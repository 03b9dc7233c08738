"""Reading typed values out of a verified token's claims.

Law: a claim of the wrong shape is a bad credential, never an empty one; nothing
is converted but an integral float date. Non-goal: what the values mean (jwt.py).
"""

from collections.abc import Mapping
from typing import Any, Final

MAX_TEXT: Final = 1024
MAX_ITEMS: Final = 1024
MAX_DATE: Final = 2**40
"""Seconds; beyond the year 36000, so that nanoseconds stay far from any overflow elsewhere."""


class ClaimError(ValueError):
    """A claim is missing or malformed; the message is for the audit trail and quotes no value."""


def at(claims: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401  JSON
    """Return the claim at a dotted path, or None; a key that holds dots itself wins over the path."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            return None
        value = value[step]
    return value


def date(claims: Mapping[str, Any], name: str) -> int | None:
    """Return a NumericDate (RFC 7519 2) in Unix seconds, None when absent.

    Integers, and floats without a fraction; text, booleans, fractions, negative and absurd numbers raise ClaimError.
    """
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_DATE:
        raise ClaimError(f"`{name}` is not a whole number of seconds")
    return value


def text(claims: Mapping[str, Any], path: str) -> str:
    """Return the text at `path`, "" when absent; raises ClaimError on another type or unprintable text."""
    value = at(claims, path)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ClaimError(f"`{path}` is not text")
    return _clean(value, path)


def texts(claims: Mapping[str, Any], path: str, *, split: bool = False) -> frozenset[str]:
    """Return the texts at `path`: a list, or one text (with `split`, its words); empty when absent.

    Raises ClaimError on anything else.
    """
    value = at(claims, path)
    if value is None:
        return frozenset()
    if isinstance(value, str):
        value = value.split(" ") if split else [value]
        value = [item for item in value if item]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ClaimError(f"`{path}` is neither text nor a list of texts")
    if len(value) > MAX_ITEMS:
        raise ClaimError(f"`{path}` has more than {MAX_ITEMS} items")
    return frozenset(_clean(item, path) for item in value)


def _clean(value: str, path: str) -> str:
    if len(value) > MAX_TEXT or not value.isprintable():
        raise ClaimError(f"`{path}` is too long or holds a control or invisible character")
    return value
