"""The frozen state: what each revocation hits, what ages and what holds."""

from typing import Any

import pytest

from ext_authz.model import Approval, Risk
from ext_authz.state import EMPTY_STATE, State
from ext_authz.state.book import Book
from ext_authz.state.changes import Change, Kind, from_record, normal_dn, normal_hex, typed_subject

NOW = 1_800_000_000
NOW_NS = NOW * 1_000_000_000
SECOND = 1_000_000_000
FINGERPRINT = "0a" * 32
CREDENTIAL: dict[str, Any] = {
    "subject_id": "sub:alice",
    "issuer": "https://idp",
    "issued_at": NOW - 100,
    "token_id": "j1",
    "cert_fingerprint": FINGERPRINT,
    "cert_serial": "01ab",
    "cert_issuer": "CN=CA,O=ml",
    "key_id": "batch-7",
}
NOTHING: dict[str, Any] = {name: None if name == "issued_at" else "" for name in CREDENTIAL}


def fold(*changes: Change) -> State:
    return book(*changes).state(NOW_NS)


def book(*changes: Change) -> Book:
    made = Book()
    for number, change in enumerate(changes, 1):
        made.apply(from_record(change.record(), number))
    return made


def revocation(**about: Any) -> Change:
    return Change(Kind.REVOCATION, "os:root", NOW_NS, "leaked", **about)


def approval(**more: Any) -> Change:
    given = {
        "by": "os:ops",
        "subject": "sub:alice",
        "expires_at": NOW + 60,
        "policy": "p",
        "policy_digest": "d1",
        "group": "security",
    }
    return Change(Kind.APPROVAL, at_ns=NOW_NS, **{**given, **more})


def test_the_empty_state_knows_nothing_and_never_ages() -> None:
    assert EMPTY_STATE.approvals_for("sub:alice", NOW_NS) == ()
    assert EMPTY_STATE.risk_of("sub:alice", NOW_NS) is Risk.LOW
    assert EMPTY_STATE.quarantine_of("sub:alice", NOW_NS) is None
    assert EMPTY_STATE.revocation_of(**CREDENTIAL) is None


HITS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"token_id": "j1"}, {"token_id": "j2"}),
    ({"token_id": "j1", "issuer": "https://idp"}, {"issuer": "https://other"}),
    ({"subject": "sub:alice"}, {"subject_id": "sub:bob"}),
    ({"subject": "sub:alice", "before": NOW - 100}, {"issued_at": NOW - 99}),
    ({"issuer": "https://idp", "before": NOW}, {"issuer": "https://other"}),
    ({"issuer": "https://idp", "before": NOW - 100}, {"issued_at": NOW - 99}),
    ({"fingerprint": ":".join(["0A"] * 32)}, {"cert_fingerprint": "0b" * 32}),
    ({"serial": "0x1AB", "issuer_dn": "cn=CA, o=ml"}, {"cert_issuer": "CN=Other"}),
    ({"serial": "01:AB", "issuer_dn": "O = ml, CN = CA"}, {"cert_serial": "2ab"}),
    ({"key_id": "batch-7"}, {"key_id": "batch-8"}),
]


@pytest.mark.parametrize(("revoked", "other"), HITS)
def test_a_revocation_hits_the_credential_it_names_and_no_other(revoked: dict[str, Any], other: dict[str, Any]) -> None:
    state = fold(revocation(**revoked))
    assert state.revocation_of(**CREDENTIAL) == "revocation 1: leaked"
    assert state.revocation_of(**{**CREDENTIAL, **other}) is None
    assert state.revocation_of(**NOTHING) is None


@pytest.mark.parametrize("revoked", [revoked for revoked, _ in HITS])
def test_a_revocation_holds_however_old_the_state_is_and_until_it_is_withdrawn(revoked: dict[str, Any]) -> None:
    made = book(revocation(**revoked))
    old = made.state(NOW_NS - 10**6 * SECOND)
    assert old.revocation_of(**CREDENTIAL) is not None
    made.apply(Change(Kind.REVOCATION, "os:root", NOW_NS, withdraw=True, id=2, **revoked))
    assert made.state(NOW_NS).revocation_of(**CREDENTIAL) is None


