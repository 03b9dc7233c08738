"""Taking out of an event what the configuration says must not be recorded.

Law: what is erased is named in `erased` (RFC 6901 pointers), what was not there is not; values shared with others are
never changed in place. Pure. Non-goal: which pointers may be said (settings.py).
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Final

_MISSING: Final = object()


class Redaction:
    """What to take out of every event. False where that is nothing."""

    __slots__ = ("_paths", "pointers")

    def __init__(self, pointers: Iterable[str] = ()) -> None:
        self._paths = [
            (pointer, [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")])
            for pointer in pointers
        ]
        self.pointers = tuple(pointer for pointer, _ in self._paths)
        """What is taken out, in order."""

    def __bool__(self) -> bool:
        return bool(self._paths)

    def parted(self, member: str, whole: Container[tuple[str, ...]]) -> "tuple[Redaction, Redaction] | None":
        """Return what is taken out below a member, and what anywhere else; None where one of the paths in `whole` is.

        What the one takes out changes nothing for the other. None also where something is named twice.
        """
        if len(set(self.pointers)) < len(self._paths) or any(tuple(path) in whole for _, path in self._paths):
            return None
        below = [pointer for pointer, path in self._paths if path[0] == member]
        return Redaction(below), Redaction(pointer for pointer in self.pointers if pointer not in below)

    def apply(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the event without what the pointers name; a list keeps its other items."""
        made: Any = dict(event)
        erased = []
        for pointer, path in self._paths:
            without = _without(made, path)
            if without is not _MISSING:
                made = without
                erased.append(pointer)
        if erased:
            made["erased"] = erased
        result: dict[str, Any] = made
        return result


def _without(value: Any, path: Sequence[str]) -> Any:  # noqa: ANN401  any JSON
    """Return a copy of `value` without what is at `path`; _MISSING where nothing is there."""
    step, rest = path[0], path[1:]
    if isinstance(value, Mapping):
        if step not in value:
            return _MISSING
        inner = _without(value[step], rest) if rest else None
        if inner is _MISSING:
            return _MISSING
        copy = dict(value)
        if rest:
            copy[step] = inner
        else:
            del copy[step]
        return copy
    if isinstance(value, (list, tuple)):
        index = int(step) if step.isascii() and step.isdigit() and (step == "0" or step[0] != "0") else -1
        if not 0 <= index < len(value):
            return _MISSING
        inner = _without(value[index], rest) if rest else _MISSING
        if rest and inner is _MISSING:
            return _MISSING
        return [*value[:index], *([inner] if rest else []), *value[index + 1 :]]
    return _MISSING


NOTHING: Final = Redaction()
