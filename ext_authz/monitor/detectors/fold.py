"""What detectors have in common.

Law: a detector keeps plain values in bounded tables and reads no clock; the same
events in give the same findings and the same snapshot out. Non-goal: deciding what a finding costs whom.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from ext_authz.monitor.detectors.finding import MAX_EVIDENCE, Finding
from ext_authz.monitor.detectors.others import Groups, Part
from ext_authz.monitor.detectors.seen import Seen, seen

Found = Sequence[Finding]
NONE: Final[Found] = ()
ALLOWED: Final = "allowed"
REFUSED: Final = "refused"
NOBODY: Final = "nobody"


class Fold(ABC):
    """A detector that sees events already read; `observe` reads one for itself."""

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]]
    """Which events are anything to it: a verified subject was ALLOWED or REFUSED something, or NOBODY was known."""

    def observe(self, event: Mapping[str, Any], now_ns: int) -> Found:
        """Take one audit event in; see Detector.observe."""
        one = seen(event, now_ns)
        return NONE if one is None else self.see(one)

    @abstractmethod
    def see(self, one: Seen) -> Found:
        """Take one event in that `seen` read."""

    def shared(self, now_ns: int) -> list[Part]:  # noqa: ARG002
        """Return what other hosts are to know: counts over everybody in windows that run. `now_ns` as in observe."""
        return []

    def hear(self, groups: Groups, me: str, now_ns: int) -> Found:  # noqa: ARG002
        """Take in what other hosts count, in place of what was heard before; `me` is this host's name among theirs."""
        return NONE

    @abstractmethod
    def snapshot(self) -> dict[str, Any]:
        """Return all that is remembered as JSON data."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what `snapshot` returned, and nothing else; raises SnapshotError and then remembers what it did."""


def kept(evidence: list[str], event_id: str) -> None:
    """Keep the first half of the evidence and the newest of the rest."""
    if len(evidence) >= MAX_EVIDENCE:
        del evidence[MAX_EVIDENCE // 2]
    evidence.append(event_id)