def test_revoking_by_time_hits_no_credential_without_a_time_of_issue() -> None:
    state = fold(revocation(subject="sub:alice", before=NOW))
    assert state.revocation_of(**{**CREDENTIAL, "issued_at": None}) is None


def test_withdrawing_one_revocation_leaves_a_wider_one_of_the_same_subject() -> None:
    state = fold(
        revocation(subject="sub:alice"),
        revocation(subject="sub:alice", before=NOW),
        revocation(subject="sub:alice", before=NOW, withdraw=True),
    )
    assert state.revocation_of(**CREDENTIAL) == "revocation 1: leaked"


def test_the_later_of_two_times_counts() -> None:
    state = fold(revocation(subject="sub:alice", before=NOW), revocation(subject="sub:alice", before=NOW - 500))
    assert state.revocation_of(**CREDENTIAL) == "revocation 1: leaked"


def test_an_approval_ends_on_its_second_and_is_its_subjects_alone() -> None:
    state = fold(approval())
    assert state.approvals_for("sub:alice", NOW_NS) == (
        Approval("security", "os:ops", NOW + 60, "p", "d1", "sub:alice", None),
    )
    assert state.approvals_for("sub:bob", NOW_NS) == ()
    assert state.approvals_for("sub:alice", NOW_NS + 30 * SECOND) != ()
    state = book(approval(expires_at=NOW + 10)).state(NOW_NS)
    assert state.approvals_for("sub:alice", NOW_NS + 10 * SECOND - 1) != ()
    assert state.approvals_for("sub:alice", NOW_NS + 10 * SECOND) == ()


def test_approvals_of_two_people_count_twice_and_of_one_person_once() -> None:
    found = fold(approval(), approval(expires_at=NOW + 90), approval(by="os:other")).approvals_for("sub:alice", NOW_NS)
    assert found is not None
    assert sorted((each.approver, each.expires_at) for each in found) == [("os:ops", NOW + 90), ("os:other", NOW + 60)]


def test_withdrawing_an_approval_takes_every_approver_and_digest_of_it() -> None:
    changes = [approval(), approval(by="os:other", policy_digest="d2"), approval(resource="model/m")]
    withdrawal = {"expires_at": None, "policy_digest": "", "withdraw": True}
    assert fold(*changes, approval(**withdrawal)).approvals_for("sub:alice", NOW_NS) == ()
    found = fold(*changes, approval(**withdrawal, resource="model/m")).approvals_for("sub:alice", NOW_NS)
    assert found is not None
    assert [each.resource for each in found] == [None, None]


def test_approvals_and_risk_of_an_old_state_are_unknown_while_what_denies_holds() -> None:
    state = fold(
        approval(expires_at=NOW + 3600),
        Change(Kind.RISK, "monitor", NOW_NS, subject="sub:alice", risk="high"),
        Change(Kind.QUARANTINE, "os:ops", NOW_NS, "odd", subject="sub:alice", expires_at=NOW + 3600),
    )
    fresh, old, back = NOW_NS + 30 * SECOND, NOW_NS + 30 * SECOND + 1, NOW_NS - 30 * SECOND - 1
    assert state.approvals_for("sub:alice", fresh)
    assert state.risk_of("sub:alice", fresh) is Risk.HIGH
    for when in (old, back):
        assert state.approvals_for("sub:alice", when) is None
        assert state.approvals_for("sub:nobody", when) is None
        assert state.risk_of("sub:alice", when) is None
        assert state.quarantine_of("sub:alice", when) == "quarantined: odd"


