"""What a detector says, and what a detector is.

Law: `subject` is a verified identity or None; what merely claimed to be someone
stands in `claimed` and is evidence, never anyone's risk. Non-goal: what is done about it (risk).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

MAX_EVIDENCE: Final = 16


class Severity(StrEnum):
    """How much a finding should weigh, ascending."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a detector noticed at `at_ns` (Unix nanoseconds, of the event that completed the picture).

    `subject` is a verified typed id, `source` an address or network, `claimed`
    what an unverified caller said to be; any of them may be None. `evidence`
    are at most MAX_EVIDENCE event ids. `about` names the resource or model, "" for none.
    """

    detector: str
    subject: str | None
    source: str | None
    severity: Severity
    explanation: str
    evidence: tuple[str, ...]
    at_ns: int
    claimed: str | None = None
    about: str = ""


class Detector(Protocol):
    """A fold over audit events in about the order of their making."""

    @property
    def name(self) -> str:
        """The name in settings, alerts and metrics."""
        ...

    def observe(self, event: Mapping[str, Any], now_ns: int) -> Sequence[Finding]:
        """Take one event in; `now_ns` (Unix nanoseconds) bounds how late it may say it was made."""
        ...


class SnapshotError(ValueError):
    """A state that this version did not write, or that was damaged: begin anew."""
