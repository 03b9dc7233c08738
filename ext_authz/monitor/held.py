"""What the shared store says of risk and quarantine, and who said it.

Law: read in order of numbers, as every worker does; a store in whose place another stands is read from its beginning.
Non-goal: deciding anything.
"""

from dataclasses import dataclass
from typing import Final

from ext_authz.model import Risk
from ext_authz.state import Store
from ext_authz.state.changes import Change, Kind

BY: Final = "monitor"
PAGE: Final = 1024
_DAY_NS: Final = 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class HeldRisk:
    """A recorded risk; `ours`: this host's monitor recorded it, and may lower it."""

    risk: Risk
    ends_at: int
    ours: bool


@dataclass(frozen=True, slots=True)
class HeldQuarantine:
    """A recorded quarantine: whether a monitor (of any host, or `ours`) imposed it, for which detector, and when."""

    ends_at: int
    monitored: bool
    detector: str = ""
    at_ns: int = 0
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Somebody else than a monitor took back the risk or quarantine of `subject`, which `detector` (or "") imposed."""

    subject: str
    at_ns: int
    detector: str = ""


class Held:
    """The fold; used by one thread."""

    def __init__(self) -> None:
        self.risks: dict[str, HeldRisk] = {}
        self.quarantines: dict[str, HeldQuarantine] = {}
        self._store_id = ""
        self._last = 0
        self._version: object = None
        self._risks_by_day: dict[int, int] = {}

    def risks_on(self, day: int) -> int:
        """Return how many risks monitors of all hosts recorded on that day (UTC, days since 1970)."""
        return self._risks_by_day.get(day, 0)

    def follow(self, store: Store) -> list[Withdrawn]:
        """Take in what is new; return what was withdrawn by others. Raises StoreError."""
        version = store.version()
        if version == self._version and self._last:
            return []
        found: list[Withdrawn] = []
        page = store.read(0, 0)
        if page.store_id != self._store_id or page.last_id < self._last:
            self._store_id, self._last = page.store_id, 0
            self.risks, self.quarantines, self._risks_by_day = {}, {}, {}
        last = page.last_id
        while self._last < last:
            page = store.read(self._last, PAGE)
            if page.store_id != self._store_id or not page.changes:
                return found
            for change in page.changes:
                self._last = change.id
                if _is_risk(change) and change.id not in page.repeats:
                    day = change.at_ns // _DAY_NS
                    self._risks_by_day[day] = self._risks_by_day.get(day, 0) + 1
                taken_back = self._apply(change, ours=change.by == BY and change.id not in page.origins)
                if taken_back is not None:
                    found.append(taken_back)
        self._version = version
        return found

    def look_again(self) -> None:
        """Read at the next call: the store is opened anew, and its versions are others."""
        self._version = None

    def _apply(self, change: Change, *, ours: bool) -> Withdrawn | None:
        detector = ""
        if change.kind is Kind.RISK:
            self.risks.pop(change.subject, None)
            if not change.withdraw:
                self.risks[change.subject] = HeldRisk(Risk(change.risk), _end(change), ours)
        elif change.kind is Kind.QUARANTINE:
            was = self.quarantines.pop(change.subject, None)
            detector = was.detector if was is not None else ""
            if not change.withdraw:
                monitored = change.by == BY
                by_whom = change.reason.partition(":")[0] if monitored else ""
                self.quarantines[change.subject] = HeldQuarantine(_end(change), monitored, by_whom, change.at_ns, ours)
        else:
            return None
        return Withdrawn(change.subject, change.at_ns, detector) if change.withdraw and change.by != BY else None

    def prune(self, now: int) -> None:
        """Forget what has ended (`now` in Unix seconds)."""
        today = now // 86_400
        self._risks_by_day = {day: count for day, count in self._risks_by_day.items() if abs(day - today) <= 1}
        self.risks = {subject: each for subject, each in self.risks.items() if each.ends_at > now}
        self.quarantines = {subject: each for subject, each in self.quarantines.items() if each.ends_at > now}


def _is_risk(change: Change) -> bool:
    return change.kind is Kind.RISK and change.by == BY and not change.withdraw


def _end(change: Change) -> int:
    return change.expires_at if change.expires_at is not None else 1 << 40
