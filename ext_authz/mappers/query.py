"""Query strings, read once and strictly.

Law: a parameter that is returned is the one every parser behind us reads;
duplicates, `;`, bad escapes and case variants are refused. Non-goal: parameters nobody asked for.
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from ext_authz.model import Reason, Refusal

MAX_PARAMETERS: Final = 256
_ESCAPES = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def parameters(query: str, wanted: frozenset[str]) -> dict[str, str] | Refusal:
    """Return the parameters in `wanted` (lower case) that `query` holds.

    Refuses `ambiguous_body` (what a call names is not certain) when one came twice, in other letter case, as
    `name[]`, or where a `;` or a bad escape makes parsers disagree.
    """
    if not query:
        return {}
    pairs = query.split("&")
    if len(pairs) > MAX_PARAMETERS:
        return _refuse(f"holds more than {MAX_PARAMETERS} parameters")
    found: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        key = _decode(name)
        if key is None or ";" in pair:
            return _refuse("has several readings")
        folded = key.casefold().strip()
        if folded not in wanted and folded.partition("[")[0] not in wanted:
            continue
        text = _decode(value)
        if key not in wanted or key in found or text is None:
            return _refuse(f"names `{folded[:64]}` twice, in other letters, or badly escaped")
        found[key] = text
    return found


def every_parameter(query: str) -> dict[str, str] | Refusal:
    """Return all parameters; refuses `ambiguous_body` where one came twice, in two spellings, or badly escaped."""
    found: dict[str, str] = {}
    folded: set[str] = set()
    pairs = query.split("&") if query else []
    if len(pairs) > MAX_PARAMETERS:
        return _refuse(f"holds more than {MAX_PARAMETERS} parameters")
    for pair in pairs:
        name, _, value = pair.partition("=")
        key, text = _decode(name), _decode(value)
        if key is None or text is None or ";" in pair or key.casefold().strip() in folded:
            return _refuse("has several readings")
        found[key] = text
        folded.add(key.casefold().strip())
    return found


def _decode(raw: str) -> str | None:
    if "%" not in raw and "+" not in raw:
        return raw
    if not _ESCAPES.match(raw):
        return None
    try:
        text = unquote_to_bytes(raw.replace("+", " ")).decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _refuse(why: str) -> Refusal:
    return Refusal(Reason.AMBIGUOUS_BODY, f"the query {why}")
