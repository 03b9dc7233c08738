"""Time windows: which wall-clock minutes of which days in which zone are open, and until when.

Law: a window is read on the wall clock of its zone, so both passes of a
repeated hour count and a skipped hour does not; one past midnight belongs to
the day it opens; its end is exclusive. Non-goal: knowing what time it is.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY: Final = 24 * 60
SECOND_NS: Final = 1_000_000_000
# Years 5 to 9987: nothing computed from a time within leaves what a calendar date can hold (years 1 to 9999).
_EARLIEST: Final = -62_000_000_000
_LATEST: Final = 253_000_000_000


@dataclass(frozen=True, slots=True)
class Window:
    """Open on `days` (0 is Monday) from minute `start` (inclusive) to minute `end` (exclusive) of the day.

    `end` below `start` runs past midnight and belongs to the day it opens;
    `end` 1440 is midnight. `timezone` is an IANA name.
    """

    days: tuple[int, ...]
    start: int
    end: int
    timezone: str

    @property
    def always(self) -> bool:
        """Whether it never closes."""
        return len(self.days) == len(DAYS) and self.start == 0 and self.end == MINUTES_PER_DAY

    def describe(self) -> str:
        """Return it in words: `mon-fri 09:00-17:00 Europe/Berlin`."""
        return f"{days_text(self.days)} {clock_text(self.start)}-{clock_text(self.end)} {self.timezone}"

    def holds(self, time_ns: int) -> bool | None:
        """Whether it is open at `time_ns` (Unix nanoseconds); None for a time no calendar holds."""
        second = time_ns // SECOND_NS
        if not _EARLIEST < second < _LATEST:
            return None
        return self.always or _open_at(self, second)

    def closes_ns(self, time_ns: int) -> int | None:
        """Return when an open window next closes (Unix nanoseconds), at the latest.

        A change of the zone's offset counts as an end: whoever relies on the
        answer then asks again. None: it never closes.
        """
        if self.always:
            return None
        return _closes_at(self, time_ns // SECOND_NS) * SECOND_NS

    def opens_ns(self, time_ns: int) -> int:
        """Return the next opening after `time_ns` (Unix nanoseconds)."""
        zone = ZoneInfo(self.timezone)
        day = datetime.fromtimestamp(time_ns // SECOND_NS, zone).date() - timedelta(days=1)
        # A minute that a zone skips one week comes the next.
        while True:
            for fold in (0, 1) if day.weekday() in self.days else ():
                second = _wall(day, self.start, zone, fold)
                if second * SECOND_NS > time_ns and _open_at(self, second):
                    return second * SECOND_NS
            day += timedelta(days=1)


BUSINESS_HOURS: Final = Window((0, 1, 2, 3, 4), 9 * 60, 17 * 60, "UTC")
"""What `business_hours` means where no file defines it (CONTRACT section 4)."""


def clock_text(minute: int) -> str:
    """Return `HH:MM` of a minute of the day."""
    return f"{minute // 60:02}:{minute % 60:02}"


def days_text(days: tuple[int, ...]) -> str:
    """Return days in words, runs joined: `mon-fri,sun`."""
    runs: list[list[int]] = []
    for day in days:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ",".join(DAYS[run[0]] if len(run) == 1 else f"{DAYS[run[0]]}-{DAYS[run[-1]]}" for run in runs)


@lru_cache(maxsize=4096)
def _open_at(window: Window, second: int) -> bool:
    local = datetime.fromtimestamp(second, ZoneInfo(window.timezone))
    return _opening_day(window, local) is not None


def _opening_day(window: Window, local: datetime) -> date | None:
    """Return the day whose opening covers the wall-clock time `local`."""
    minute, today = local.hour * 60 + local.minute, local.date()
    if window.start < window.end:
        return today if window.start <= minute < window.end and today.weekday() in window.days else None
    if minute >= window.start and today.weekday() in window.days:
        return today
    if minute < window.end and (today.weekday() - 1) % 7 in window.days:
        return today - timedelta(days=1)
    return None


@lru_cache(maxsize=1024)
def _closes_at(window: Window, second: int) -> int:
    zone = ZoneInfo(window.timezone)
    # Windows of adjoining days are one opening; on all seven it would be `always`.
    while True:
        local = datetime.fromtimestamp(second, zone)
        opened = _opening_day(window, local)
        if opened is None:
            return second
        last_day = opened if window.start < window.end else opened + timedelta(days=1)
        end = _wall(last_day, window.end, zone, local.fold)
        change = _offset_change(zone, second, end)
        if change is not None:
            return change
        second = end


def _wall(day: date, minute: int, zone: ZoneInfo, fold: int) -> int:
    """Return the Unix second of a wall-clock minute; `fold` 1 is the second pass of a repeated hour."""
    wall = datetime(day.year, day.month, day.day, tzinfo=zone, fold=fold) + timedelta(minutes=minute)
    return int(wall.replace(fold=fold).astimezone(UTC).timestamp())


def _offset_change(zone: ZoneInfo, start: int, end: int) -> int | None:
    """Return the first second after `start` with another UTC offset, where `end` has one."""
    offset = datetime.fromtimestamp(start, zone).utcoffset()
    if datetime.fromtimestamp(end, zone).utcoffset() == offset and end > start:
        return None
    low, high = start, max(end, start + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high
