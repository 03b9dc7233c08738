"""Power fails at any moment: what was acknowledged as durable is there, nothing looks altered, no cursor leads.

`HYPOTHESIS_PROFILE=thorough pytest tests/faults/test_power_loss.py` tries 2,000 histories of each kind.
"""

import contextlib
import random
import re
import tempfile
from pathlib import Path

import orjson
import pytest
from altered import abandon, event, verified
from hypothesis import event as seen
from hypothesis import given
from hypothesis import strategies as st
from trails import Trail, new_spool, open_key
from volatile_disk import PowerLoss, VolatileDisk

from ext_authz.audit.boot import record_start
from ext_authz.audit.delivery import Batch, Delivery, Outlet
from ext_authz.audit.sinks import Hold, Refused
from ext_authz.audit.sinks.file import FileSink
from ext_authz.audit.source import SealedSource
from ext_authz.audit.spool import AuditUnavailable

STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 12), st.sampled_from([1, 300, 5000])),
    st.tuples(st.just("batch"), st.integers(1, 12), st.sampled_from([1, 300, 5000])),
    st.tuples(st.sampled_from(["sync", "checkpoint", "rotate", "deliver", "look", "restart"])),
    st.tuples(st.sampled_from(["bad disk", "worse disk", "bad end"])),
)


class Machine:
    """One process at a time on a disk that forgets; `durable` is what somebody was told is on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trail = root / "run" / "audit"
        self.copy = root / "copy.jsonl"
        self.durable: dict[str, bytes] = {}
        self.new: dict[str, bytes] = {}
        self.spool = None

    def start(self) -> None:
        self.spool = new_spool(self.trail)
        record_start(self.spool, "worker-0", open_key)
        self.delivery = delivery(self.root)

    def make(self, size: int):
        def line(seq: int) -> bytes:
            made = event(self.spool.log_id, seq, pad="x" * size)
            self.new[f"{self.spool.log_id}:{seq}"] = made
            return made

        return line

    def do(self, disk: VolatileDisk, what: str, count: int = 0, size: int = 0) -> None:
        spool = self.spool
        if what == "append":
            for _ in range(count):
                spool.append(self.make(size))
        elif what == "batch":
            spool.append_all([self.make(size)] * count)
        elif what == "sync":
            self.sync()
        elif what == "checkpoint":
            spool._checkpoint("interval")
        elif what == "rotate":
            spool.keys.wait(spool._number + 1, 5)
            spool.rotate()
        elif what == "deliver":
            self.delivery.step(final=True)
        elif what == "look":
            spool.check()
        elif what in {"bad disk", "worse disk"}:
            # The worse one also fails the segment that everything is sealed in again.
            disk.failing_syncs = 1 if what == "bad disk" else 3
            self.sync()
            disk.failing_syncs = 0
        else:
            disk.failing_syncs = int(what == "bad end")
            self.spool.keys.wait(self.spool._number + 1, 5)
            spool.close()
            disk.failing_syncs = 0
            if not spool._broken:
                self.durable.update(self.new)
            self.new = {}
            self.start()

    def sync(self) -> None:
        before = dict(self.new)
        self.spool.keys.wait(self.spool._number + 1, 5)
        if self.spool.sync():
            self.durable.update(before)


class Refusing(FileSink):
    """A file that refuses every fifth event for good, so that dead letters are written."""

    def deliver(self, items):
        taken = [each for each in items if not refuses(each.event_id)]
        if taken:
            super().deliver(taken)
        return [Refused(index, "no") for index, each in enumerate(items) if refuses(each.event_id)]


def refuses(event_id: str) -> bool:
    number = event_id.rpartition(":")[2]
    return number.isdigit() and int(number) % 5 == 4


def delivery(root: Path) -> Delivery:
    trail = root / "run" / "audit"
    sink = Refusing("copy", root / "copy.jsonl", lambda item: item.line)
    return Delivery(trail, SealedSource(trail, open_key), Outlet(sink, Batch(events=5)), monotonic=lambda: 0.0)


def run(root: Path, steps, fail_at: int) -> tuple[Machine, VolatileDisk]:
    (root / "run").mkdir(parents=True, mode=0o700)
    machine, disk = Machine(root), VolatileDisk(root)
    with disk.watching():
        disk.fail_at = fail_at
        with contextlib.suppress(PowerLoss):
            machine.start()
            for step in steps:
                # A disk that failed, or a sink that refused: what counts is what was said of it.
                with contextlib.suppress(AuditUnavailable, OSError, Hold):
                    machine.do(disk, *step)
    return machine, disk


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "reordered"])
@given(
    steps=st.lists(STEPS, min_size=1, max_size=14),
    fail_at=st.integers(0, 400) | st.just(10**9),
    chance=st.integers(0, 2**32),
)
def test_what_was_durable_is_in_the_trail_and_nothing_looks_altered(ordered, steps, fail_at, chance):
    with tempfile.TemporaryDirectory() as folder:
        root, left = Path(folder, "root"), Path(folder, "left")
        machine, disk = run(root, steps, fail_at)
        rng = random.Random(chance)
        disk.after_power_loss(left, lambda most: rng.randint(0, most), ordered=ordered)
        disk.close()
        if machine.spool is not None and not machine.spool._closed:
            abandon(machine.spool)
        trail = left / "run" / "audit"
        found = kept(trail)
        lost = machine.durable.keys() - found.keys()
        assert not lost, f"said to be durable and gone: {sorted(lost)}"
        assert all(found[key] == line for key, line in machine.durable.items())
        judged(trail)
        # The next start goes on, says what it found, and delivers from the cursors as they are.
        again = Machine(left)
        again.start()
        again.sync()
        for _ in range(100):
            try:
                if not again.delivery.step(final=True):
                    break
            except Hold:  # of one log all is refused: others must show whose fault that is
                again.do(disk, "append", 2, 1)
        trail_now = kept(trail)
        assert machine.durable.keys() <= trail_now.keys()
        copied = named(left / "copy.jsonl")
        letters = {each for path in (trail / "dead-letters").glob("*.jsonl") for each in named(path)}
        missing = trail_now.keys() - copied - letters
        assert not missing, f"a cursor leads: {len(missing)} events are neither delivered nor pending"
        again.spool.close()
        judged(trail)
        seen(f"durable: {bool(machine.durable)}")


def named(copy: Path) -> set[str]:
    """Return the events in a sink's file; a line with zeros in it was being written when power failed, and is none."""
    return {orjson.loads(line)["event_id"] for line in copy.read_bytes().splitlines() if b"\0" not in line}


