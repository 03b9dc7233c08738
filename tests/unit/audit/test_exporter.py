"""From the trail to the sinks: everything, in order, at least once, and nobody waits for anybody."""

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from trails import new_spool, open_key

from ext_authz.audit.cursor import Cursor
from ext_authz.audit.delivery import Batch, Delivery, Outlet
from ext_authz.audit.exporter import Exporter
from ext_authz.audit.formats import native
from ext_authz.audit.reader import SegmentReader
from ext_authz.audit.sealing import Opener
from ext_authz.audit.segment import HEADER_BYTES, Kind, frames
from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.sinks import Hold, Item, Refused, Retry, Split
from ext_authz.audit.sinks.file import FileSink
from ext_authz.audit.sinks.opening import open_sinks
from ext_authz.audit.sinks.stdout import StdoutSink
from ext_authz.audit.source import SealedSource
from ext_authz.audit.spool import Spool
from ext_authz.audit.trail import segment_of, segments


class ListSink:
    best_effort = False

    def __init__(self, name: str = "list") -> None:
        self.name = name
        self.got: list[bytes] = []
        self.down = False
        self.arrived = threading.Event()

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        if self.down:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "down")
        self.got += [item.line for item in items]
        self.arrived.set()
        return ()

    def close(self) -> None:
        pass


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def spool(trail: Path) -> Iterator[Spool]:
    made = new_spool(trail, "worker-0")
    yield made
    made.close()


def fill(spool: Spool, count: int) -> list[bytes]:
    lines: list[bytes] = []
    for _ in range(count):
        spool.append(lambda seq: lines.append(b'{"log":"%s","seq":%d}' % (spool.log_id.encode(), seq)) or lines[-1])
    return lines


def deliverer(trail: Path, sink: Any, *, chunk_bytes: int = 256 * 1024, events: int = 1000, **more: Any) -> Delivery:
    return Delivery(trail, SealedSource(trail, open_key), Outlet(sink, Batch(events, chunk_bytes)), **more)


def drain(delivery: Delivery) -> None:
    while delivery.step():
        pass


def test_everything_is_delivered_once_in_order(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 500)
    sink = ListSink()
    delivery = deliverer(trail, sink, chunk_bytes=1000)
    drain(delivery)
    assert sink.got == lines
    lines += fill(spool, 3)
    drain(delivery)
    assert sink.got == lines


def test_a_restart_goes_on_where_the_cursor_stands(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 5)
    drain(deliverer(trail, ListSink()))
    more = fill(spool, 2)
    again = ListSink()
    drain(deliverer(trail, again))
    assert again.got == more
    other = ListSink("other")
    drain(deliverer(trail, other))
    assert other.got == lines + more


def test_a_sink_that_is_down_loses_nothing_and_is_tried_again_with_growing_pauses(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 5)
    sink = ListSink()
    sink.down = True
    delivery = deliverer(trail, sink, jitter=lambda: 1.0)
    pauses = []
    for _ in range(11):
        with pytest.raises(ConnectionRefusedError):
            delivery.step()
        pauses.append(delivery.failed(OSError()))
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, 60.0)
    sink.down = False
    drain(delivery)
    assert sink.got == lines


def test_a_sink_that_takes_some_between_its_failures_does_not_wait_ever_longer(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 40)
    sink = ListSink()
    delivery = deliverer(trail, sink, events=2, jitter=lambda: 1.0)
    real, calls = sink.deliver, itertools.count()

    def flapping(items: Any) -> Any:
        if next(calls) % 3:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "no")
        return real(items)

    sink.deliver = flapping  # type: ignore[method-assign]
    pauses = []
    while len(sink.got) < len(lines):
        try:
            drain(delivery)
        except ConnectionRefusedError as error:
            pauses.append(delivery.failed(error))
    assert sink.got == lines
    assert set(pauses) == {0.5, 1.0}


def test_a_torn_last_frame_waits_for_its_end(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 2)
    path = segments(trail)[0].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    sink = ListSink()
    delivery = deliverer(trail, sink)
    drain(delivery)
    assert sink.got == lines[:1]
    path.write_bytes(whole)
    drain(delivery)
    assert sink.got == lines


