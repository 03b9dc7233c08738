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

from ext_authz.audit.spool import AuditUnavailable, Spool
from ext_authz.audit.trail import segment_of, segments


@pytest.fixture
def spool(tmp_path: Path) -> Any:
    made = Spool.create(tmp_path / "audit", "worker-0")
    yield made
    made.close()


def line(seq: int) -> bytes:
    return b'{"seq":%d}' % seq


def contents(spool: Spool) -> bytes:
    return b"|".join(segment.path.read_bytes() for segment in segments(spool.directory))


def fail(error: int) -> Any:
    def raising(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    return raising


def test_events_are_in_the_file_when_append_returns_and_seq_counts_from_zero(spool: Spool) -> None:
    assert [spool.append(line) for _ in range(3)] == [0, 1, 2]
    assert contents(spool) == b'{"seq":0}\n{"seq":1}\n{"seq":2}\n'


def test_every_start_is_a_log_of_its_own_for_its_owner_alone(spool: Spool) -> None:
    other = Spool.create(spool.directory, "worker-0")
    assert other.log_id != spool.log_id
    assert other.query_key == spool.query_key
    assert len(spool.query_key) == 32
    other.close()
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700
    for path in spool.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert [found.writer for found in segments(spool.directory)] == ["worker-0", "worker-0"]


def test_a_folder_that_others_can_write_or_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o770)
    with pytest.raises(AuditUnavailable, match="others can write it"):
        Spool.create(tmp_path / "open", "worker-0")
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(AuditUnavailable, match="not a directory"):
        Spool.create(tmp_path / "link", "worker-0")


def test_a_missing_or_unwritable_place_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AuditUnavailable):
        Spool.create(tmp_path / "file" / "audit", "worker-0")


def test_a_damaged_key_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir(mode=0o700)
    (tmp_path / "audit" / "query.key").write_bytes(b"short")
    with pytest.raises(AuditUnavailable, match="not a key"):
        Spool.create(tmp_path / "audit", "worker-0")


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
    real, calls = os.fdatasync, []

    def once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "i/o error")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", once)
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
    assert contents(spool) == b"".join(line(seq) + b"\n" for seq in range(800))


def test_a_real_size_limit_tears_no_line(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from ext_authz.audit.spool import AuditUnavailable, Spool
spool = Spool.create(Path(sys.argv[1]), "worker-0")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
refused = 0
for _ in range(100):
    try:
        spool.append(lambda seq: b'{"seq":%d,"pad":"xxxxxxxx"}' % seq)
    except AuditUnavailable:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append(lambda seq: b'{"last":%d}' % seq)
print(refused, spool.seq)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "audit")],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    refused, seq = map(int, ran.stdout.split())
    lines = segments(tmp_path / "audit")[0].path.read_bytes().split(b"\n")
    assert refused > 0
    assert lines[-1] == b""
    assert len(lines) - 1 == seq == 101 - refused
    assert lines[-2] == b'{"last":%d}' % (seq - 1)
    assert sum(map(len, lines[:-2])) + seq - 1 <= 1000


@pytest.mark.parametrize(
    "name",
    [
        "events.jsonl",
        "worker-0-20260101T000000Z-0123456789abcdef.json",
        "worker-0-20260101T000000Z-0123456789abcdef.0.jsonl",
        "worker-0-20260101T000000Z-0123456789ABCDEF.jsonl",
        "Worker-20260101T000000Z-0123456789abcdef.jsonl",
        "worker-0-20260101T000000Z-0123456789abcdef.jsonl\n",
    ],
)
def test_a_file_of_another_name_is_not_of_the_trail(name: str) -> None:
    assert segment_of(Path(name)) is None


def test_events_appended_together_are_one_write_or_none(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spool.append_all([line, line]) == 2
    assert spool.append_all([]) == 0
    for broken in (fail(errno.EIO), lambda fd, data, real=os.write: real(fd, data[:15])):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", broken)
            assert spool.append_all([line, line]) == 0
        assert contents(spool) == b'{"seq":0}\n{"seq":1}\n'

    def unmade(_seq: int) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        spool.append_all([line, unmade])
    assert spool.append(line) == 2
    assert contents(spool) == b'{"seq":0}\n{"seq":1}\n{"seq":2}\n'
    spool.close()
    assert spool.append_all([line]) == 0