def kept(trail: Path) -> dict[str, bytes]:
    """Return the events; each comes once, in order of its log, and what is said to be missing is."""
    if not trail.exists():
        return {}
    read = Trail([trail], open_key)
    found = {}
    numbers: dict[str, list[int]] = {}
    for entry in read.entries():
        log_id, _, number = entry.event["event_id"].rpartition(":")
        found[entry.event["event_id"]] = entry.line
        numbers.setdefault(log_id, []).append(int(number))
    for log_id, met in numbers.items():
        assert met == sorted(set(met)), f"not in order, or twice: {log_id}: {met}"
    for gap in read.gaps():
        log_id, first, last = re.fullmatch("(.*): ([0-9]+) to ([0-9]+) are missing", gap).groups()
        there = set(range(int(first), int(last) + 1)).intersection(numbers.get(log_id, ()))
        assert not there, f"said to be missing and there: {gap}: {there}"
    return found


def judged(trail: Path) -> None:
    """Nothing may look altered; missing may be what no sync had covered: a hole, or the end of an older segment."""
    if not trail.exists():
        return
    for report in (verified(trail), verified(trail, decrypt=False)):
        problems = [str(each) for each in report.problems]
        seen(f"status {report.status}")
        assert report.status in (0, 4), problems
    # A page that was zeroed says nothing of an event that somebody was told is durable: those are compared one by one.