def test_damage_in_the_middle_is_dropped_and_counted_and_what_follows_is_delivered(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 5)
    path = segments(trail)[0].path
    data = bytearray(path.read_bytes())
    for line in (1, 3):
        end = len(data) - (4 - line) * (len(lines[0]) + 32)
        data[end - 20] ^= 1
    path.write_bytes(data)
    sink = ListSink()
    drain(deliverer(trail, sink, chunk_bytes=10))
    assert sink.got == lines[::2]
    exporter = Exporter(trail, [Outlet(sink)], source=SealedSource(trail, open_key))
    assert exporter.ledger()["list"] == {
        "emitted": 5,
        "delivered": 3,
        "pending": 0,
        "dropped": 2,
        "retries": 0,
        "refused": 0,
        "failing": 0,
        "state": "up",
        "last_error": "",
        "lag": 0.0,
    }


def test_a_segment_whose_key_was_deleted_is_dropped_and_holds_up_nothing(trail: Path, spool: Spool) -> None:
    fill(spool, 5)
    spool.rotate()
    later = fill(spool, 2)
    segments(trail)[0].key.unlink()
    sink = ListSink()
    drain(deliverer(trail, sink))
    assert sink.got == later
    ledger = Exporter(trail, [Outlet(sink)], source=SealedSource(trail, open_key)).ledger()["list"]
    # The checkpoint at the rotation went with the five.
    assert (ledger["delivered"], ledger["dropped"], ledger["pending"]) == (2, 6, 0)


def test_checkpoints_are_delivered_and_marks_are_not(trail: Path, spool: Spool) -> None:
    fill(spool, 1)
    spool.check()
    spool.close()
    sink = ListSink()
    drain(deliverer(trail, sink))
    assert [orjson.loads(line).get("cause") for line in sink.got] == [None, "interval", "seal"]


def test_a_later_segment_waits_for_the_end_of_the_one_before(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 50)
    spool.rotate()
    lines += fill(spool, 1)
    sink = ListSink()
    drain(deliverer(trail, sink, chunk_bytes=300))
    assert [line for line in sink.got if b"checkpoint" not in line] == lines


def test_logs_of_dead_writers_and_of_several_workers_are_all_delivered(trail: Path) -> None:
    spools = [new_spool(trail, name) for name in ("worker-0", "worker-0", "worker-1", "control")]
    lines = [fill(spool, 20) for spool in spools]
    for spool in spools:
        spool.close()
    (trail / "notes.jsonl").write_bytes(b'{"not":"ours"}\n')
    sink = ListSink()
    drain(deliverer(trail, sink, chunk_bytes=300))
    assert sum(b"checkpoint" not in line for line in sink.got) == 80
    for each in lines:
        assert [line for line in sink.got if line in each] == each


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version":2}', b'{"version":1,"sink":"list","segments":{"a":[-1,0,0]}}']
)
def test_a_damaged_cursor_means_twice_and_never_not_at_all(trail: Path, spool: Spool, content: bytes) -> None:
    lines = fill(spool, 3)
    drain(deliverer(trail, ListSink()))
    next((trail / "cursors").iterdir()).write_bytes(content)
    again = ListSink()
    drain(deliverer(trail, again))
    assert again.got == lines


