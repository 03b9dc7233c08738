"""How often a caller's unknown key id may make us look for new keys.

Law: whoever makes up key ids causes a few fetches and then one each REFILL_SECONDS; a fetch that did find new
keys costs nothing, so a fast rotation is followed. Pure: time is an argument. Non-goal: fetching, waiting.
"""

from typing import Final

BURST: Final = 5
REFILL_SECONDS: Final = 10.0
FORGET_SECONDS: Final = 60.0
"""For so long a key id that was looked for in vain is not looked for again."""
MAX_ABSENT: Final = 1024


class Asking:
    """The budget of one issuer; `now` is monotonic seconds. Not for several threads at once."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._since = 0.0
        self._absent: dict[str, float] = {}

    def may(self, kid: str, now: float) -> bool:
        """Whether to look for `kid` now; a yes is counted."""
        if now - self._absent.get(kid, -FORGET_SECONDS) < FORGET_SECONDS:
            return False
        self._left = min(float(BURST), self._left + max(0.0, now - self._since) / REFILL_SECONDS)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def found(self) -> None:
        """Note that there were new keys."""
        self._left = float(BURST)
        self._absent.clear()

    def missed(self, kid: str, now: float) -> None:
        """Note that the newest keys do not hold `kid`."""
        self._absent.pop(kid, None)
        if len(self._absent) >= MAX_ABSENT:
            del self._absent[next(iter(self._absent))]
        self._absent[kid] = now
