"""Reading the trail back: whole events in order of time, each once."""

import os
from pathlib import Path

import pytest
from altered import add, bounds, files, flip
from trails import EVERYTHING, KEYS, entries, lines, new_spool, trail

from ext_authz.audit.event import lifecycle_event
from ext_authz.audit.reader import Trail
from ext_authz.audit.segment import HEADER_BYTES, Kind, frames
from ext_authz.audit.trail import segments
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.envelope.keys.memory import MemoryKey

NOW = 1_800_000_000
SECOND = 10**9


def log(directory: Path, name: str, times: list[int], start: int = NOW) -> str:
    """Write a log with one event at each second of `times`."""
    spool = new_spool(directory, name, clock_ns=lambda: start * SECOND)
    for time in times:
        spool.append(lambda seq, at=time: lifecycle_event("start", log_id=spool.log_id, seq=seq, now_ns=at * SECOND))
    spool.close()
    return spool.log_id


def read(trail: Trail) -> list[tuple[str, int]]:
    return [(entry.event["event_id"].rpartition(":")[0], entry.event["seq"]) for entry in trail.entries()]


def test_several_logs_are_read_in_order_of_time(tmp_path: Path) -> None:
    first = log(tmp_path, "worker-0", [NOW, NOW + 5, NOW + 9])
    second = log(tmp_path, "worker-1", [NOW + 1, NOW + 6])
    later = log(tmp_path, "worker-0", [NOW + 7], start=NOW + 6)
    found = trail(tmp_path)
    assert read(found) == [(first, 0), (second, 0), (first, 1), (second, 1), (later, 0), (first, 2)]
    assert found.gaps() == []


def test_a_run_dir_a_trail_and_an_exported_file_can_all_be_read(tmp_path: Path) -> None:
    name = log(tmp_path / "run" / "audit", "worker-0", [NOW, NOW + 1])
    exported = tmp_path / "events.jsonl"
    exported.write_bytes(b"\n".join(lines(tmp_path / "run")) + b'\n{"foreign":1}\n')
    for path in (tmp_path / "run", tmp_path / "run" / "audit", segments(tmp_path / "run" / "audit")[0].path):
        assert read(trail(path)) == [(name, 0), (name, 1)]
    assert [entry.event.get("foreign") for entry in Trail([exported]).entries()] == [None, None, 1]
    with pytest.raises(FileNotFoundError):
        Trail([tmp_path / "nowhere"])


