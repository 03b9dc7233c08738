"""What a verification has before it: segments with what was found in them, their logs, and what others say of those.

Law: a header counts only as far as its segment opened, or a signed event has its digest. Non-goal: verdicts (judge.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ext_authz.audit.report import LogReport
from ext_authz.audit.scan import Scan
from ext_authz.audit.segment import Header
from ext_authz.audit.trail import Segment as SegmentFile


@dataclass(slots=True)
class Part:
    """One segment file on its way through a verification; `digest` is its header's, in hexadecimal."""

    file: SegmentFile
    size: int
    header: Header | None = None
    digest: str = ""
    data_key: bytes | None = None
    shredded: bool = False
    scan: Scan | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody else says of a log: its first `size` events have this root.

    `by` is the log that says so in event `at` (None: an anchor); `ended`: its process was gone by then.
    """

    size: int
    root: bytes
    who: str
    by: "Log | None" = None
    at: int = 0
    ended: bool = False

    @property
    def proven(self) -> bool:
        """Whether a good signature covers what says so; the log that does was judged before."""
        return self.by is None or self.by.report.covered > self.at


@dataclass(slots=True)
class Log:
    """One log: its segments in order, and what others say of it; `start` is the event that has `previous` and `others`.

    `unread`: who of the next starts could not read how it ended, and why.
    """

    log_id: str
    started_ns: int
    parts: list[Part]
    report: LogReport
    claims: list[Claim] = field(default_factory=list)
    previous: dict[str, Any] | None = None
    start: int = 0
    others: list[str] = field(default_factory=list)
    unread: str = ""
    roots: dict[int, bytes] = field(default_factory=dict)


def cuts(parts: Sequence[Part]) -> list[int | None]:
    """Return for each segment from which event on later ones have everything: again, or for the first time.

    A later segment that begins before an earlier one ends was begun after a failed sync, and was durable with all that
    the earlier ones may have lost before it had its name.
    """
    found: list[int | None] = []
    lowest: int | None = None
    for part in reversed(parts):
        found.append(lowest)
        if part.header is not None:
            first = part.header.first_seq
            lowest = first if lowest is None else min(lowest, first)
    return found[::-1]