def test_a_cursor_that_cannot_be_saved_is_saved_later(
    trail: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(spool, 3)
    sink = ListSink()
    delivery = deliverer(trail, sink)
    with monkeypatch.context() as patched:
        patched.setattr(Cursor, "save", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            delivery.step()
    delivery.step()
    again = ListSink()
    drain(deliverer(trail, again))
    assert again.got == []
    assert len(sink.got) == 3


def test_the_ledger_balances_while_one_sink_is_down_and_after_a_segment_was_removed(trail: Path, spool: Spool) -> None:
    fill(spool, 10)
    up, down = ListSink("up"), ListSink("down")
    down.down = True
    exporter = Exporter(trail, [Outlet(up), Outlet(down)], source=SealedSource(trail, open_key))
    for delivery in exporter._deliveries:
        try:
            drain(delivery)
        except OSError as error:
            delivery.failed(error)
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
        def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
            release.wait(30)
            return ()

    well = ListSink("well")
    exporter = Exporter(trail, [Outlet(Hanging("hanging")), Outlet(well)], source=SealedSource(trail, open_key))
    exporter.start()
    with pytest.raises(RuntimeError):
        exporter.start()
    fill(spool, 3)
    assert well.arrived.wait(10)
    exporter.stop(seconds=0.05)
    release.set()


def test_stopping_delivers_what_is_there(trail: Path, spool: Spool) -> None:
    sink = ListSink()
    exporter = Exporter(trail, [Outlet(sink)], source=SealedSource(trail, open_key))
    lines = fill(spool, 100)
    exporter.start()
    exporter.stop(seconds=10)
    assert sink.got == lines


def test_a_file_sink_appends_whole_lines_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink("file", path, native)
    sink.write(b"{1}\n{2}\n")
    sink.write(b"{3}\n")
    sink.close()
    assert path.read_bytes() == b"{1}\n{2}\n{3}\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_sink_goes_on_in_a_new_file_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink("file", path, native)
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
    sink = FileSink("file", path, native)
    sink.write(b"{2}\n")
    sink.close()
    assert path.read_bytes() == after


def test_a_file_sink_that_fails_half_way_leaves_nothing_and_takes_all_of_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink("file", path, native)
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
            FileSink("file", tmp_path / name, native).write(b"{}\n")
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
    assert [outlet.sink.name for outlet in open_sinks(settings.sinks, trail)] == ["stdout", f"file:{tmp_path / 'e'}"]


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
    sink = StdoutSink("stdout", native, writing)
    sink.write(lines)
    thread.join(10)
    sink.close()
    assert bytes(got) == lines
    os.close(reading)
    os.close(writing)


def test_a_line_torn_on_standard_output_is_ended_before_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    sink = StdoutSink("stdout", native, writing)
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


class PickySink(ListSink):
    """Refuses batches as a receiver with a limit and a taste does; `whole` answers 400 where it does not say which."""

    def __init__(self, bad: Callable[[bytes], bool], *, limit: int = 10**9, whole: bool = True) -> None:
        super().__init__("picky")
        self.bad, self.limit, self.whole = bad, limit, whole
        self.calls = 0

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        self.calls += 1
        if self.down:
            raise Retry("status 503", 7)
        if len(items) > self.limit:
            raise Split("status 413")
        no = [Refused(index, "mapping") for index, item in enumerate(items) if self.bad(item.line)]
        if no and self.whole:
            raise Split("status 400")
        self.got += [item.line for item in items if not self.bad(item.line)]
        return no


def letters(trail: Path) -> list[dict[str, Any]]:
    return [
        orjson.loads(line) for path in (trail / "dead-letters").glob("*") for line in path.read_bytes().splitlines()
    ]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("bad", [{7}, {0}, {99}, {3, 4, 5, 60}, set(range(1, 100))])
def test_what_is_refused_for_good_is_found_and_noted_and_all_the_rest_arrives(
    trail: Path, spool: Spool, bad: set[int], whole: bool
) -> None:
    lines = fill(spool, 100)
    sink = PickySink(lambda line: orjson.loads(line)["seq"] in bad, limit=40, whole=whole)
    delivery = deliverer(trail, sink)
    drain(delivery)
    assert sink.got == [line for seq, line in enumerate(lines) if seq not in bad]
    assert [lines.index(trail_line(trail, letter)) for letter in letters(trail)] == sorted(bad)
    assert {letter["sink"] for letter in letters(trail)} == {"picky"}
    path = next((trail / "dead-letters").iterdir())
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(line in path.read_bytes() for line in lines)
    ledger = Exporter(trail, [Outlet(ListSink("picky"))], source=SealedSource(trail, open_key)).ledger()["picky"]
    assert (ledger["delivered"], ledger["dropped"], ledger["pending"]) == (100 - len(bad), len(bad), 0)


def trail_line(trail: Path, letter: dict[str, Any]) -> bytes:
    reader = SegmentReader(segment_of(trail / letter["segment"]), Opener(open_key), letter["offset"])
    return next(each.payload for each in reader.chunk() if each.kind is Kind.EVENT)


def test_a_sink_that_refuses_everything_is_held_and_nothing_is_given_up(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 20)
    sink = PickySink(lambda _: True)
    delivery = deliverer(trail, sink)
    for _ in range(3):
        with pytest.raises(Hold, match="every event is refused: status 400"):
            delivery.step()
    assert letters(trail) == []
    sink.bad = lambda _: False
    drain(delivery)
    assert sink.got == lines


def test_a_log_of_which_everything_is_refused_is_given_up_once_other_logs_show_that_it_is_its_fault(
    trail: Path,
) -> None:
    poison, good = new_spool(trail, "worker-0"), new_spool(trail, "worker-1")
    fill(poison, 3)
    sink = PickySink(lambda line: poison.log_id.encode() in line)
    delivery = deliverer(trail, sink)
    with pytest.raises(Hold):
        delivery.step()
    lines = fill(good, 2)
    with pytest.raises(Hold):
        delivery.step()
    assert sink.got == lines
    drain(delivery)
    assert len(letters(trail)) == 3
    for each in (poison, good):
        each.close()


def test_what_arrived_before_a_failure_is_not_sent_again(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 16)

    class Fails(ListSink):
        def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
            if len(items) > 4:
                raise Split("too many")
            if self.down and len(self.got) >= 8:
                raise Retry("later")
            self.got += [item.line for item in items]
            return ()

    sink = Fails()
    sink.down = True
    delivery = deliverer(trail, sink)
    with pytest.raises(Retry):
        delivery.step()
    again = ListSink()
    drain(deliverer(trail, again))
    assert sink.got + again.got == lines


def test_a_receiver_that_asks_for_time_gets_it_within_reason(trail: Path) -> None:
    delivery = deliverer(trail, ListSink(), jitter=lambda: 0.0)
    assert delivery.failed(Retry("busy", 7)) == 7
    assert delivery.failed(Retry("busy", 10**6)) == 300
    assert delivery.failed(Retry("busy")) == 0


def test_it_is_said_once_when_a_sink_goes_down_is_held_or_is_up_again(trail: Path) -> None:
    said: list[tuple[str, str, str]] = []
    delivery = deliverer(trail, ListSink(), report=lambda *news: said.append(news))
    for _ in range(20):
        delivery.failed(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    for _ in range(3):
        delivery.failed(Hold("status 401"))
    delivery.well()
    delivery.well()
    delivery.failed(ValueError("https://host/?token=secret"))
    assert delivery.condition.last_error == "ValueError"
    assert said == [("list", "down", "connection refused"), ("list", "held", "status 401"), ("list", "up", "")]


def test_a_batch_waits_until_it_is_full_or_old_or_its_segment_is_done(trail: Path, spool: Spool) -> None:
    now = [0.0]
    sink = ListSink()
    outlet = Outlet(sink, Batch(1000, 8000, linger=60))
    delivery = Delivery(trail, SealedSource(trail, open_key), outlet, monotonic=lambda: now[0])
    lines = fill(spool, 3)
    delivery.step()
    now[0] = 59
    delivery.step()
    assert sink.got == []
    now[0] = 60
    drain(delivery)
    assert sink.got == lines
    lines += fill(spool, 200)
    drain(delivery)
    assert 100 < len(sink.got) < len(lines)
    assert sink.got == lines[: len(sink.got)]
    delivery.step(final=True)
    assert sink.got == lines


def test_lag_is_the_age_of_the_oldest_event_that_is_not_there(trail: Path, spool: Spool) -> None:
    spool.append(lambda seq: b'{"seq":%d,"time":"2020-01-01T00:00:00.000000Z"}' % seq)
    sink = ListSink()
    sink.down = True
    exporter = Exporter(trail, [Outlet(sink)], source=SealedSource(trail, open_key))
    with pytest.raises(OSError):
        exporter._deliveries[0].step()
    assert exporter.ledger()["list"]["lag"] > 3600 * 24 * 365
    sink.down = False
    drain(exporter._deliveries[0])
    assert exporter.ledger()["list"]["lag"] == 0.0


def test_a_sink_has_a_segment_once_its_durable_cursor_stands_behind_the_last_whole_frame(
    trail: Path, spool: Spool
) -> None:
    fill(spool, 3)
    segment = segments(trail)[0]
    up, down = ListSink("up"), ListSink("down")
    down.down = True
    exporter = Exporter(trail, [Outlet(up), Outlet(down)], source=SealedSource(trail, open_key))
    one, other = exporter._deliveries
    assert not one.has(segment)
    drain(one)
    assert one.has(segment)
    assert not exporter.delivered(segment)
    down.down = False
    drain(other)
    assert exporter.delivered(segment)
    part = spool._part
    with segment.path.open("ab") as file:
        file.write(part.segment.seal(Kind.EVENT, bytes(99), part.size, 99, part.events)[:50])  # nobody will ever end it
    assert exporter.delivered(segment)
    assert Exporter(trail, [], source=SealedSource(trail, open_key)).delivered(segment)


def test_with_more_to_come_the_cursor_lags_a_moment_and_a_crash_repeats_but_never_skips(
    trail: Path, spool: Spool
) -> None:
    lines = fill(spool, 600)
    now = [0.0]
    sink = ListSink()
    delivery = deliverer(trail, sink, chunk_bytes=1000, monotonic=lambda: now[0])
    assert delivery.step()
    assert not delivery.has(segments(trail)[0])
    again = ListSink()
    drain(deliverer(trail, again, chunk_bytes=1000))
    assert again.got == lines
    assert sink.got == lines[: len(sink.got)]
    now[0] = 1.0
    while delivery.step():
        pass
    assert delivery.has(segments(trail)[0])
    other = ListSink("other")
    delivery = deliverer(trail, other, chunk_bytes=1000, monotonic=lambda: now[0])
    assert delivery.step()
    rest = ListSink("other")
    drain(deliverer(trail, rest, chunk_bytes=1000))
    assert other.got + rest.got == lines


def test_a_segment_of_another_version_holds_up_its_own_log_alone(trail: Path, spool: Spool) -> None:
    lines = fill(spool, 5)
    strange = trail / "control-20200101T000000Z-0123456789abcdef.000000.seg"
    strange.write_bytes(b"EXTAZSEG\xff\xff" + bytes(400))
    sink = ListSink()
    delivery = deliverer(trail, sink)
    with pytest.raises(Hold, match="format version 65535"):
        delivery.step()
    assert sink.got == lines
    with pytest.raises(Hold):
        delivery.step()
    strange.unlink()
    delivery.step()
    assert sink.got == lines


def test_damage_ahead_of_a_sink_that_is_down_is_not_taken_for_delivered(trail: Path, spool: Spool) -> None:
    """Else retention would delete what stands behind it, and nobody would count that."""
    lines = fill(spool, 6)
    spool.rotate()
    segment = segments(trail)[0]
    ends = [each.end for each in frames(segment.path.read_bytes()[HEADER_BYTES:])]
    data = bytearray(segment.path.read_bytes())
    data[ends[0]] ^= 0x40
    segment.path.write_bytes(data)
    sink = ListSink()
    sink.down = True
    exporter = Exporter(trail, [Outlet(sink)], source=SealedSource(trail, open_key))
    delivery = exporter._deliveries[0]
    with pytest.raises(ConnectionRefusedError):
        delivery.step()
    assert not exporter.delivered(segment)
    sink.down = False
    drain(delivery)
    assert exporter.delivered(segment)
    assert [line for line in sink.got if b"log" in line and b"schema" not in line] == lines[1:]
    book = exporter.ledger()["list"]
    assert (book["dropped"], book["pending"]) == (1, 0)
    assert book["emitted"] == book["delivered"] + book["dropped"]
