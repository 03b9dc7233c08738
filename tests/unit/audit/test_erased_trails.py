"""What somebody can do who may write the trail's folder and has no key at all, or only the trail's: `verify` says so."""

import struct
import time

import pytest
from altered import Mute, abandon, add, digest, event, files, problems, shredded, start, verified, write
from trails import new_spool

from ext_authz.audit.report import State

PAST_NS = 500_000_000_000


def five(folder):
    """Five segments of one log; the fourth was shredded on record."""
    trail = write(folder / "audit", 50, 60, 70, 80, 90)
    log_id, path = verified(trail).logs[0].log, files(trail)[3]
    path.with_suffix(".key").unlink()
    shredded(trail, log_id, 3, digest(path))
    assert verified(trail).status == 0
    return trail


@pytest.mark.parametrize("left", [0, 100, 288, 4096])
@pytest.mark.parametrize("decrypt", [True, False])
def test_a_log_whose_first_segment_was_blanked_lacks_its_events(tmp_path, left, decrypt):
    trail = write(tmp_path / "audit", 50, 60, 70)
    files(trail)[0].write_bytes(bytes(left))
    report = verified(trail, decrypt=decrypt)
    assert report.status == 4
    assert any("events 0-50 are missing" in each for each in problems(report))


def test_a_log_whose_first_segment_after_those_removed_in_time_was_blanked_is_incomplete(tmp_path):
    trail = write(tmp_path / "audit", 50, 60, 70)
    log_id = verified(trail).logs[0].log
    spool = new_spool(trail, "control")
    spool.append(
        lambda seq: event(
            spool.log_id, seq, schema="ext_authz.lifecycle/1", event="retention", details={"segments": {log_id: 0}}
        )
    )  # fmt: skip
    spool.close()
    files(trail, "worker-0")[0].unlink()
    assert verified(trail).status == 0
    files(trail, "worker-0")[0].write_bytes(bytes(4096))
    report = verified(trail)
    assert report.status == 4
    assert "has no header, and nothing shows what it held" in problems(report)[0]


def test_a_blanked_start_does_not_hide_that_the_log_before_it_was_cut_off(tmp_path):
    trail = write(tmp_path / "audit", 50, sealed=False)
    first = files(trail)[0]
    spool = new_spool(trail, clock_ns=lambda: time.time_ns() + PAST_NS)
    spool.close()
    write(trail, 10, 10, clock_ns=lambda: time.time_ns() + 2 * PAST_NS)
    files(trail)[-2].write_bytes(bytes(300))
    first.write_bytes(first.read_bytes()[:1500])
    assert verified(trail).status == 4


def test_a_shredded_segment_excuses_no_missing_one_before_it(tmp_path):
    trail = five(tmp_path)
    files(trail, "worker-0")[2].unlink()
    report = verified(trail)
    assert report.status == 4
    assert "events 111-180 are missing" in problems(report)[0]


def test_a_shredded_segments_header_is_not_believed_that_it_repeats_what_came_before(tmp_path):
    trail = five(tmp_path)
    first, second, third, gone, _ = files(trail, "worker-0")
    data = bytearray(gone.read_bytes())
    data[16:24] = struct.pack(">Q", 20)
    gone.write_bytes(data)
    second.unlink()
    third.unlink()
    assert first.exists()
    report = verified(trail)
    assert report.status == 1
    assert "its header is another than when its key was deleted" in problems(report)[0]


def test_a_shredding_that_does_not_say_which_header_there_was_vouches_for_nothing(tmp_path):
    trail = write(tmp_path / "audit", 50, 60, 70)
    files(trail)[1].with_suffix(".key").unlink()
    shredded(trail, verified(trail).logs[0].log, 1, None)
    report = verified(trail)
    assert report.status == 3
    assert "has not the digest of its header" in problems(report)[0]


def test_a_log_that_nobody_signed_and_no_start_names_was_put_there(tmp_path):
    trail = write(tmp_path / "audit", 50)
    start(trail)
    forged = new_spool(trail, signer=Mute(), clock_ns=lambda: time.time_ns() - PAST_NS)
    add(forged, 50)
    abandon(forged)
    report = verified(trail)
    assert report.status == 4
    assert problems(report) == [
        f"incomplete: {forged.log_id}: events 0-49 no good signature covers them, and no start has them on record"
    ]


def test_a_log_killed_before_its_first_checkpoint_is_whole_where_the_next_start_names_it(tmp_path):
    killed = new_spool(tmp_path, clock_ns=lambda: time.time_ns() - PAST_NS)
    add(killed, 5)
    abandon(killed)
    assert verified(tmp_path).status == 0
    start(tmp_path)
    assert verified(tmp_path).status == 0


def test_all_logs_of_one_process_are_missing_where_another_was_started_since(tmp_path):
    trail = write(tmp_path / "audit", 50, name="worker-1")
    write(trail, 20, name="worker-1", clock_ns=lambda: time.time_ns() + PAST_NS)
    named = files(trail, "worker-1")[-1].name[:-11]
    start(trail, "worker-0")
    assert verified(trail).status == 0
    for path in files(trail, "worker-1"):
        path.unlink()
    report = verified(trail)
    assert report.status == 4
    assert f"{named}: the log is missing, and no event says that it was removed" in problems(report)[0]
    spool = new_spool(trail, "control")
    told = {"segments": {named: 0}, "kept": []}
    spool.append(lambda seq: event(spool.log_id, seq, schema="ext_authz.lifecycle/1", event="retention", details=told))
    spool.close()
    assert verified(trail).status == 0


def test_a_log_that_could_not_be_read_at_the_next_start_may_have_been_cut_off_since(tmp_path):
    trail = write(tmp_path / "audit", 50, 60, sealed=False, clock_ns=lambda: time.time_ns() - PAST_NS)
    last = files(trail)[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:600] + bytes(20) + whole[620:])
    start(trail)
    last.write_bytes(whole)
    for cut in (len(whole), None):
        last.write_bytes(whole[:cut]) if cut else last.unlink()
        report = verified(trail)
        assert report.status == 4
        assert "nothing shows where it ended: the next start, " in problems(report)[0]
        assert "could not read it (its last segment is damaged)" in problems(report)[0]


def test_a_sealed_log_needs_no_start_that_could_read_it(tmp_path):
    trail = write(tmp_path / "audit", 50, clock_ns=lambda: time.time_ns() - PAST_NS)
    last = files(trail)[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:600] + bytes(20) + whole[620:])
    start(trail)
    last.write_bytes(whole)
    report = verified(trail)
    assert (report.status, report.logs[0].state) == (0, State.SEALED)
