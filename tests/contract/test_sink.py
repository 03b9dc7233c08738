"""What every sink promises, over its real server where one can be run here."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from audit_events import EVENTS, HOSTILE, LOG, TIME, item, poisoned
from sink_servers import RIGS, Rig, until_received
from trails import entries, new_spool, open_key

from ext_authz.audit.delivery import Batch, Delivery, Outlet
from ext_authz.audit.exporter import Exporter
from ext_authz.audit.sinks import Hold, Item, Retry, Split
from ext_authz.audit.source import SealedSource


@pytest.fixture(params=sorted(RIGS))
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    folder = tmp_path / "rig"
    folder.mkdir()
    made = RIGS[request.param](folder)
    yield made
    made.close()


def items(count: int, start: int = 0, log: str = LOG) -> list[Item]:
    return [item(EVENTS["allow"] | {"event_id": f"{log}:{seq}", "seq": seq}) for seq in range(start, start + count)]


def ids(some: list[Item]) -> list[str]:
    return [each.event_id for each in some]


def first_times(received: list[str]) -> list[str]:
    return list(dict.fromkeys(received))


def test_what_is_delivered_is_there_whole_and_in_order(rig: Rig) -> None:
    sink = rig.sink()
    batches = [items(50), items(1, 50), items(70, 51)]
    for batch in batches:
        assert list(sink.deliver(batch)) == []
    sink.close()
    wanted = ids([each for batch in batches for each in batch])
    until_received(rig, set(wanted))
    assert first_times(rig.received()) == wanted
    if not sink.best_effort:
        assert rig.received() == wanted


def test_every_kind_of_event_and_any_text_in_it_arrives(rig: Rig) -> None:
    sink = rig.sink()
    sent = []
    for number, event in enumerate(EVENTS.values()):
        for offset, made in enumerate((event, poisoned(event))):
            seq = 2 * number + offset
            sent.append(item(made | {"event_id": f"{LOG}:{seq}", "seq": seq}))
    assert list(sink.deliver(sent)) == []
    sink.close()
    until_received(rig, set(ids(sent)))


def test_what_comes_twice_is_there(rig: Rig) -> None:
    sink = rig.sink()
    some = items(20)
    for batch in (some, some, some[5:], items(25)):
        assert list(sink.deliver(batch)) == []
    sink.close()
    until_received(rig, set(ids(items(25))))
    assert first_times(rig.received()) == ids(items(25))
    if rig.once and type(rig).__name__ != "KafkaRig":
        assert rig.received() == ids(items(25))


def test_a_checkpoint_between_two_events_keeps_its_place(rig: Rig) -> None:
    sink = rig.sink()
    checkpoints = [item(EVENTS["checkpoint"] | {"event_id": f"{LOG}:c{number}", "seq": 2}) for number in (0, 1)]
    some = [*items(2), *checkpoints, *items(2, 2)]
    for batch in (some[:3], some[3:], some):
        assert list(sink.deliver(batch)) == []
    sink.close()
    until_received(rig, set(ids(some)))
    assert first_times(rig.received()) == ids(some)


def test_two_logs_do_not_disturb_each_other(rig: Rig) -> None:
    sink = rig.sink()
    other = LOG.replace("worker-0", "worker-1")
    for start in range(0, 30, 10):
        for log in (LOG, other):
            assert list(sink.deliver(items(10, start, log))) == []
    sink.close()
    until_received(rig, {*ids(items(30)), *ids(items(30, 0, other))})
    for log in (LOG, other):
        assert [each for each in first_times(rig.received()) if each.startswith(log)] == ids(items(30, 0, log))


def test_a_name_is_stable_and_closing_twice_is_fine(rig: Rig) -> None:
    first, second = rig.sink(), rig.sink()
    assert first.name == second.name
    assert not any(secret in first.name for secret in ("t0ken", "a2V5", "pw"))
    for sink in (first, second):
        sink.close()
        sink.close()


def test_while_it_is_down_delivering_says_to_try_again_and_afterwards_works(rig: Rig) -> None:
    if not rig.falls:
        pytest.skip("cannot go down and keep what it has")
    sink = rig.sink(**({"timeout": 2} if rig.falls else {}))
    sink.deliver(items(5))
    rig.down()
    outcomes = []
    for _ in range(3):
        try:
            sink.deliver(items(5, 5))
        except (Retry, OSError) as error:
            outcomes.append(error)
        except (Hold, Split) as error:
            pytest.fail(f"{error!r} where nobody is there")
    assert outcomes
    rig.up()
    deliver_at_last(lambda: sink.deliver(items(5, 5)))
    sink.deliver(items(1, 10))
    sink.close()
    until_received(rig, set(ids(items(11))))


def deliver_at_last(deliver: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            deliver()
        except (Retry, OSError):
            assert time.monotonic() < end
            time.sleep(0.1)
        else:
            return


def test_through_the_exporter_everything_arrives_however_often_it_goes_down(rig: Rig, tmp_path: Path) -> None:
    trail = tmp_path / "audit"
    spools = [new_spool(trail, name) for name in ("worker-0", "worker-1")]
    lines: dict[str, list[str]] = {spool.log_id: [] for spool in spools}
    sink = rig.sink(**({"timeout": 2} if rig.falls else {}))
    delivery = Delivery(
        trail, SealedSource(trail, open_key), Outlet(sink, Batch(events=7, bytes=8192)), jitter=lambda: 0.1
    )

    def write(count: int) -> None:
        for spool in spools:
            for _ in range(count):
                spool.append(lambda seq, spool=spool: event(spool.log_id, seq))
                lines[spool.log_id].append(f"{spool.log_id}:{len(lines[spool.log_id])}")

    def event(log: str, seq: int) -> bytes:
        return orjson.dumps(
            EVENTS["allow"] | {"event_id": f"{log}:{seq}", "seq": seq, "time": TIME, "policy_id": HOSTILE},
            option=orjson.OPT_SORT_KEYS,
        )

    def step() -> bool:
        try:
            return delivery.step()
        except (Retry, OSError):
            time.sleep(0.05)
            return True

    for _ in range(3):
        write(20)
        step()
        if rig.falls:
            rig.down()
            write(3)
            step()
            step()
            rig.up()
    for spool in spools:
        spool.close()
    end = time.monotonic() + 30
    while step():
        assert time.monotonic() < end
    sink.close()
    kept = [entry.event["event_id"] for entry in entries(trail)]
    assert {each for log in lines.values() for each in log} == set(kept)
    until_received(rig, set(kept))
    received = first_times(rig.received())
    events = [each for each in received if ":c" not in each]  # the rest are the logs' checkpoints
    for log in lines:
        assert [each for each in events if each.startswith(log)] == [each for each in kept if each.startswith(log)]
    assert len(events) == len(kept)
    assert not (trail / "dead-letters").exists()
    ledger = Exporter(trail, [Outlet(rig.sink())], source=SealedSource(trail, open_key)).ledger()[sink.name]
    assert (ledger["delivered"], ledger["pending"], ledger["dropped"]) == (len(received), 0, 0)
