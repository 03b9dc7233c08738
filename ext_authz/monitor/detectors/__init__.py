"""Detectors: pure folds over the audit events (docs/monitoring.md).

Law: no clock, no I/O, no logger; plain data in, findings and a plain snapshot out, memory bounded whoever chooses
the keys. Non-goal: what follows from a finding (risk), and when an alert is repeated or resolved (alerts).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ext_authz.monitor.detectors.clients import ClientParams, ImpossibleClientChange
from ext_authz.monitor.detectors.credentials import CredentialParams, CredentialStuffing
from ext_authz.monitor.detectors.denials import Enumeration, EnumerationParams, PrivilegeProbing, ProbingParams
from ext_authz.monitor.detectors.extraction import ExtractionParams, ModelExtraction
from ext_authz.monitor.detectors.finding import Detector, Finding, Severity, SnapshotError
from ext_authz.monitor.detectors.fold import ALLOWED, NOBODY, NONE, REFUSED, Fold, Found
from ext_authz.monitor.detectors.others import groups_of
from ext_authz.monitor.detectors.seen import Seen, seen
from ext_authz.monitor.detectors.subjects import DormantIdentity, DormantParams, NewPair, PairParams
from ext_authz.monitor.detectors.times import TimeParams, UnusualTime
from ext_authz.monitor.detectors.volume import UnusualVolume, VolumeParams

__all__ = ["NAMES", "Detector", "Detectors", "Finding", "Params", "Severity", "SnapshotError"]

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Params:
    """The parameters of every detector; None turns one off."""

    unusual_time: TimeParams | None = field(default_factory=TimeParams)
    unusual_volume: VolumeParams | None = field(default_factory=VolumeParams)
    credential_stuffing: CredentialParams | None = field(default_factory=CredentialParams)
    model_extraction: ExtractionParams | None = field(default_factory=ExtractionParams)
    new_pair: PairParams | None = field(default_factory=PairParams)
    enumeration: EnumerationParams | None = field(default_factory=EnumerationParams)
    privilege_probing: ProbingParams | None = field(default_factory=ProbingParams)
    impossible_client_change: ClientParams | None = field(default_factory=ClientParams)
    dormant_identity: DormantParams | None = field(default_factory=DormantParams)


NAMES: Final = tuple(Params.__dataclass_fields__)


class Detectors:
    """All detectors that are on, as one: an event is read once."""

    name = "detectors"

    def __init__(self, params: Params | None = None, key: bytes = b"", fleet_key: bytes = b"") -> None:
        """`key` (secret, up to 64 bytes) keys the hashes; snapshots and merges need the same one.

        `fleet_key`, in its place where counts are shared, is the same at all hosts.
        """
        params = params or Params()
        self._folds: list[Fold] = []
        if params.unusual_time is not None:
            self._folds.append(UnusualTime(params.unusual_time))
        if params.unusual_volume is not None:
            self._folds.append(UnusualVolume(params.unusual_volume))
        if params.credential_stuffing is not None:
            self._folds.append(CredentialStuffing(params.credential_stuffing, fleet_key or key))
        if params.model_extraction is not None:
            self._folds.append(ModelExtraction(params.model_extraction, fleet_key or key))
        if params.new_pair is not None:
            self._folds.append(NewPair(params.new_pair, key))
        if params.enumeration is not None:
            self._folds.append(Enumeration(params.enumeration, key))
        if params.privilege_probing is not None:
            self._folds.append(PrivilegeProbing(params.privilege_probing))
        if params.impossible_client_change is not None:
            self._folds.append(ImpossibleClientChange(params.impossible_client_change))
        if params.dormant_identity is not None:
            self._folds.append(DormantIdentity(params.dormant_identity))
        self._of_nobody, self._of_refused, self._of_allowed = (
            tuple(fold for fold in self._folds if kind in fold.kinds) for kind in (NOBODY, REFUSED, ALLOWED)
        )

    @property
    def folds(self) -> Sequence[Fold]:
        """The detectors that are on, each with its own `name`, `snapshot` and `restore`."""
        return tuple(self._folds)

    def observe(self, event: Mapping[str, Any], now_ns: int) -> Sequence[Finding]:
        """Take one audit event in; see Detector.observe."""
        one = seen(event, now_ns)
        return NONE if one is None else self.see(one)

    def see(self, one: Seen, failed: Callable[[Exception], None] | None = None) -> Found:
        """Take one event in that was read. With `failed` a detector's bug is told there and blinds no other one."""
        found: list[Finding] | None = None
        for fold in (self._of_allowed if one.allowed else self._of_refused) if one.subject else self._of_nobody:
            try:
                made = fold.see(one)
            except Exception as error:
                if failed is None:
                    raise
                failed(error)
                continue
            if made:
                found = [*made] if found is None else [*found, *made]
        return found or NONE

    def shared(self, now_ns: int) -> dict[str, Any]:
        """Return what other hosts are to know, as JSON data; {} for nothing. It needs one key of all."""
        told = {fold.name: parts for fold in self._folds if (parts := fold.shared(now_ns))}
        return {"version": VERSION, **told} if told else {}

    def hear(self, told: Mapping[str, Mapping[str, Any]], me: str, now_ns: int) -> Found:
        """Take in what other hosts tell by `shared`, all of it each time; `me` is this host's name among theirs."""
        known = {host: each for host, each in told.items() if each.get("version") == VERSION and host != me}
        found: list[Finding] = []
        for fold in self._folds:
            found += fold.hear(groups_of((host, each.get(fold.name, [])) for host, each in known.items()), me, now_ns)
        return found or NONE

    def snapshot(self) -> dict[str, Any]:
        """Return what all of them remember, as JSON data."""
        return {"version": VERSION, **{fold.name: fold.snapshot() for fold in self._folds}}

    def restore(self, state: Mapping[str, Any]) -> tuple[str, ...]:
        """Remember what `snapshot` returned; returns the names of detectors that begin anew (new, or damaged state)."""
        if state.get("version") != VERSION:
            return tuple(fold.name for fold in self._folds)
        anew = []
        for fold in self._folds:
            part = state.get(fold.name)
            try:
                if not isinstance(part, dict):
                    raise SnapshotError("no state")  # noqa: TRY301
                fold.restore(part)
            except SnapshotError:
                anew.append(fold.name)
        return tuple(anew)
