"""The log of one writer: whole lines or nothing, and nothing trusted after a failed fdatasync."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from trails import EVERYTHING, SIGNER, Trail, entries, fail_one_sync, lines, new_spool, trail

from ext_authz.audit.segment import HEADER_BYTES, frames
from ext_authz.audit.spool import DROPPED, AuditUnavailable, Limits, Spool
from ext_authz.audit.trail import segment_of, segments
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.envelope.keys.keyring import create_keyring
from ext_authz.envelope.keys.memory import MemoryKey


@pytest.fixture
def spool(tmp_path: Path) -> Any:
    made = new_spool(tmp_path / "audit")
    yield made
    made.close()


def line(seq: int) -> bytes:
    return b'{"seq":%d}' % seq


def contents(spool: Spool) -> bytes:
    """The events of each segment as it stands on the disk, whether another has them too or not."""
    found = segments(spool.directory)
    return b"|".join(b"".join(entry.line + b"\n" for entry in entries(each.path)) for each in found)


def fail(error: int) -> Any:
    def raising(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    return raising


def test_events_are_in_the_file_when_append_returns_and_seq_counts_from_zero(spool: Spool) -> None:
    assert [spool.append(line) for _ in range(3)] == [0, 1, 2]
    assert contents(spool) == b'{"seq":0}\n{"seq":1}\n{"seq":2}\n'


def test_every_start_is_a_log_of_its_own_for_its_owner_alone(spool: Spool) -> None:
    other = new_spool(spool.directory)
    assert other.log_id != spool.log_id
    assert other.query_key == spool.query_key
    assert len(spool.query_key) == 32
    other.close()
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700
    for path in spool.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert [found.writer for found in segments(spool.directory)] == ["worker-0", "worker-0"]
    assert b"seq" not in segments(spool.directory)[0].path.read_bytes()


def test_a_folder_that_others_can_write_or_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o770)
    with pytest.raises(AuditUnavailable, match="others can write it"):
        new_spool(tmp_path / "open")
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(AuditUnavailable, match="not a directory"):
        new_spool(tmp_path / "link")


def test_a_missing_or_unwritable_place_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AuditUnavailable):
        new_spool(tmp_path / "file" / "audit")


def test_a_damaged_key_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir(mode=0o700)
    (tmp_path / "audit" / "query.key").write_bytes(b"short")
    with pytest.raises(AuditUnavailable, match="not a key"):
        new_spool(tmp_path / "audit")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failed_write_leaves_no_trace_and_its_seq_is_used_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    spool.append(line)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail(error))
        with pytest.raises(AuditUnavailable):
            spool.append(line)
    assert spool.append(line) == 1
    assert contents(spool) == b'{"seq":0}\n{"seq":1}\n'
    assert spool.failures == 1


def test_a_short_write_is_cut_back_to_whole_lines(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.append(line)
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:4]))
        with pytest.raises(AuditUnavailable, match="short write"):
            spool.append(line)
    assert contents(spool) == b'{"seq":0}\n'
    spool.append(line)
    assert contents(spool) == b'{"seq":0}\n{"seq":1}\n'


def test_a_file_that_cannot_be_cut_back_takes_nothing_until_it_can(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", fail(errno.EIO))
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:4]))
        with pytest.raises(AuditUnavailable):
            spool.append(line)
        patched.setattr(os, "write", real)
        with pytest.raises(AuditUnavailable):
            spool.append(line)
    spool.append(line)
    assert contents(spool) == b'{"seq":0}\n'


def test_a_maker_that_fails_leaves_the_log_as_it_was(spool: Spool) -> None:
    def broken(_: int) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        spool.append(broken)
    assert spool.append(line) == 0


def test_after_a_failed_fdatasync_what_was_not_durable_begins_a_new_segment(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(line)
    assert spool.sync()
    spool.append(line)
    calls = fail_one_sync(monkeypatch)
    assert spool.sync()
    spool.append(line)
    assert contents(spool) == b'{"seq":0}\n{"seq":1}\n|{"seq":1}\n{"seq":2}\n'
    assert [found.number for found in segments(spool.directory)] == [0, 1]
    assert len(set(calls)) == 2
    assert spool.sync()


def test_while_no_disk_takes_it_appends_are_refused_and_no_files_pile_up(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(line)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail(errno.EIO))
        for _ in range(3):
            assert not spool.sync()
        with pytest.raises(AuditUnavailable, match="the disk failed"):
            spool.append(line)
        assert len(segments(spool.directory)) == 1
    assert spool.sync()
    assert spool.append(line) == 1
    assert contents(spool) == b'{"seq":0}\n|{"seq":0}\n{"seq":1}\n'


def test_a_segment_that_somebody_removed_is_followed_by_a_new_one(spool: Spool) -> None:
    spool.append(line)
    spool.check()
    assert len(segments(spool.directory)) == 1
    segments(spool.directory)[0].path.unlink()
    spool.check()
    spool.append(line)
    assert contents(spool) == b'{"seq":0}\n{"seq":1}\n'
    assert segments(spool.directory)[0].number == 1


def test_a_forked_child_and_a_closed_log_take_nothing(spool: Spool) -> None:
    spool._pid += 1
    with pytest.raises(AuditUnavailable, match="another process"):
        spool.append(line)
    assert not spool.sync()
    spool._pid -= 1
    spool.close()
    spool.close()
    with pytest.raises(AuditUnavailable, match="closed"):
        spool.append(line)


def test_many_threads_append_whole_lines_in_order(spool: Spool) -> None:
    threads = [threading.Thread(target=lambda: [spool.append(line) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines(spool.directory) == [line(seq) for seq in range(800)]


_LIMITED = """
import resource, sys
from pathlib import Path
from trails import new_spool
from ext_authz.audit.spool import AuditUnavailable, Limits
spool = new_spool(Path(sys.argv[1]), keys=FileKeys.load(Path(sys.argv[2])), limits=Limits(drop=sys.argv[3] == "drop"))
resource.setrlimit(resource.RLIMIT_FSIZE, (spool.size + 1000, resource.RLIM_INFINITY))
refused = 0
for _ in range(100):
    try:
        refused += spool.append(lambda seq: b'{"seq":%d,"pad":"xxxxxxxx"}' % seq) == -1
    except AuditUnavailable:
        refused += 1
