"""What a verification found, as frozen-shaped records that the CLI prints and pipelines read.

Law: the status follows from the problems alone: altered before incomplete before unreadable. Non-goal: finding them.
"""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final


class Trouble(StrEnum):
    """What is wrong with a trail."""

    ALTERED = "altered"
    INCOMPLETE = "incomplete"
    UNREADABLE = "unreadable"


STATUS: Final = {Trouble.ALTERED: 1, Trouble.INCOMPLETE: 4, Trouble.UNREADABLE: 3}
"""Exit statuses, the gravest first."""


class State(StrEnum):
    """How a log ends."""

    SEALED = "sealed"
    OPEN = "open"
    """It is being written now."""
    UNSEALED = "unsealed"
    """Its process ended without closing it: killed, or a power failure."""
    RECOVERED = "recovered"
    """As `unsealed`; the next start of the same process has its end on record."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not hold: where (log, segment's file, event numbers, byte offset in the file) and what."""

    trouble: Trouble
    log: str
    text: str
    segment: str = ""
    first: int | None = None
    last: int | None = None
    offset: int | None = None

    def __str__(self) -> str:
        place = self.segment or self.log
        numbers = ""
        if self.first is not None:
            numbers = f" event {self.first}" if self.last in (None, self.first) else f" events {self.first}-{self.last}"
        at = f" at byte {self.offset}" if self.offset is not None else ""
        return f"{self.trouble}: {place}:{numbers}{at} {self.text}".replace(":  ", ": ")


@dataclass(slots=True)
class LogReport:
    """One log. `covered` is how many of its events a good signature covers, `end` the number behind the last one."""

    log: str
    state: State = State.UNSEALED
    segments: int = 0
    bytes: int = 0
    events: int = 0
    first: int = 0
    end: int = 0
    first_time: str = ""
    last_time: str = ""
    checkpoints: int = 0
    signed: int = 0
    covered: int = 0
    root: str = ""
    keys: list[str] = field(default_factory=list)
    wrapped_by: dict[str, int] = field(default_factory=dict)
    """How many of its segments' data keys each version of the trail's key wraps."""
    torn_bytes: int = 0
    gaps: list[dict[str, Any]] = field(default_factory=list)
    shredded: list[str] = field(default_factory=list)
    removed: int = 0
    notes: list[str] = field(default_factory=list)


class Repeats:
    """Notes that differ in a number of events alone, as one each: checkpoints come every 10 s, also when idle."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[str, str], tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, before: str, size: int, after: str) -> None:
        """Note `before SIZE after`."""
        highest, count = self._sizes.get((before, after), (0, 0))
        self._sizes[before, after] = max(highest, size), count + 1

    def notes(self) -> list[str]:
        """Return them, each with its highest number and how many more there were."""
        return [
            f"{before} {highest} {after}" + (f" (nor {count - 1} more, of as many or fewer)" if count > 1 else "")
            for (before, after), (highest, count) in self._sizes.items()
        ]


@dataclass(slots=True)
class Report:
    """All logs, and every problem."""

    logs: list[LogReport] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    content: bool = True
    """False where nothing was decrypted."""

    @property
    def status(self) -> int:
        """0, or the status of the gravest problem."""
        found = {problem.trouble for problem in self.problems}
        return next((status for trouble, status in STATUS.items() if trouble in found), 0)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "status": self.status,
            "content": self.content,
            "events": sum(log.events for log in self.logs),
            "logs": [asdict(log) for log in self.logs],
            "problems": [asdict(problem) for problem in self.problems],
            "notes": self.notes,
        }
