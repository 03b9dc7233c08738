"""Which distinct things there were lately: at most 64, the newest.

Law: bounded whatever strangers put in; when full the least lately seen goes.
Non-goal: counting beyond 64. A threshold above that would never be met.
"""

from typing import Any, Final

from ext_authz.monitor.detectors.baseline import whole

MOST: Final = 64


class Recent:
    """Things (hashed or short) with the second each was last seen."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, thing: str, second: int) -> bool:
        """Take a thing in; returns whether it is new. One of the past does not make it older."""
        seen = self._seen
        before = seen.pop(thing, None)
        seen[thing] = second if before is None else max(before, second)
        if len(seen) > MOST:
            del seen[next(iter(seen))]
        return before is None

    def since(self, second: int) -> int:
        """Return how many were seen at or after `second`."""
        return sum(last >= second for last in self._seen.values())

    def forget(self, second: int) -> None:
        """Forget what was last seen before `second`."""
        if self._seen and next(iter(self._seen.values())) < second:
            for thing in [thing for thing, last in self._seen.items() if last < second]:
                del self._seen[thing]

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        return [list(pair) for pair in self._seen.items()]

    @classmethod
    def unpack(cls, packed: Any) -> "Recent":  # noqa: ANN401  plain data from outside
        """Return what `pack` wrote; raises ValueError or TypeError."""
        made = cls()
        for thing, second in packed[-MOST:]:
            made._seen[str(thing)] = whole(second)
        return made