def test_following_returns_what_comes_until_it_is_stopped_and_then_what_is_left(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    steps = [1, 2, 0, 3]
    stops = iter([False, False, False, False, True])

    def pause() -> None:
        for _ in range(steps.pop(0)):
            spool.append(lambda seq: b'{"seq":%d,"time":""}' % seq)

    found = [entry.event["seq"] for entry in trail(tmp_path).follow(lambda: next(stops), pause)]
    assert found == list(range(6))
    spool.close()


def test_a_log_that_begins_while_following_is_found(tmp_path: Path) -> None:
    found = trail(tmp_path)
    assert read(found) == []
    name = log(tmp_path, "worker-0", [NOW])
    assert read(found) == [(name, 0)]


def test_an_event_sealed_again_in_the_next_segment_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = new_spool(tmp_path)
    spool.append(lambda seq: b'{"seq":%d}' % seq)
    spool.sync()
    spool.append(lambda seq: b'{"seq":%d}' % seq)
    with monkeypatch.context() as patched:
        patched.setattr(spool._part, "fd", spool._part.fd)
        spool._broken = True  # as after a failed fdatasync
        assert spool.sync()
    spool.append(lambda seq: b'{"seq":%d}' % seq)
    spool.close()
    found = trail(tmp_path)
    assert [entry.event["seq"] for entry in found.entries()] == [0, 1, 2]
    assert found.gaps() == []


def test_a_deleted_segment_is_a_gap_and_what_went_first_is_none(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    for _ in range(3):
        spool.append(lambda seq: b'{"seq":%d}' % seq)
        spool.rotate()
        spool.keys.wait(spool._number + 1, 5)
    spool.close()
    segments(tmp_path)[1].path.unlink()
    found = trail(tmp_path)
    assert [entry.event["seq"] for entry in found.entries()] == [0, 2]
    assert found.gaps() == [f"{spool.log_id}: 1 to 1 are missing"]
    segments(tmp_path)[0].path.unlink()
    found = trail(tmp_path)
    assert [entry.event["seq"] for entry in found.entries()] == [2]
    assert found.gaps() == []


def test_what_is_damaged_is_counted_and_what_follows_is_read(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    for _ in range(3):
        spool.append(lambda seq: b'{"seq":%d}' % seq)
    spool.close()
    path = segments(tmp_path)[0].path
    data = bytearray(path.read_bytes())
    first = next(each for each in frames(bytes(data[HEADER_BYTES:])) if each.kind is Kind.EVENT)
    data[first.end - 1] ^= 1
    path.write_bytes(data)
    found = trail(tmp_path, kinds=EVERYTHING)
    assert len(list(found.entries())) == 4
    assert found.damaged == 1


def test_a_segment_whose_key_was_deleted_is_said_to_be_shredded_and_no_damage(tmp_path: Path) -> None:
    name = log(tmp_path, "worker-0", [NOW])
    log(tmp_path, "worker-1", [NOW + 1])
    segments(tmp_path)[0].key.unlink()
    found = trail(tmp_path)
    assert [entry.event["seq"] for entry in found.entries()] == [0]
    assert found.shredded == [f"{name}.000000.seg"]
    assert found.damaged == 0
    assert list(found.entries()) == []
    assert len(found.shredded) == 1


def test_swapped_segments_and_swapped_keys_open_nothing(tmp_path: Path) -> None:
    log(tmp_path / "a", "worker-0", [NOW])
    log(tmp_path / "b", "worker-0", [NOW])
    one, two = segments(tmp_path / "a")[0], segments(tmp_path / "b")[0]
    one.key.write_bytes(two.key.read_bytes())
    found = trail(tmp_path / "a")
    assert list(found.entries()) == []
    assert found.damaged == 1
    assert "belongs to another" in found.problems[0]
    two.path.rename(one.path)
    found = trail(tmp_path / "a")
    assert list(found.entries()) == []
    assert "holds another segment than its name says" in found.problems[0]


def test_without_its_key_nothing_is_read_and_nothing_is_called_damaged(tmp_path: Path) -> None:
    log(tmp_path, "worker-0", [NOW])
    with pytest.raises(KeyUnavailableError):
        list(Trail([tmp_path], lambda: MemoryKey("another")).entries())
    with pytest.raises(KeyUnavailableError, match="no key was given"):
        list(Trail([tmp_path]).entries())
    KEYS.down = True
    try:
        with pytest.raises(KeyUnavailableError):
            list(trail(tmp_path).entries())
    finally:
        KEYS.down = False


def test_checkpoints_and_the_seal_come_where_they_are_asked_for(tmp_path: Path) -> None:
    log(tmp_path, "worker-0", [NOW])
    assert [entry.kind for entry in entries(tmp_path, kinds=EVERYTHING)] == [Kind.MARK, Kind.EVENT, Kind.SEAL]


def test_in_json_lines_what_is_no_event_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"seq":1}\nbroken\n[]\n{"seq":5}\n{"torn')
    found = Trail([path])
    assert [entry.event["seq"] for entry in found.entries()] == [1, 5]
    assert found.damaged == 2


def test_a_line_longer_than_a_chunk_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"pad":"' + b"x" * 600_000 + b'"}\n{"a":1}\n')
    assert len(list(Trail([path]).entries())) == 2


def test_segments_written_before_a_moment_are_passed_over(tmp_path: Path) -> None:
    log(tmp_path, "worker-0", [NOW])
    for each in segments(tmp_path):
        os.utime(each.path, (1000, 1000))
    newer = log(tmp_path, "worker-1", [NOW + 1], start=NOW + 1)
    found = trail(tmp_path, since=2000)
    assert read(found) == [(newer, 0)]
    latest = log(tmp_path, "worker-0", [NOW + 2], start=NOW + 2)
    assert read(found) == [(latest, 0)], "what comes later is read"
    assert len(read(trail(tmp_path))) == 3


def test_what_a_given_up_segment_lost_in_its_middle_is_read_from_the_next_one(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    add(spool, 10)
    assert spool.sync()
    add(spool, 6)
    spool.keys.wait(1, 5)
    with spool._disk_lock:
        assert spool._renew()  # as after a failed sync: it repeats events 10 to 15
    add(spool, 4)
    spool.close()
    first, _ = files(tmp_path)
    for lost in (bounds(first)[15][0], bounds(first)[12][0], bounds(first)[11][0]):
        flip(first, lost + 30)
        found = trail(tmp_path)
        assert [seq for _, seq in read(found)] == list(range(20))
        assert found.gaps() == []
