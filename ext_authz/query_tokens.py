"""A credential in the query string: where it stands, however its name is spelt.

Law: whatever some upstream's parser would take for the parameter is found, and only the plain spelling counts as
presented; what is stripped is named as Envoy compares it, undecoded. Non-goal: what the value is.
"""

from typing import NamedTuple
from urllib.parse import unquote_to_bytes


class Parameter(NamedTuple):
    """One occurrence. `raw` is the name on the wire; `value` is None where it is not written in one way only."""

    raw: str
    value: str | None


def occurrences(path: str, name: str) -> list[Parameter]:
    """Return every occurrence of the parameter `name` in the query of a `:path`.

    Percent-encoded names, other letter case, `name[]`, names behind a `;` and those that PHP turns into `name` are
    occurrences too, without a value.
    """
    query = path.partition("?")[2]
    if not query:
        return []
    folded = _folded(name)
    found = []
    for pair in query.split("&"):
        raw, _, value = pair.partition("=")
        if raw == name:
            found.append(Parameter(raw, value if ";" not in pair and "%" not in value and "+" not in value else None))
        elif any(_folded(piece.partition("=")[0]) == folded for piece in pair.split(";")):
            found.append(Parameter(raw, None))
    return found


def _folded(name: str) -> str:
    text = unquote_to_bytes(name.replace("+", " ")).decode("latin-1").partition("\0")[0]
    return text.strip().partition("[")[0].casefold().translate(_UNDERSCORES)


_UNDERSCORES = str.maketrans(". ", "__")
