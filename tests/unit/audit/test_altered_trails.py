"""What a hand, a crash or a thief does to a trail, and what `verify` says of it: the status, and where it is."""

import os
import shutil
import time

import orjson
import pytest
from altered import (
    SIGNER,
    abandon,
    add,
    bounds,
    copied,
    digest,
    event,
    files,
    flip,
    frames,
    opened,
    scanned,
    shredded,
    verified,
    write,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trails import EVERYTHING, entries, lines, new_spool, open_key

from ext_authz.audit.anchors import Anchors, Copies, read_anchors
from ext_authz.audit.boot import start_details
from ext_authz.audit.checkpoint import Checkpoint, sign
from ext_authz.audit.event import checkpoint_event
from ext_authz.audit.merkle import leaf_hash
from ext_authz.audit.report import State, Trouble
from ext_authz.audit.segment import HEADER_BYTES, Kind
from ext_authz.audit.signing import FileSigner
from ext_authz.audit.verify import Verifier
from ext_authz.envelope.keys.memory import MemoryKey


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three segments of one log; written once, copied by who changes it."""
    return write(tmp_path_factory.mktemp("whole") / "audit", 50, 60, 70)


@pytest.fixture
def trail(whole, tmp_path):
    return copied(whole, tmp_path / "audit")


def only(report):
    """The one problem that there is."""
    assert len(report.problems) == 1, [str(each) for each in report.problems]
    return report.problems[0]


def test_a_sealed_log_of_several_segments_is_whole(trail):
    report = verified(trail)
    assert report.status == 0, [str(each) for each in report.problems]
    log = report.logs[0]
    assert (log.state, log.segments, log.events, log.covered) == (State.SEALED, 3, 181, 181)
    assert log.keys == [str(SIGNER.key)]
    assert log.notes == []


def test_a_log_that_is_being_written_is_whole_and_open(tmp_path):
    spool = new_spool(tmp_path)
    add(spool, 5)
    spool.check()
    add(spool, 3)
    report = verified(tmp_path)
    assert (report.status, report.logs[0].state, report.logs[0].events) == (0, State.OPEN, 8)
    assert report.logs[0].notes == ["the last 3 events are behind the last checkpoint"]
    spool.close()
    assert verified(tmp_path).logs[0].state is State.SEALED


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_bit_of_a_sealed_trail_can_be_flipped_unseen(whole, tmp_path_factory, data):
    trail = copied(whole, tmp_path_factory.mktemp("flip") / "audit")
    path = data.draw(st.sampled_from(files(trail)))
    flip(path, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7)))
    report = verified(trail)
    assert report.status in (1, 3, 4)
    # A version or an algorithm that is not known is unreadable, and what it held is missing: 4 goes before 3.
    assert {problem.trouble for problem in report.problems} & {Trouble.ALTERED, Trouble.UNREADABLE}
    assert any(problem.segment == path.name for problem in report.problems)


def test_a_flipped_bit_is_named_by_segment_byte_and_event(trail):
    path = files(trail)[1]
    begin, end = bounds(path)[10]
    seq = frames(path)[10].seq
    flip(path, begin + 40)
    report = verified(trail)
    assert report.status == 1
    bad, missing = report.problems
    assert (bad.trouble, bad.segment, bad.offset) == (Trouble.ALTERED, path.name, begin)
    assert (missing.trouble, missing.first, missing.last) == (Trouble.INCOMPLETE, seq, seq)
    assert f"altered: {path.name}: at byte {begin} {end - begin} bytes are not as they were written" in str(bad)


def test_a_flipped_bit_in_the_last_frame_is_no_crash(tmp_path):
    trail = write(tmp_path / "audit", 30, sealed=False)
    path = files(trail)[0]
    flip(path, path.stat().st_size - 1)
    report = verified(trail)
    assert report.status == 1
    assert report.problems[0].offset == bounds(path)[-1][0]


def test_swapped_frames_are_altered(trail):
    path = files(trail)[0]
    (a, b), (c, d) = bounds(path)[5], bounds(path)[6]
    data = path.read_bytes()
    path.write_bytes(data[:a] + data[c:d] + data[a:b] + data[d:])
    assert verified(trail).status == 1


def test_a_frame_cut_out_is_altered(trail):
    path = files(trail)[0]
    a, b = bounds(path)[5]
    data = path.read_bytes()
    path.write_bytes(data[:a] + data[b:])
    report = verified(trail)
    assert report.status == 1
    assert report.problems[0].offset == a


def test_swapped_segments_are_altered(trail):
    first, second, _ = files(trail)
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    report = verified(trail)
    assert report.status == 1
    assert {each.segment for each in report.problems} >= {first.name, second.name}
    assert "holds another segment than its name says" in str(report.problems[0])


def test_a_deleted_segment_is_missing_with_its_events_and_the_rest_is_still_proven(trail):
    gone = files(trail)[1]
    gone.unlink()
    report = verified(trail)
    assert report.status == 4
    problem = only(report)
    assert (problem.first, problem.last) == (51, 110)
    assert report.logs[0].covered == 181


def test_a_deleted_beginning_is_missing_unless_an_event_says_that_it_was_removed(trail):
    for path in files(trail)[:2]:
        path.unlink()
    report = verified(trail)
    assert report.status == 4
    assert "the segments before 2 are missing" in only(report).text
    assert report.logs[0].covered == 181
    log_id = report.logs[0].log
    spool = new_spool(trail, "control")
    for number in (0, 1):
        spool.append(
            lambda seq, n=number: event(
                spool.log_id, seq, schema="ext_authz.lifecycle/1", event="retention", details={"segments": {log_id: n}}
            )
        )  # fmt: skip
    spool.close()
    report = verified(trail)
    assert (report.status, sum(log.removed for log in report.logs)) == (0, 2)


def test_a_deleted_key_makes_a_segment_unreadable_unless_an_event_says_that_it_was_shredded(trail):
    path = files(trail)[1]
    path.with_suffix(".key").unlink()
    report = verified(trail)
    assert report.status == 3
    assert "its key was deleted (shredded), and no event says so" in only(report).text
    assert report.logs[0].shredded == [path.name]
    assert report.logs[0].covered == 181
    shredded(trail, report.logs[0].log, 1, digest(path))
    assert verified(trail).status == 0


def test_another_key_for_the_trail_cannot_decrypt_it(trail):
    report = Verifier([trail], lambda: MemoryKey("others"), [SIGNER.key]).run()
    assert report.status == 3
    assert len(report.problems) == 3


def test_without_decrypting_the_frames_order_and_number_are_looked_at(trail):
    report = Verifier([trail], None, None, decrypt=False).run()
    assert (report.status, report.logs[0].events, report.content) == (0, 181, False)
    files(trail)[1].unlink()
    assert Verifier([trail], None, None, decrypt=False).run().status == 4


@pytest.mark.parametrize("decrypt", [True, False])
def test_a_hole_of_zeros_or_a_torn_end_before_another_segment_is_incomplete_and_other_damage_altered(tmp_path, decrypt):
    trail = write(tmp_path / "audit", 40, 20)
    path = files(trail)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
    report = verified(trail, decrypt=decrypt)
    assert report.status == 4
    assert all(each.trouble is Trouble.INCOMPLETE for each in report.problems)
    assert "missing" in " ".join(str(each) for each in report.problems)
    assert ("hold zeros" in " ".join(str(each) for each in report.problems)) is decrypt
    path.write_bytes(whole[: bounds(path)[3][1] + 20])
    assert verified(trail, decrypt=decrypt).status == 4
    path.write_bytes(whole[:4096] + b"x" * 4096 + whole[8192:])
    assert verified(trail, decrypt=decrypt).status == 1


def test_a_log_cut_back_within_a_frame_is_what_a_killed_process_leaves(tmp_path):
    trail = write(tmp_path / "audit", 30, sealed=False)
    path = files(trail)[0]
    os.truncate(path, path.stat().st_size - 7)
    report = verified(trail)
    assert (report.status, report.logs[0].state) == (0, State.UNSEALED)
    assert "ends within a frame" in " ".join(report.logs[0].notes)


def test_a_log_that_runs_into_zeros_is_what_a_power_failure_leaves(tmp_path):
    trail = write(tmp_path / "audit", 30, sealed=False)
    path = files(trail)[0]
    size = path.stat().st_size
    data = bytearray(path.read_bytes())
    for at in range(size // 512 * 512, size):
        data[at] = 0
    path.write_bytes(data + bytes(4096))
    report = verified(trail)
    assert report.status == 0, [str(each) for each in report.problems]
    assert "ends in zeros" in " ".join(report.logs[0].notes)


def test_a_truncated_log_is_shown_by_the_next_start(tmp_path):
    trail = write(tmp_path / "audit", 30, sealed=False)
    first = files(trail)[0]
    write(trail, 5)
    assert verified(trail).status == 0
    os.truncate(first, bounds(first)[20][0])
    report = verified(trail)
    assert report.status == 4
    assert "the next start" in only(report).text


def test_a_whole_log_that_is_gone_is_shown_by_the_next_start(tmp_path):
    trail = write(tmp_path / "audit", 30)
    old = files(trail)
    write(trail, 5)
    for path in old:
        path.unlink()
    report = verified(trail)
    assert report.status == 4
    assert "the log is missing" in only(report).text


def test_a_truncated_sealed_log_without_a_next_start_shows_by_an_anchor_alone(trail):
    head = scanned(files(trail)[2]).marks[-1]
    path = files(trail)[2]
    os.truncate(path, bounds(path)[10][0])
    assert verified(trail).status == 0  # nothing here can tell; docs/audit.md says so
    note = trail.parent / "kept"
    note.write_text(head.note)
    report = verified(trail, against=read_anchors(note, [SIGNER.key]))
    assert report.status == 4
    assert "a checkpoint that was kept has 181 events, the log ends at 1" in only(report).text


def test_an_old_folder_put_back_shows_by_a_sinks_copy(tmp_path):
    spool = new_spool(tmp_path / "audit")
    add(spool, 20)
    spool.check()
    old = copied(tmp_path / "audit", tmp_path / "old")
    add(spool, 20)
    spool.close()
    sink = tmp_path / "sink.jsonl"
    sink.write_bytes(b"\n".join(lines(tmp_path / "audit")) + b"\n")
    assert verified(tmp_path / "audit", against=read_anchors(sink, [SIGNER.key])).status == 0
    shutil.rmtree(tmp_path / "audit")
    old.rename(tmp_path / "audit")
    assert verified(tmp_path / "audit").status == 0
    report = verified(tmp_path / "audit", against=read_anchors(sink, [SIGNER.key]))
    assert report.status == 4
    assert (only(report).first, only(report).last) == (20, 39)


def test_an_event_that_a_sink_has_otherwise_is_named(trail):
    log_id = verified(trail).logs[0].log
    anchors = Anchors()
    copies = anchors.copies[log_id] = Copies()
    for seq, line in enumerate(lines(trail)):
        copies.add(seq, leaf_hash(line if seq != 77 else line.replace(b"allow", b"denyy")))
    report = verified(trail, against=anchors)
    assert report.status == 1
    assert (only(report).first, only(report).text) == (77, "is another than in the copy")


def test_a_checkpoint_of_another_history_is_altered(trail, tmp_path):
    other = write(tmp_path / "other", 40)
    mark = scanned(files(other)[0]).marks[-1]
    log_id = verified(trail).logs[0].log
    from ext_authz.audit.checkpoint import Checkpoint

    anchors = Anchors()
    anchors.add_head(Checkpoint(f"ext-authz/{log_id}", mark.size, mark.root))
    report = verified(trail, against=anchors)
    assert report.status == 1
    assert "other roots" in only(report).text


def test_a_trail_resealed_without_the_signing_key_is_altered(tmp_path):
    """The thief has the trail's key, and writes another log in the place of the old one."""
    thief = FileSigner(Ed25519PrivateKey.generate())
    trail = write(tmp_path / "audit", 40, signer=thief)
    assert verified(trail, keys=[thief.key]).status == 0
    report = verified(trail)
    assert report.status == 1
    assert "none of the trusted keys" in str(report.problems[0])


def test_a_trail_without_signatures_is_not_whole(tmp_path):
    class Silent:
        key = SIGNER.key

        def sign(self, message):
            raise OSError("away")

    trail = write(tmp_path / "audit", 40, signer=Silent())
    report = verified(trail)
    assert report.status == 4
    assert only(report).text == "no good signature covers them"
    assert (only(report).first, only(report).last) == (0, 40)


def test_a_frame_resealed_by_somebody_with_the_data_key_breaks_the_signed_root(trail):
    path = files(trail)[0]
    segment = opened(path)
    at, end = bounds(path)[20]
    record = frames(path)[20]
    assert record.kind is Kind.EVENT
    data = path.read_bytes()
    counter = int.from_bytes(data[at + 4 : at + 8])
    events = int.from_bytes(data[at + 8 : at + 12])
    forged = segment.seal(1, record.payload.replace(b"allow", b"ALLOW"), at, counter, events)
    assert len(forged) == end - at
    path.write_bytes(data[:at] + forged + data[end:])
    report = verified(trail)
    assert report.status == 1
    assert any(
        "has another root than the events" in each.text or "other roots" in each.text for each in report.problems
    )


def test_an_event_added_behind_the_seal_is_altered(trail):
    path = files(trail)[2]
    segment = opened(path)
    size = path.stat().st_size
    log_id = segment.header.log_id
    with path.open("ab") as file:
        file.write(segment.seal(1, event(log_id, 181), size, 10_000, 70))
    report = verified(trail)
    assert report.status == 1
    assert any("behind the seal" in each.text for each in report.problems)


def test_a_wrapped_key_of_another_segment_is_altered(trail):
    first, second, _ = files(trail)
    first.with_suffix(".key").write_bytes(second.with_suffix(".key").read_bytes())
    report = verified(trail)
    assert report.status == 1
    assert only(report).segment == first.name


def test_a_changed_signing_key_is_trusted_for_the_old_logs_by_what_the_new_one_signed(tmp_path):
    old = FileSigner(Ed25519PrivateKey.generate())
    trail = write(tmp_path / "audit", 20, signer=old)
    write(trail, 10, signer=old)
    write(trail, 5)
    report = verified(trail)
    assert report.status == 0, [str(each) for each in report.problems]
    told = [line for line in lines(trail) if b"signing_key_changed" in line]
    assert len(told) == 1
    assert str(old.key).encode() in told[0]


def test_a_failed_disks_repeated_events_count_once_and_must_be_the_same(tmp_path):
    spool = new_spool(tmp_path / "audit")
    add(spool, 10)
    assert spool.sync()
    add(spool, 6)
    spool.keys.wait(1, 5)
    with spool._disk_lock:
        assert spool._renew()
    add(spool, 4)
    spool.close()
    report = verified(tmp_path / "audit")
    assert report.status == 0, [str(each) for each in report.problems]
    assert report.logs[0].events == 20
    assert "its last 6 events stand in the next segment too" in report.logs[0].notes[0]
    # What stands twice may be lost in the file that was given up, and nowhere else.
    first, second = files(tmp_path / "audit")
    os.truncate(first, bounds(first)[-2][0] + 3)
    assert verified(tmp_path / "audit").status == 0
    flip(second, bounds(second)[3][0] + 30)
    assert verified(tmp_path / "audit").status == 1


def test_a_log_of_which_only_a_part_of_the_header_was_written_is_whole(tmp_path):
    trail = write(tmp_path / "audit", 30, sealed=False)
    path = files(trail)[0]
    torn = path.with_name(path.name.replace(".000000.", ".000001."))
    torn.write_bytes(path.read_bytes()[: HEADER_BYTES - 5])
    assert verified(trail).status == 0


def test_scanning_in_processes_finds_the_same(trail, monkeypatch):
    from ext_authz.audit import verify

    monkeypatch.setattr(verify, "PARALLEL_BYTES", 0)
    flip(files(trail)[1], 3000)
    moved = []
    one, two = verified(trail, moved=moved.append), verified(trail, processes=2)
    assert one.plain() == two.plain()
    assert sum(moved) == sum(path.stat().st_size for path in files(trail))


def test_a_start_says_what_it_found_and_never_fails(tmp_path):
    folder = write(tmp_path / "audit", 20, sealed=False)
    path = files(folder)[0]
    log_id = opened(path).header.log_id
    found = start_details(folder, "new", "worker-0", "key", open_key)
    assert found["previous"]["log_id"] == log_id
    assert (found["previous"]["size"], found["previous"]["sealed"]) == (21, False)
    assert found["previous"]["key"] == str(SIGNER.key)
    assert "previous" not in start_details(folder, "new", "worker-1", "key", open_key)
    flip(path, bounds(path)[4][0] + 20)
    assert (
        start_details(folder, "new", "worker-0", "key", open_key)["previous"]["problem"]
        == "its last segment is damaged"
    )
    path.with_suffix(".key").unlink()
    assert "its key was deleted" in start_details(folder, "new", "worker-0", "key", open_key)["previous"]["problem"]
    os.truncate(path, 100)
    assert start_details(folder, "new", "worker-0", "key", open_key)["previous"]["size"] == 0


def everything(folder) -> bytes:
    """A sink's copy: every frame, checkpoints too."""
    return b"\n".join(entry.line for entry in entries(folder, kinds=EVERYTHING)) + b"\n"


def test_a_copy_with_checkpoints_of_an_older_key_is_taken_where_that_key_is_on_record(tmp_path):
    old = FileSigner(Ed25519PrivateKey.generate())
    trail = write(tmp_path / "audit", 20, signer=old)
    sink = tmp_path / "copy.jsonl"
    sink.write_bytes(everything(trail))
    assert verified(trail, against=read_anchors(sink, [SIGNER.key])).status == 1
    write(trail, 5)
    report = verified(trail, against=read_anchors(sink, [SIGNER.key]))
    assert report.status == 0, [str(each) for each in report.problems]


def test_a_copy_whose_checkpoints_a_stranger_signed_is_altered(trail, tmp_path):
    sink = tmp_path / "copy.jsonl"
    thief = FileSigner(Ed25519PrivateKey.generate())
    event_of = orjson.loads(entries(trail, kinds=(Kind.SEAL,))[0].line)
    head = Checkpoint(f"ext-authz/{event_of['log_id']}", event_of["size"], bytes.fromhex(event_of["root"]))
    sink.write_bytes(orjson.dumps({**event_of, "key": str(thief.key), "note": sign(head, thief)}) + b"\n")
    report = verified(trail, against=read_anchors(sink, [SIGNER.key]))
    assert report.status == 1
    assert "none of the trusted keys" in only(report).text
    sink.write_bytes(
        orjson.dumps({**event_of, "note": event_of["note"].replace("\n181\n", "\n180\n")}) + b"\nnothing\n"
    )
    report = verified(trail, against=read_anchors(sink, [SIGNER.key]))
    assert report.status == 1
    assert "not that key's" in only(report).text
    assert report.notes == ["1 lines of the copy are no events of the trail"]


def test_a_log_that_was_removed_on_record_may_be_in_a_copy(tmp_path):
    trail = write(tmp_path / "audit", 20)
    sink = tmp_path / "copy.jsonl"
    sink.write_bytes(everything(trail))
    gone = files(trail)[0]
    log_id = opened(gone).header.log_id
    gone.unlink()
    spool = new_spool(trail, "control")
    add(spool, 1)
    assert verified(trail, against=read_anchors(sink, [SIGNER.key])).status == 4
    spool.append(
        lambda seq: event(
            spool.log_id, seq, schema="ext_authz.lifecycle/1", event="retention", details={"segments": {log_id: 0}}
        )
    )  # fmt: skip
    spool.close()
    assert verified(trail, against=read_anchors(sink, [SIGNER.key])).status == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    what=st.sampled_from(["size", "root", "nodes", "note", "key", "time", "cause", "schema", "seq"]),
    value=json_values,
    kind=st.sampled_from([Kind.CHECKPOINT, Kind.SEAL, Kind.EVENT]),
)
def test_whatever_somebody_with_the_trails_key_writes_gives_a_verdict(tmp_path_factory, what, value, kind):
    folder = tmp_path_factory.mktemp("hostile") / "audit"
    spool = new_spool(folder)
    add(spool, 3)
    spool.check()
    made = orjson.loads(entries(folder, kinds=(Kind.CHECKPOINT,))[-1].line)
    spool._record(kind, orjson.dumps({**made, what: value}))
    spool._record(Kind.EVENT, orjson.dumps({
        "schema": "ext_authz.lifecycle/1", "event": "log_started", "details": {"previous": {"log_id": value, "size": value, "root": value, "key": value}},
    }))  # fmt: skip
    abandon(spool)
    write(folder, 1)
    assert verified(folder).status in (0, 1, 4)
    assert Verifier([folder], open_key, None).run().status in (0, 1, 4)


def test_the_report_says_which_keys_are_still_needed_and_when_the_clock_went_back(tmp_path):
    spool = new_spool(tmp_path)
    add(spool, 3)
    spool.check()
    yesterday = time.time_ns() - 86_400_000_000_000
    spool._record(
        Kind.CHECKPOINT, checkpoint_event(spool.ledger.checkpoint(), cause="interval", seq=3, now_ns=yesterday)
    )
    spool.close()
    report = verified(tmp_path)
    assert report.status == 0
    assert list(report.logs[0].wrapped_by.values()) == [1]
    assert "the clock went back" in report.logs[0].notes[0]
    assert (report.logs[0].checkpoints, report.logs[0].signed) == (3, 3)
