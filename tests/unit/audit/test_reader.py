"""Reading the trail back: whole events in order of time, each once."""

from pathlib import Path

import pytest

from ext_authz.audit.event import lifecycle_event
from ext_authz.audit.reader import Trail
from ext_authz.audit.spool import Spool
from ext_authz.audit.trail import segment_path, segments

NOW = 1_800_000_000
SECOND = 10**9


def log(directory: Path, name: str, times: list[int], start: int = NOW) -> str:
    """Write a log with one event at each second of `times`."""
    spool = Spool.create(directory, name, clock_ns=lambda: start * SECOND)
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
    trail = Trail([tmp_path])
    assert read(trail) == [(first, 0), (second, 0), (first, 1), (second, 1), (later, 0), (first, 2)]
    assert trail.gaps() == []


def test_a_run_dir_a_trail_and_an_exported_file_can_all_be_read(tmp_path: Path) -> None:
    name = log(tmp_path / "run" / "audit", "worker-0", [NOW, NOW + 1])
    exported = tmp_path / "events.jsonl"
    exported.write_bytes(segments(tmp_path / "run" / "audit")[0].path.read_bytes() + b'{"foreign":1}\n')
    for path in (tmp_path / "run", tmp_path / "run" / "audit", segments(tmp_path / "run" / "audit")[0].path):
        assert read(Trail([path])) == [(name, 0), (name, 1)]
    assert [entry.event.get("foreign") for entry in Trail([exported]).entries()] == [None, None, 1]
    with pytest.raises(FileNotFoundError):
        Trail([tmp_path / "nowhere"])


def test_following_returns_what_comes_until_it_is_stopped_and_then_what_is_left(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "worker-0")
    steps = [1, 2, 0, 3]
    stops = iter([False, False, False, False, True])

    def pause() -> None:
        for _ in range(steps.pop(0)):
            spool.append(lambda seq: b'{"seq":%d,"time":""}' % seq)

    found = [entry.event["seq"] for entry in Trail([tmp_path]).follow(lambda: next(stops), pause)]
    assert found == list(range(6))
    spool.close()


def test_a_log_that_begins_while_following_is_found(tmp_path: Path) -> None:
    trail = Trail([tmp_path])
    assert read(trail) == []
    name = log(tmp_path, "worker-0", [NOW])
    assert read(trail) == [(name, 0)]


def test_an_event_copied_to_the_next_segment_comes_once(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "worker-0")
    for _ in range(3):
        spool.append(lambda seq: b'{"seq":%d}' % seq)
    segment_path(tmp_path, spool.log_id, 1).write_bytes(b'{"seq":1}\n{"seq":2}\n{"seq":3}\n')
    spool.close()
    trail = Trail([tmp_path])
    assert [entry.event["seq"] for entry in trail.entries()] == [0, 1, 2, 3]
    assert trail.gaps() == []


def test_missing_numbers_and_damaged_lines_are_named(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "worker-0")
    spool.close()
    path = segments(tmp_path)[0].path
    path.write_bytes(b'{"seq":1}\nbroken\n[]\n{"seq":5}\n{"torn')
    trail = Trail([tmp_path])
    assert [entry.event["seq"] for entry in trail.entries()] == [1, 5]
    assert trail.damaged == 2
    assert trail.gaps() == [f"{spool.log_id}: 0 to 0 are missing", f"{spool.log_id}: 2 to 4 are missing"]


def test_a_line_longer_than_a_chunk_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"pad":"' + b"x" * 600_000 + b'"}\n{"a":1}\n')
    assert len(list(Trail([path]).entries())) == 2
