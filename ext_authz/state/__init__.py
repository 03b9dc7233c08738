"""What policies and authenticators may know beyond the request: approvals, risk, quarantines, revocations.

Law: a `State` is frozen and answers in O(1); what is older than `max_age_ns`
is unknown where it could allow (approvals, risk) and holds where it denies.
Non-goal: storage (sqlite.py, memory.py) and reading it (reader.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from ext_authz.model import Approval, Risk
from ext_authz.state.changes import Change, normal_dn, normal_hex

DEFAULT_MAX_AGE_NS: Final = 30_000_000_000
_SECOND: Final = 1_000_000_000


class StoreError(Exception):
    """The store cannot be opened, read or written; the message says which file and why."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """Revocations by what they hit; every value is the text for the audit trail.

    `tokens` are keyed by (issuer, jti), issuer "" meaning any. `subjects_before`
    and `issuers_before` hold (Unix seconds, text): tokens issued up to then.
    """

    tokens: Mapping[tuple[str, str], str] = field(default_factory=dict)
    subjects: Mapping[str, str] = field(default_factory=dict)
    subjects_before: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    issuers_before: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    serials: Mapping[tuple[str, str], str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing at all is revoked."""
        return not (
            self.tokens
            or self.subjects
            or self.subjects_before
            or self.issuers_before
            or self.fingerprints
            or self.serials
            or self.keys
        )


@dataclass(frozen=True, slots=True)
class State:
    """What one check reads. Built whole by a reader thread and swapped by one reference.

    `read_at_ns` is the machine clock of the last successful look at the store;
    `max_age_ns` None never ages (tests, `explain` without a store). `version`
    is the id of the last change it holds. `risks` and `quarantines` hold
    (value, Unix seconds it ends or None); the subject is the typed id.
    """

    read_at_ns: int = 0
    max_age_ns: int | None = None
    version: int = 0
    approvals: Mapping[str, tuple[Approval, ...]] = field(default_factory=dict)
    risks: Mapping[str, tuple[Risk, int | None]] = field(default_factory=dict)
    quarantines: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)
    revocations: Revocations = field(default_factory=Revocations)
    _nothing_revoked: bool = field(init=False, repr=False, compare=False, default=True)

    def __post_init__(self) -> None:
        """Remember whether any revocation exists: nearly always none does."""
        object.__setattr__(self, "_nothing_revoked", self.revocations.empty)

    def age_ns(self, now_ns: int) -> int:
        """Nanoseconds since the store was last read (negative where the clock was set back)."""
        return now_ns - self.read_at_ns

    def is_stale(self, now_ns: int) -> bool:
        """Whether approvals and risk are too old to be believed; a clock set back that far counts too."""
        return self.max_age_ns is not None and not -self.max_age_ns <= now_ns - self.read_at_ns <= self.max_age_ns

    def approvals_for(self, subject_id: str, now_ns: int) -> tuple[Approval, ...] | None:
        """Return the unexpired approvals given for `subject_id`; None when the state is too old to say."""
        if self.is_stale(now_ns):
            return None
        found = self.approvals.get(subject_id)
        if found is None:
            return ()
        return tuple(each for each in found if each.expires_at is None or now_ns < each.expires_at * _SECOND)

    def risk_of(self, subject_id: str, now_ns: int) -> Risk | None:
        """Return the subject's risk, LOW when nothing is known; None when the state is too old to say."""
        if self.is_stale(now_ns):
            return None
        found = self.risks.get(subject_id)
        return found[0] if found is not None and _lasts(found[1], now_ns) else Risk.LOW

    def quarantine_of(self, subject_id: str, now_ns: int) -> str | None:
        """Return why `subject_id` is quarantined, or None. Holds as last read, however old."""
        found = self.quarantines.get(subject_id)
        return found[0] if found is not None and _lasts(found[1], now_ns) else None

    def revocation_of(
        self,
        *,
        subject_id: str,
        issuer: str,
        issued_at: int | None,
        token_id: str,
        cert_fingerprint: str,
        cert_serial: str,
        cert_issuer: str,
        key_id: str,
    ) -> str | None:
        """Say which revocation hits the credential, or None. Holds as last read, however old.

        "" stands for what the credential does not have. `issued_at` is Unix
        seconds. `cert_fingerprint` is SHA-256 in hexadecimal, `cert_serial`
        hexadecimal, `cert_issuer` RFC 4514; case, colons and leading zeros do not count.
        """
        if self._nothing_revoked:
            return None
        revoked = self.revocations
        hit = revoked.subjects.get(subject_id)
        if hit is None and token_id:
            hit = revoked.tokens.get((issuer, token_id)) or revoked.tokens.get(("", token_id))
        if hit is None and key_id:
            hit = revoked.keys.get(key_id)
        if hit is None and cert_fingerprint and revoked.fingerprints:
            hit = revoked.fingerprints.get(normal_hex(cert_fingerprint))
        if hit is None and cert_serial and revoked.serials:
            hit = revoked.serials.get((normal_hex(cert_serial), normal_dn(cert_issuer)))
        if hit is None and issued_at is not None:
            hit = _before(revoked.subjects_before.get(subject_id), issued_at)
            if hit is None:
                hit = _before(revoked.issuers_before.get(issuer), issued_at)
        return hit


def _lasts(ends_at: int | None, now_ns: int) -> bool:
    return ends_at is None or now_ns < ends_at * _SECOND


def _before(found: tuple[int, str] | None, issued_at: int) -> str | None:
    return found[1] if found is not None and issued_at <= found[0] else None


EMPTY_STATE: Final = State()
"""Nothing recorded, never too old."""


@dataclass(frozen=True, slots=True)
class Page:
    """One consistent look at a store: its identity, its last change and the changes asked for, by id.

    `origins` names those that another host recorded, `repeats` those that stand here a second time (replica.py).
    """

    store_id: str
    last_id: int
    changes: tuple[Change, ...]
    origins: Mapping[int, str] = field(default_factory=dict)
    repeats: frozenset[int] = frozenset()


class Store(Protocol):
    """An append-only list of changes with ids 1, 2, 3, …; every method may raise StoreError."""

    def append(self, change: Change) -> Change:
        """Store `change` durably and return it with its id. Raises ValueError when it makes no sense."""
        ...

    def read(self, after_id: int, limit: int | None = None) -> Page:
        """Return the changes after `after_id`, oldest first, at most `limit` of them."""
        ...

    def version(self) -> object:
        """Return something that compares unequal once anybody has appended; cheap enough to ask four times a second."""
        ...

    def close(self) -> None:
        """Let go of files and connections; the store is not used again."""
        ...