assert refused == spool.missed, (refused, spool.missed)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append(lambda seq: b'{"last":%d}' % seq)
spool.check()
print(refused, spool.seq)
"""


@pytest.mark.parametrize("on_full", ["deny", "drop"])
def test_a_real_size_limit_tears_no_frame_and_the_gap_is_recorded_with_its_exact_count(
    tmp_path: Path, on_full: str
) -> None:
    keyring = tmp_path / "audit.key"
    create_keyring(keyring, keyring_id=b"12345678", key=bytes(range(32)), now=0)
    code = "from ext_authz.envelope.keys.file import FileKeys\n" + _LIMITED
    support = Path(__file__).parents[2] / "support"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "audit"), str(keyring), on_full],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": f"{Path.cwd()}:{support}"},
    )
    refused, seq = map(int, ran.stdout.split())
    found = Trail([tmp_path / "audit"], lambda: FileKeys.load(keyring))
    events = [entry.event for entry in found.entries()]
    assert refused > 0
    assert found.damaged == 0
    assert len(events) == seq == 102 - refused
    assert events[-2] == {"last": seq - 2}
    assert events[-1]["schema"] == "ext_authz.gap/1"
    assert events[-1]["count"] == refused


def test_the_nonce_of_a_frame_that_was_not_written_whole_is_never_used_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(line)
    real, sealed = os.write, []

    def half(fd: int, data: bytes) -> int:
        sealed.append(bytes(data))
        return real(fd, data[: len(data) // 2])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        for _ in range(3):
            with pytest.raises(AuditUnavailable):
                spool.append(line)
    spool.append(line)
    data = segments(spool.directory)[0].path.read_bytes()[HEADER_BYTES:]
    counters = [data[each.start - HEADER_BYTES + 4 : each.start - HEADER_BYTES + 8] for each in frames(data)]
    counters += [each[4:8] for each in sealed]
    assert len(set(counters)) == len(counters) == 6


def test_a_batch_is_one_write_and_its_events_follow_each_other(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real, writes = os.write, []
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(1) or real(fd, data))
    assert spool.append_all([line] * 5) == 5
    assert len(writes) == 1
    assert spool.append(line) == 5
    assert lines(spool.directory) == [line(seq) for seq in range(6)]


def test_of_a_batch_that_was_written_in_part_the_whole_events_stay(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:100]))
        assert spool.append_all([line] * 5) == 2
    assert lines(spool.directory) == [line(0), line(1)]
    assert spool.append(line) == 2
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail(errno.ENOSPC))
        assert spool.append_all([line] * 5) == 0
    assert lines(spool.directory) == [line(seq) for seq in range(3)]


def test_batches_stop_at_the_limit_too(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, limits=Limits(max_bytes=10_000))
    while spool.append_all([line] * 10):
        pass
    assert 9_000 < sum(each.path.stat().st_size for each in segments(tmp_path)) <= 10_000
    assert spool.tight
    spool.close()


def test_at_the_limit_of_the_whole_trail_deny_refuses_and_drop_counts(tmp_path: Path) -> None:
    for drop in (False, True):
        spool = new_spool(tmp_path / str(drop), limits=Limits(max_bytes=10_000, drop=drop))
        refused = 0
        for _ in range(1000):
            try:
                refused += spool.append(line) == DROPPED
            except AuditUnavailable:
                assert not drop
                refused += 1
        assert refused == spool.missed > 700
        assert spool.tight
        spool.check()
        assert spool.tight
        assert spool.missed == refused
        spool._limits = Limits(drop=drop)
        spool.check()
        assert spool.missed == 0
        spool.close()
        last = entries(tmp_path / str(drop))[-1].event
        assert (last["schema"], last["count"]) == ("ext_authz.gap/1", refused)


def test_rotation_begins_a_segment_under_another_key_that_continues_the_tree(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, limits=Limits(segment_bytes=3000))
    for _ in range(100):
        spool.append(line)
        spool.check()
        spool.keys.wait(spool._number + 1, 5)
    spool.close()
    found = segments(tmp_path)
    assert len(found) > 2
    assert len({each.key.read_bytes() for each in found}) == len(found)
    assert lines(tmp_path) == [line(seq) for seq in range(100)]
    from ext_authz.audit.merkle import Range, leaf_hash
    from ext_authz.audit.segment import read_header

    for each in found:
        header, _ = read_header(each.path.read_bytes())
        tree = Range()
        tree.extend(leaf_hash(line(seq)) for seq in range(header.first_seq))
        assert header.root == tree.root()
        assert header.number == each.number


def test_a_key_service_that_fails_matters_at_the_second_rotation_and_then_only_beyond_the_limit(
    tmp_path: Path,
) -> None:
    keys = MemoryKey()
    spool = new_spool(tmp_path, keys=keys, limits=Limits(segment_bytes=3000))
    keys.down = True
    spool.append(line)
    assert spool.rotate()
    spool.append(line)
    assert not spool.rotate()
    while spool.size < 12_000:
        spool.append(line)
        spool.check()
    spool.check()
    with pytest.raises(AuditUnavailable, match="no data key could be wrapped"):
        spool.append(line)
    keys.down = False
    spool.keys._not_before = 0
    assert spool.keys.wait(2, 5)
    spool.check()
    assert spool.append(line) > 2
    spool.close()
    found = Trail([tmp_path], lambda: keys)
    assert found.gaps() == []
    assert sum(entry.event.get("seq") is not None for entry in found.entries()) == spool.seq


def test_a_key_that_never_wraps_starts_no_log(tmp_path: Path) -> None:
    keys = MemoryKey()
    keys.down = True
    with pytest.raises(AuditUnavailable, match="does not answer"):
        new_spool(tmp_path, keys=keys)


def test_a_failed_sync_after_a_rotation_loses_nothing_of_either_segment(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(line)
    assert spool.sync()
    spool.append(line)
    assert spool.rotate()
    spool.append(line)
    fail_one_sync(monkeypatch)
    assert spool.sync()
    spool.append(line)
    assert spool.sync()
    assert contents(spool) == b'{"seq":0}\n{"seq":1}\n|{"seq":2}\n|{"seq":1}\n{"seq":2}\n{"seq":3}\n'
    assert lines(spool.directory) == [line(seq) for seq in range(4)]


def test_what_cannot_be_read_back_exactly_is_not_called_durable(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.append(line)
    with spool._part.path.open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"x")
    calls = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: calls.append(fd) or fail(errno.EIO)())
    assert not spool.sync()
    monkeypatch.undo()
    assert not spool.sync()
    with pytest.raises(AuditUnavailable, match="the disk failed"):
        spool.append(line)


def test_a_deleted_key_of_the_open_segment_begins_a_new_one(spool: Spool) -> None:
    spool.append(line)
    segments(spool.directory)[0].key.unlink()
    spool.check()
    spool.append(line)
    spool.sync()
    assert trail(spool.directory).gaps() == []
    assert lines(segments(spool.directory)[1].path) == [line(0), line(1)]


def test_checkpoints_are_signed_and_a_clean_end_is_sealed(spool: Spool) -> None:
    for _ in range(3):
        spool.append(line)
    spool.check()
    spool.close()
    from ext_authz.audit.checkpoint import open_note

    notes = [entry.event for entry in entries(spool.directory, kinds=EVERYTHING) if "note" in entry.event]
    assert [event["cause"] for event in notes] == ["interval", "seal"]
    for event in notes:
        checkpoint, key = open_note(event["note"], [SIGNER.key])
        assert (checkpoint.log_id, checkpoint.size, key) == (spool.log_id, 3, SIGNER.key)


def test_what_will_be_tried_again_is_never_dropped_or_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = new_spool(tmp_path, limits=Limits(drop=True))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail(errno.ENOSPC))
        with pytest.raises(AuditUnavailable):
            spool.append(line, again=True)
        assert spool.append(line) == DROPPED
    assert spool.missed == 1
    assert spool.append(line, again=True) == 0
    spool.close()


def test_another_version_of_the_wrapping_key_is_taken_at_the_next_segment_and_is_an_event(tmp_path: Path) -> None:
    keys = MemoryKey()
    spool = new_spool(tmp_path, keys=keys, reopen=lambda: keys)
    spool.append(line)
    keys.rotate()
    assert spool.rotate()
    assert spool.keys.wait(2, 5)
    spool.check()
    spool.check()
    spool.close()
    events = [entry.event for entry in Trail([tmp_path], lambda: keys).entries()]
    assert [event.get("event") for event in events] == [None, "key_rotation"]
    assert events[1]["details"] == {"before": "memory:memory version 1", "after": "memory:memory version 2"}


@pytest.mark.parametrize(
    "name",
    [
        "events.jsonl",
        "worker-0-20260101T000000Z-0123456789abcdef.000000.key",
        "worker-0-20260101T000000Z-0123456789abcdef.0.seg",
        "worker-0-20260101T000000Z-0123456789abcdef.0000001.seg",
        "worker-0-20260101T000000Z-0123456789ABCDEF.000000.seg",
        "Worker-20260101T000000Z-0123456789abcdef.000000.seg",
        "worker-0-20260101T000000Z-0123456789abcdef.000000.seg\n",
    ],
)
def test_a_file_of_another_name_is_not_of_the_trail(name: str) -> None:
    assert segment_of(Path(name)) is None


def test_events_appended_together_are_one_write_or_none(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spool.append_all([line, line]) == 2
    assert spool.append_all([]) == 0
    for broken in (fail(errno.EIO), lambda fd, data, real=os.write: real(fd, data[:30])):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", broken)
            assert spool.append_all([line, line]) == 0
        assert spool.missed == 0
        assert contents(spool) == b'{"seq":0}\n{"seq":1}\n'

    def unmade(_seq: int) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        spool.append_all([line, unmade])
    assert spool.append(line) == 2
    assert contents(spool) == b'{"seq":0}\n{"seq":1}\n{"seq":2}\n'
    spool.close()
    assert spool.append_all([line]) == 0
