"""What somebody can do who has the trail's key, writes its folder and has not the signing key: `verify` must say so."""

import os

import orjson
import pytest
from altered import SIGNER, Mute, abandon, add, event, files, opened, problems, start, verified, write
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trails import new_spool, open_key

from ext_authz.audit.boot import record_start
from ext_authz.audit.report import Trouble
from ext_authz.audit.segment import Kind
from ext_authz.audit.signing import FileSigner


def aged(log_id, seq, minute):
    return event(log_id, seq, time=f"2026-01-01T00:{minute:02d}:00.000000Z")


def forged_log(folder, name="worker-0", count=30, minutes=30, signer=None):
    """A log of half an hour that nobody signed, closed as a killed process leaves it."""
    spool = new_spool(folder, name, signer=signer or Mute())
    for number in range(count):
        spool.append(lambda seq, at=number: aged(spool.log_id, seq, at * minutes // count))
    spool._checkpoint("interval")
    abandon(spool)
    return spool.log_id


def test_an_unsigned_start_vouches_for_nothing(tmp_path):
    forged_log(tmp_path)
    spool = new_spool(tmp_path, signer=Mute())
    record_start(spool, "worker-0", open_key)
    abandon(spool)
    report = verified(tmp_path)
    assert report.status == 4, problems(report)
    assert "no good signature covers them" in problems(report)[0]
    assert [log.covered for log in report.logs] == [0, 0]


def test_a_history_that_was_rewritten_while_nothing_ran_is_not_signed_by_the_next_start(tmp_path):
    forged_log(tmp_path)
    start(tmp_path)
    report = verified(tmp_path)
    assert report.status == 4, problems(report)
    assert "the next start only found them so" in problems(report)[0]


def test_a_crash_leaves_little_enough_for_the_next_start_to_sign(tmp_path):
    spool = new_spool(tmp_path)
    add(spool, 20)
    spool.check()
    add(spool, 7)
    abandon(spool)
    start(tmp_path)
    report = verified(tmp_path)
    assert report.status == 0, problems(report)
    assert sorted(log.covered for log in report.logs) == [1, 27]


def test_a_forgers_key_is_not_trusted_because_the_next_start_found_it(tmp_path):
    write(tmp_path, 5, name="control")
    thief = FileSigner(Ed25519PrivateKey.generate())
    forged_log(tmp_path, signer=thief)
    start(tmp_path)
    report = verified(tmp_path)
    assert report.status == 1, problems(report)
    assert "after one of them was in use" in problems(report)[0]


def test_a_key_that_was_changed_once_for_all_is_said(tmp_path):
    old = FileSigner(Ed25519PrivateKey.generate())
    write(tmp_path, 5, signer=old)
    start(tmp_path)
    report = verified(tmp_path)
    assert report.status == 0, problems(report)
    assert "has on record as the key before" in " ".join(note for log in report.logs for note in log.notes)


@pytest.mark.parametrize("signed", [False, True])
def test_events_cannot_be_added_to_a_log_that_had_ended(tmp_path, signed):
    trail = write(tmp_path, 20, sealed=signed)
    path = files(trail)[0]
    segment = opened(path)
    start(trail)
    if signed:
        os.truncate(path, _last_event_end(path))
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(segment.seal(Kind.EVENT, event(segment.header.log_id, 21), size, 10_000, 21))
    report = verified(trail)
    assert report.status == 1, problems(report)
    assert (report.problems[0].first, report.problems[0].last) == (21, 21)
    assert "found it ended" in problems(report)[0]


def _last_event_end(path):
    records = list(opened(path).read(path.read_bytes()[288:]))
    return next(each.end for each in reversed(records) if each.kind is Kind.EVENT)


@pytest.mark.parametrize(
    ("what", "trouble"), [("retention", Trouble.INCOMPLETE), ("segment_shredded", Trouble.UNREADABLE)]
)
def test_a_removal_counts_only_where_it_is_signed(tmp_path, what, trouble):
    trail = write(tmp_path, 20, 20)
    gone = files(trail)[0]
    log_id = opened(gone).header.log_id
    (gone if what == "retention" else gone.with_suffix(".key")).unlink()
    spool = new_spool(trail, "control", signer=Mute())
    details = {"segments": {log_id: 0}}
    spool.append(lambda seq: event(spool.log_id, seq, schema="ext_authz.lifecycle/1", event=what, details=details))
    abandon(spool)
    report = verified(trail)
    assert [each.trouble for each in report.problems] == [trouble], problems(report)


def test_a_removal_counts_behind_however_many_events_of_a_log(tmp_path, monkeypatch):
    from ext_authz.audit import scan

    monkeypatch.setattr(scan, "_MAX_NOTABLE", 3)
    trail = write(tmp_path, 5, 5)
    gone = files(trail)[0]
    log_id = opened(gone).header.log_id
    gone.unlink()
    spool = new_spool(trail, "control")
    for _ in range(5):
        spool.append(lambda seq: event(spool.log_id, seq, schema="ext_authz.gap/1", count=1))
        spool.append(lambda seq: event(spool.log_id, seq, schema="ext_authz.lifecycle/1", event="sink"))
    details = {"segments": {log_id: 0}}
    spool.append(
        lambda seq: event(spool.log_id, seq, schema="ext_authz.lifecycle/1", event="retention", details=details)
    )
    spool.close()
    report = verified(trail)
    assert report.status == 0, problems(report)


def test_a_start_whose_log_names_itself_or_a_circle_gives_a_verdict(tmp_path):
    spools = [new_spool(tmp_path, name) for name in ("worker-0", "worker-1")]
    for spool, other in zip(spools, reversed(spools), strict=True):
        previous = {"log_id": other.log_id, "size": 1, "root": "00" * 32, "key": str(SIGNER.key), "ended": True}
        line = {"schema": "ext_authz.lifecycle/1", "event": "log_started", "details": {"previous": previous}}
        spool.append(lambda _, line=line: orjson.dumps(line))
        spool.close()
    assert verified(tmp_path).status == 1


@pytest.mark.parametrize("end", ["close", "certify"])
def test_a_signer_that_answers_after_a_later_checkpoint_or_the_seal_alters_nothing(tmp_path, end):
    """The thread that looks after the log waits for the signer, while somebody else ends it or asks for a signature."""
    spool = new_spool(tmp_path)
    add(spool, 3)

    class Overtaken:
        key = SIGNER.key

        def sign(self, message):
            spool.ledger.signer = SIGNER
            add(spool, 2)
            getattr(spool, end)()
            return SIGNER.sign(message)

    spool.ledger.signer = Overtaken()
    if end == "close":
        seal = spool._sync
        spool._sync = lambda: spool._record(Kind.CHECKPOINT, b"late", 3) or seal()
    spool._checkpoint("interval")
    spool.close()
    report = verified(tmp_path)
    assert report.status == 0, problems(report)
    assert report.logs[0].covered == 5
