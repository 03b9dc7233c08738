"""Numbers in JSON requests that policies limit: batch size, tokens, choices.

Law: a number is reported only where every parser reads the same one; what is
absent without a documented default, a string, a float, 0 or negative stays
unknown, and an allow that limits it does not match. Non-goal: the meaning of a model's own parameters.
"""

from collections.abc import Mapping
from typing import Any, Final

from ext_authz.mappers.places import Attributes, whole_number
from ext_authz.model import AttributeValue

TOKEN_KEYS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
CHOICE_KEYS: Final = ("n", "best_of")
KEYS: Final = frozenset({*TOKEN_KEYS, *CHOICE_KEYS, "stream", "input", "prompt", "instances", "inputs"})


def generation(content: Mapping[str, Any]) -> Attributes:
    """Return `max_tokens`, `n`, `batch_size` and `stream` of a chat, completion or embedding request."""
    found: dict[str, AttributeValue] = {}
    tokens = _largest(content, TOKEN_KEYS)
    if tokens is not None:
        found["max_tokens"] = tokens
    # One choice is what every server makes when nobody says otherwise.
    asked = content.get("n") is not None or content.get("best_of") is not None
    choices = _largest(content, CHOICE_KEYS) if asked else 1
    if choices is not None:
        found["n"] = choices
    size = _texts(content.get("input", content.get("prompt")))
    if size is not None and not ("input" in content and "prompt" in content):
        found["batch_size"] = size
    stream = content.get("stream")
    if stream is None or isinstance(stream, bool):
        found["stream"] = bool(stream)
    return found


def instances(content: Mapping[str, Any]) -> Attributes:
    """Return `batch_size` of a predict request in row form, where it is in no other form as well."""
    rows = content.get("instances")
    return {"batch_size": len(rows)} if isinstance(rows, list) and rows and "inputs" not in content else {}


def _largest(content: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    given = [content[key] for key in keys if content.get(key) is not None]
    numbers = [number for number in map(whole_number, given) if number is not None]
    return max(numbers) if numbers and len(numbers) == len(given) else None


def _texts(value: object) -> int | None:
    """Return how many inputs a string, a list of strings, or lists of token numbers are."""
    if isinstance(value, str):
        return 1
    if not isinstance(value, list) or not value:
        return None
    kinds = set(map(type, value))
    if kinds == {int}:
        return 1
    return len(value) if len(kinds) == 1 else None
