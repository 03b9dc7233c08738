"""What other hosts tell of the counts over everybody: sketches of windows like ours, merged.

Law: the merge of parts is the sketch of the whole, whoever counted what how often; of the hosts that see a merged count
too high one tells it. Non-goal: how sketches travel (monitor/fleet.py), and what was counted here alone: that is judged
as without others, so that nothing is seen later for their sake.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ext_authz.monitor.detectors.baseline import Baseline, Limits, whole
from ext_authz.monitor.detectors.sketch import Distinct, merged, registers_of

Part = list[Any]
"""One window of one host, as plain data: [name, window, told, registers, registers], registers in hexadecimal."""
MAX_PARTS: Final = 60
"""Windows that one host may tell of for one detector."""
MAX_NAME: Final = 32
GRACE: Final = 20
"""Seconds that a host waits for the one whose turn it is to tell; longer than an exchange takes both ways."""


class Group:
    """One window as other hosts counted it together."""

    __slots__ = ("_one", "_two", "hosts", "least", "told")

    def __init__(self) -> None:
        self.hosts = 0
        self.least = ""
        self.told = False
        self._one: list[bytes] = []
        self._two: list[bytes] = []

    def take(self, host: str, told: bool, one: bytes, two: bytes) -> None:  # noqa: FBT001
        """Take in what a host counted."""
        self.hosts += 1
        self.least = min(self.least or host, host)
        self.told = self.told or told
        self._one.append(one)
        self._two.append(two)

    def merged(self, one: Distinct, two: Distinct) -> tuple[Distinct, Distinct]:
        """Return what all of them counted and what we did, in new sketches."""
        return merged([one.registers, *self._one]), merged([two.registers, *self._two])


Groups = Mapping[tuple[str, int], Group]
"""By name and window."""


def part(name: str, window: int, told: bool, one: Distinct, two: Distinct) -> Part:  # noqa: FBT001
    """Return one window as it is told to others."""
    return [name, window, told, one.pack(), two.pack()]


def groups_of(told: Iterable[tuple[str, object]]) -> dict[tuple[str, int], Group]:
    """Merge what hosts tell (host, list of parts) by name and window; what is no such list counts as nothing."""
    made: dict[tuple[str, int], Group] = {}
    for host, parts in told:
        try:
            checked = _checked(parts)
        except ValueError:
            continue
        for name, window, alarmed, one, two in checked:
            made.setdefault((name, window), Group()).take(host, alarmed, one, two)
    return made


def _checked(parts: object) -> list[tuple[str, int, bool, bytes, bytes]]:
    if not isinstance(parts, list) or len(parts) > MAX_PARTS:
        raise ValueError("not what a host counted")
    made = []
    for each in parts:
        if not isinstance(each, list) or len(each) != len(("name", "window", "told", "one", "two")):
            raise ValueError("not what a host counted in a window")
        name, window, told, one, two = each
        if not isinstance(name, str) or len(name) > MAX_NAME or not isinstance(told, bool):
            raise ValueError("not what a host counted in a window")
        made.append((name, whole(window), told, registers_of(one), registers_of(two)))
    return made


class Union:
    """A window of ours and of others together, and what is usual for it."""

    __slots__ = ("baseline", "hosts", "one", "over", "told", "turn", "two")

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self.over = 0
        """Since when (Unix seconds) the count is too high and nobody has told."""
        self.hosts = 0
        """Other hosts that counted something."""
        self.leave()

    def leave(self) -> None:
        """Be ours alone: another window began, or nobody tells anything any more."""
        self.hosts, self.turn, self.told, self.over = 0, True, False, 0
        self.one, self.two = Distinct(), Distinct()

    def become(self, group: Group, me: str, one: Distinct, two: Distinct) -> None:
        """Be what the others counted and what we (`me`) did."""
        self.hosts, self.turn, self.told = group.hosts, me < group.least, group.told
        self.one, self.two = group.merged(one, two)

    def judge(self, day: int, second: int, limits: Limits, least: int) -> float:
        """Return the limit where more than usual was counted and it is ours to tell, 0 otherwise.

        `least` is how much there must be of the second kind.
        """
        count = len(self.one)
        above = not self.told and count > limits.floor and len(self.two) >= least  # before what costs more
        limit = self.baseline.threshold(limits) if above else 0.0
        self.baseline.note(day, count, limits)
        if not above or count <= limit:
            self.over = 0
            return 0.0
        self.over = self.over or second
        return limit if self.turn or second - self.over >= GRACE else 0.0
