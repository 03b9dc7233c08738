"""From the trail to the sinks: everything, in order, at least once, and nobody waits for anybody."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ext_authz.audit.cursor import Cursor
from ext_authz.audit.exporter import Delivery, Exporter
from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.sinks import open_sinks
from ext_authz.audit.sinks.file import FileSink
from ext_authz.audit.sinks.stdout import StdoutSink
from ext_authz.audit.spool import Spool
from ext_authz.audit.trail import segment_path, segments


class ListSink:
    def __init__(self, name: str = "list") -> None:
        self.name = name
        self.got: list[bytes] = []
        self.down = False
        self.arrived = threading.Event()

    def write(self, lines: bytes) -> None:
        if self.down:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "down")
        assert lines.endswith(b"\n")
        self.got += lines[:-1].split(b"\n")
        self.arrived.set()

    def close(self) -> None:
        pass


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def spool(trail: Path) -> Iterator[Spool]:
    made = Spool.create(trail, "worker-0")
    yield made
    made.close()


def fill(spool: Spool, count: int) -> list[bytes]:
    lines: list[bytes] = []
    for _ in range(count):
        spool.append(lambda seq: lines.append(b'{"log":"%s","seq":%d}' % (spool.log_id.encode(), seq)) or lines[-1])
    return lines


def drain(delivery: Delivery) -> None:
    while delivery.step():
        pass


def test_everything_is_delivered_once_in_order(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 500)
    sink = ListSink()
    delivery = Delivery(trail, sink, chunk_bytes=1000)
    drain(delivery)
    assert sink.got == lines
    lines += fill(spool, 3)
    drain(delivery)
    assert sink.got == lines


def test_a_restart_goes_on_where_the_cursor_stands(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 5)
    drain(Delivery(trail, ListSink()))
    more = fill(spool, 2)
    again = ListSink()
    drain(Delivery(trail, again))
    assert again.got == more
    other = ListSink("other")
    drain(Delivery(trail, other))
    assert other.got == lines + more


def test_a_sink_that_is_down_loses_nothing_and_is_tried_again_with_growing_pauses(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 5)
    sink = ListSink()
    sink.down = True
    delivery = Delivery(trail, sink, jitter=lambda: 1.0)
    pauses = []
    for failures in range(1, 12):
        with pytest.raises(ConnectionRefusedError):
            delivery.step()
        delivery.failures_in_a_row = failures
        pauses.append(delivery.backoff())
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.2, 60.0)
    sink.down = False
    drain(delivery)
    assert sink.got == lines


def test_a_torn_last_line_waits_for_its_end(trail: Path, spool: Spool) -> None:
    fill(spool, 1)
    path = segments(trail)[0].path
    with path.open("ab") as file:
        file.write(b'{"half":')
    sink = ListSink()
    delivery = Delivery(trail, sink)
    drain(delivery)
    assert len(sink.got) == 1
    with path.open("ab") as file:
        file.write(b"1}\n")
    drain(delivery)
    assert sink.got[1:] == [b'{"half":1}']


def test_damage_in_the_middle_is_dropped_and_counted_and_what_follows_is_delivered(trail: Path, spool: Spool) -> None:
    fill(spool, 1)
    path = segments(trail)[0].path
    with path.open("ab") as file:
        file.write(b"\0" * 5000 + b'\n{"after":1}\nnot json\n{"torn\n{"last":1}\n')
    sink = ListSink()
    delivery = Delivery(trail, sink, chunk_bytes=1000)
    drain(delivery)
    assert sink.got[1:] == [b'{"after":1}', b'{"last":1}']
    exporter = Exporter(trail, [sink])
    assert exporter.ledger()["list"] == {
        "emitted": 6,
        "delivered": 3,
        "pending": 0,
        "dropped": 3,
        "retries": 0,
        "failing": 0,
        "last_error": "",
    }


def test_a_later_segment_waits_for_the_end_of_the_one_before(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 50)
    second = segment_path(trail, spool.log_id, 1)
    second.write_bytes(b'{"seq":50}\n')
    sink = ListSink()
    drain(Delivery(trail, sink, chunk_bytes=300))
    assert sink.got == [*lines, b'{"seq":50}']


def test_logs_of_dead_writers_and_of_several_workers_are_all_delivered(trail: Path) -> None:
    spools = [Spool.create(trail, name) for name in ("worker-0", "worker-0", "worker-1", "control")]
    lines = [fill(spool, 20) for spool in spools]
    for spool in spools:
        spool.close()
    (trail / "notes.jsonl").write_bytes(b'{"not":"ours"}\n')
    sink = ListSink()
    drain(Delivery(trail, sink, chunk_bytes=300))
    assert len(sink.got) == 80
    for each in lines:
        assert [line for line in sink.got if line in each] == each


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version":2}', b'{"version":1,"sink":"list","segments":{"a":[-1,0,0]}}']
)
def test_a_damaged_cursor_means_twice_and_never_not_at_all(trail: Path, spool: Spool, content: bytes) -> None:
    lines = fill(spool, 3)
    drain(Delivery(trail, ListSink()))
    next((trail / "cursors").iterdir()).write_bytes(content)
    again = ListSink()
    drain(Delivery(trail, again))
    assert again.got == lines


def test_a_cursor_that_cannot_be_saved_is_saved_later(
    trail: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(spool, 3)
    sink = ListSink()
    delivery = Delivery(trail, sink)
    with monkeypatch.context() as patched:
        patched.setattr(Cursor, "save", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            delivery.step()
    delivery.step()
    again = ListSink()
    drain(Delivery(trail, again))
    assert again.got == []
    assert len(sink.got) == 3


def test_the_ledger_balances_while_one_sink_is_down_and_after_a_segment_was_removed(trail: Path, spool: Spool) -> None:
    fill(spool, 10)
    up, down = ListSink("up"), ListSink("down")
    down.down = True
    exporter = Exporter(trail, [up, down])
    for delivery in exporter._deliveries:
        try:
            drain(delivery)
        except OSError:
            delivery.retries += 1
    ledger = exporter.ledger()
    assert (ledger["up"]["delivered"], ledger["up"]["pending"]) == (10, 0)
    assert (ledger["down"]["delivered"], ledger["down"]["pending"], ledger["down"]["retries"]) == (0, 10, 1)
    assert exporter.spool_bytes() == sum(segment.path.stat().st_size for segment in segments(trail))
    segments(trail)[0].path.unlink()
    for delivery in exporter._deliveries:
        delivery.step()
    ledger = exporter.ledger()
    assert ledger["up"]["emitted"] == ledger["up"]["delivered"] == 10
    assert ledger["down"]["emitted"] == ledger["down"]["dropped"] == 10


def test_a_sink_that_hangs_holds_up_neither_the_others_nor_the_stop(trail: Path, spool: Spool) -> None:
    release = threading.Event()

    class Hanging(ListSink):
        def write(self, lines: bytes) -> None:
            release.wait(30)

    well = ListSink("well")
    exporter = Exporter(trail, [Hanging("hanging"), well])
    exporter.start()
    with pytest.raises(RuntimeError):
        exporter.start()
    fill(spool, 3)
    assert well.arrived.wait(10)
    exporter.stop(seconds=0.05)
    release.set()


def test_stopping_delivers_what_is_there(trail: Path, spool: Spool) -> None:
    sink = ListSink()
    exporter = Exporter(trail, [sink])
    lines = fill(spool, 100)
    exporter.start()
    exporter.stop(seconds=10)
    assert sink.got == lines


def test_a_file_sink_appends_whole_lines_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink(path)
    sink.write(b"{1}\n{2}\n")
    sink.write(b"{3}\n")
    sink.close()
    assert path.read_bytes() == b"{1}\n{2}\n{3}\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_sink_goes_on_in_a_new_file_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink(path)
    sink.write(b"{1}\n")
    path.rename(tmp_path / "events.1")
    sink.write(b"{2}\n")
    path.unlink()
    sink.write(b"{3}\n")
    sink.close()
    assert (tmp_path / "events.1").read_bytes() == b"{1}\n"
    assert path.read_bytes() == b"{3}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{1}\n{"torn', b"{1}\n{2}\n"),
        (b'{"torn', b"{2}\n"),
        (b"somebody's text", b"somebody's text\n{2}\n"),
        (b"{" + b"x" * 20_000, b"{" + b"x" * 20_000 + b"\n{2}\n"),
    ],
)
def test_a_torn_event_of_ours_is_taken_away_and_anybody_elses_text_is_left(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(before)
    sink = FileSink(path)
    sink.write(b"{2}\n")
    sink.close()
    assert path.read_bytes() == after


def test_a_file_sink_that_fails_half_way_leaves_nothing_and_takes_all_of_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink(path)
    sink.write(b"{1}\n")
    real, calls = os.write, []

    def half(fd: int, data: bytes) -> int:
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data[:3])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        with pytest.raises(OSError, match="full"):
            sink.write(b"{2}\n{3}\n")
    assert path.read_bytes() == b"{1}\n"
    sink.write(b"{2}\n{3}\n")
    sink.close()
    assert path.read_bytes() == b"{1}\n{2}\n{3}\n"


def test_a_file_sink_writes_to_no_link_and_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError):
            FileSink(tmp_path / name).write(b"{}\n")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_sink_inside_the_trail_would_feed_itself_and_is_refused(tmp_path: Path) -> None:
    trail = tmp_path / "audit"
    trail.mkdir()
    (tmp_path / "alias").symlink_to(trail)
    for path in (trail / "events.jsonl", tmp_path / "alias" / "events.jsonl", trail / "x" / "y"):
        settings = AuditSettings.model_validate({"sinks": [{"type": "file", "path": path}]})
        with pytest.raises(ValueError, match="inside the trail"):
            open_sinks(settings.sinks, trail)
    settings = AuditSettings.model_validate({"sinks": [{"type": "stdout"}, {"type": "file", "path": tmp_path / "e"}]})
    assert [sink.name for sink in open_sinks(settings.sinks, trail)] == ["stdout", f"file:{tmp_path / 'e'}"]


def test_standard_output_gets_everything_even_when_it_is_slow_and_not_blocking() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    lines = b"".join(b'{"seq":%d,"pad":"%s"}\n' % (seq, b"x" * 100) for seq in range(5000))
    got = bytearray()

    def read() -> None:
        while len(got) < len(lines):
            got.extend(os.read(reading, 4096))

    thread = threading.Thread(target=read)
    thread.start()
    sink = StdoutSink(writing)
    sink.write(lines)
    thread.join(10)
    sink.close()
    assert bytes(got) == lines
    os.close(reading)
    os.close(writing)


def test_a_line_torn_on_standard_output_is_ended_before_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    sink = StdoutSink(writing)
    real, calls = os.write, []

    def half(fd: int, data: bytes) -> int:
        calls.append(fd)
        if len(calls) == 2:
            raise BrokenPipeError(errno.EPIPE, "gone")
        return real(fd, data[:3])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        with pytest.raises(BrokenPipeError):
            sink.write(b'{"seq":1}\n')
    sink.write(b'{"seq":1}\n')
    assert os.read(reading, 100) == b'{"s\n{"seq":1}\n'
    os.close(reading)
    os.close(writing)