def test_a_quarantine_ends_on_its_second() -> None:
    state = fold(Change(Kind.QUARANTINE, "os:ops", NOW_NS, subject="sub:alice", expires_at=NOW + 10))
    assert state.quarantine_of("sub:alice", NOW_NS + 10 * SECOND - 1) == "quarantined: no reason given"
    assert state.quarantine_of("sub:alice", NOW_NS + 10 * SECOND) is None


def test_what_ended_long_ago_is_forgotten_and_what_ended_today_is_not() -> None:
    made = book(approval(), Change(Kind.QUARANTINE, "os:ops", NOW_NS, subject="sub:b", expires_at=NOW + 60))
    day = 86_400 * SECOND
    assert made.state(NOW_NS + day).approvals
    later = made.state(NOW_NS + day + 60 * SECOND)
    assert not later.approvals
    assert not later.quarantines
    assert made.active(NOW_NS) == ()


def test_a_hole_in_the_ids_is_not_passed_over() -> None:
    made = book(approval())
    with pytest.raises(ValueError, match="change 2 is missing"):
        made.apply(from_record(approval().record(), 3))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (approval(by=""), "nobody is named"),
        (approval(policy=""), "names a policy"),
        (approval(policy_digest=""), "digest"),
        (approval(expires_at=None), "ends at some time"),
        (approval(by="sub:alice"), "nobody approves for themselves"),
        (approval(subject="alice"), "typed name"),
        (approval(subject="group:ops"), "typed name"),
        (approval(resource="model"), "TYPE/ID"),
        (approval(risk="high"), "`risk` has no place in this approval"),
        (approval(expires_at=-1), "is not a time"),
        (approval(reason="a\nb"), "printable"),
        (approval(reason="x" * 2049), "printable"),
        (revocation(), "names one of"),
        (revocation(token_id="j", key_id="k"), "names one of"),
        (revocation(issuer="https://idp"), "names one of"),
        (revocation(fingerprint="abc"), "SHA-256"),
        (revocation(serial="12x", issuer_dn="CN=CA"), "serial number"),
        (revocation(serial="12", issuer_dn="CA"), "distinguished name"),
        (revocation(key_id="k", expires_at=NOW), "`expires_at` has no place in this revocation"),
        (Change(Kind.QUARANTINE, "os:ops", NOW_NS, subject="sub:a"), "ends at some time"),
        (Change(Kind.QUARANTINE, "os:ops", NOW_NS), "names a subject"),
        (Change(Kind.RISK, "m", NOW_NS, subject="sub:a", risk="odd"), "`odd` is not a risk"),
        (Change(Kind.RISK, "m", NOW_NS, risk="low"), "names a subject"),
    ],
)
def test_a_change_that_makes_no_sense_says_why(change: Change, problem: str) -> None:
    assert problem in str(change.problem())


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"kind": "approval"},
        {"kind": "later", "by": "x", "at_ns": 1},
        {"kind": "risk", "by": "x", "at_ns": 1, "surprise": 1},
        {"kind": "risk", "by": "x", "at_ns": "1"},
        {"kind": "risk", "by": "x", "at_ns": True},
        {"kind": "risk", "by": "x", "at_ns": 1, "id": 5},
        {"kind": "risk", "by": "x", "at_ns": 1, "subject": "sub:a", "risk": "odd"},
        {"kind": "quarantine", "by": "x", "at_ns": 1, "subject": "sub:a", "withdraw": 1},
    ],
)
def test_a_record_of_another_version_is_an_error_and_never_passed_over(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        from_record(record, 1)


def test_names_and_numbers_have_one_spelling() -> None:
    assert normal_hex(" 0x00:Ab:01 ") == "ab01"
    assert (normal_hex("00"), normal_hex("")) == ("0", "")
    assert normal_dn("cn=A\\, B , o = ml") == normal_dn("O=ml, CN=A\\, B") == "CN=A\\, B,O=ml"
    assert typed_subject("alice") == "sub:alice"
    assert typed_subject("spiffe://x/y") == "spiffe://x/y"
