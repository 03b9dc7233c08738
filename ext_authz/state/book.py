"""The fold from changes to the `State` that checks read.

Law: the same changes in the same order give the same state, and a withdrawal
takes back exactly what its key names. Non-goal: clocks and storage; times are
arguments, and the state compares them again on every check.
"""

from collections.abc import Iterable

from ext_authz.model import Approval, Risk
from ext_authz.state import DEFAULT_MAX_AGE_NS, Revocations, State, Store, StoreError
from ext_authz.state.changes import Change, Kind, normal_dn, normal_hex

_SECOND = 1_000_000_000


class Book:
    """What holds after the changes applied so far; one per store, owned by one thread."""

    def __init__(self) -> None:
        self.last_id = 0
        self._approvals: dict[tuple[object, ...], dict[tuple[str, str, str], Change]] = {}
        self._single: dict[Kind, dict[tuple[object, ...], Change]] = {
            Kind.REVOCATION: {},
            Kind.QUARANTINE: {},
            Kind.RISK: {},
        }

    def copy(self) -> "Book":
        """Return a book that can go on by itself."""
        made = Book()
        made.last_id = self.last_id
        made._approvals = {key: dict(given) for key, given in self._approvals.items()}
        made._single = {kind: dict(table) for kind, table in self._single.items()}
        return made

    def apply(self, change: Change) -> None:
        """Take in one change; its id must be the next one. Raises ValueError on a hole: a row was taken out."""
        if change.id != self.last_id + 1:
            raise ValueError(f"change {self.last_id + 1} is missing (the next one is {change.id})")
        self.last_id = change.id
        if change.kind in (Kind.REFUSAL, Kind.API_KEY):
            return  # for the audit trail alone
        if change.kind is Kind.APPROVAL:
            self._approval(change)
        elif change.withdraw:
            self._single[change.kind].pop(change.key, None)
        else:
            self._single[change.kind][change.key] = change

    def _approval(self, change: Change) -> None:
        given = self._approvals.setdefault(change.key, {})
        if change.withdraw:
            # Without a resource everything goes: taking back too much only denies.
            for each in [key for key in given if change.resource in ("", key[2])]:
                del given[each]
        else:
            given[(change.by, change.policy_digest, change.resource)] = change
        if not given:
            del self._approvals[change.key]

    def active(self, now_ns: int) -> tuple[Change, ...]:
        """Return the changes that still hold, in order of their ids (for listings)."""
        held = [each for given in self._approvals.values() for each in given.values()]
        held += [each for table in self._single.values() for each in table.values()]
        return tuple(sorted((each for each in held if _lasts(each, now_ns)), key=lambda each: each.id))

    def state(self, read_at_ns: int, max_age_ns: int | None = DEFAULT_MAX_AGE_NS) -> State:
        """Build the state as of a look at the store at `read_at_ns`; what had ended a day before is forgotten."""
        self._prune(read_at_ns)
        approvals: dict[str, list[Approval]] = {}
        for given in self._approvals.values():
            for change in given.values():
                approvals.setdefault(change.subject, []).append(_approval(change))
        return State(
            read_at_ns=read_at_ns,
            max_age_ns=max_age_ns,
            version=self.last_id,
            approvals={subject: tuple(found) for subject, found in approvals.items()},
            risks={each.subject: (Risk(each.risk), each.expires_at) for each in self._single[Kind.RISK].values()},
            quarantines={
                each.subject: (f"quarantined: {each.reason or 'no reason given'}", each.expires_at)
                for each in self._single[Kind.QUARANTINE].values()
            },
            revocations=_revocations(self._single[Kind.REVOCATION].values()),
        )

    def _prune(self, now_ns: int) -> None:
        """Forget what ended over a day ago, so that a clock set back by less brings nothing wrong to life."""
        long_ago = now_ns - 86_400 * _SECOND
        for table in (self._single[Kind.QUARANTINE], self._single[Kind.RISK]):
            for key in [key for key, each in table.items() if not _lasts(each, long_ago)]:
                del table[key]
        for key, given in list(self._approvals.items()):
            for each in [each for each, change in given.items() if not _lasts(change, long_ago)]:
                del given[each]
            if not given:
                del self._approvals[key]


def read_book(store: Store) -> Book:
    """Read a whole store. Raises StoreError."""
    book = Book()
    try:
        for change in store.read(0).changes:
            book.apply(change)
    except ValueError as error:
        raise StoreError(str(error)) from None
    return book


def _lasts(change: Change, now_ns: int) -> bool:
    return change.expires_at is None or now_ns < change.expires_at * _SECOND


def _approval(change: Change) -> Approval:
    return Approval(
        group=change.group,
        approver=change.by,
        expires_at=change.expires_at,
        policy=change.policy,
        policy_digest=change.policy_digest,
        subject=change.subject,
        resource=change.resource or None,
    )


def _revocations(changes: Iterable[Change]) -> Revocations:
    tokens: dict[tuple[str, str], str] = {}
    subjects: dict[str, str] = {}
    subjects_before: dict[str, tuple[int, str]] = {}
    issuers_before: dict[str, tuple[int, str]] = {}
    fingerprints: dict[str, str] = {}
    serials: dict[tuple[str, str], str] = {}
    keys: dict[str, str] = {}
    for each in changes:
        text = f"revocation {each.id}: {each.reason or 'no reason given'}"
        if each.token_id:
            tokens[(each.issuer, each.token_id)] = text
        elif each.subject and each.before is None:
            subjects[each.subject] = text
        elif each.before is not None:
            table, name = (subjects_before, each.subject) if each.subject else (issuers_before, each.issuer)
            if name not in table or table[name][0] < each.before:
                table[name] = (each.before, text)
        elif each.fingerprint:
            fingerprints[normal_hex(each.fingerprint)] = text
        elif each.serial:
            serials[(normal_hex(each.serial), normal_dn(each.issuer_dn))] = text
        elif each.key_id:
            keys[each.key_id] = text
    return Revocations(tokens, subjects, subjects_before, issuers_before, fingerprints, serials, keys)
