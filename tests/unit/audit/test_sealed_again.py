"""A failed fdatasync, then a power failure with pages out of order: what was sealed again is there for every reader.

The log: segment 0 with events 0 to 2, segment 1 with 3 and 4, neither on the disk; the sync fails; segment 2 has all of
it again, and goes on. Of segment 0 the power failure takes the pages, while those of segment 1 arrived.
"""

import os
import shutil
from pathlib import Path

import pytest
from altered import abandon, add, copied, files, opened, verified
from trails import KEYS, SIGNER, fail_one_sync, lines, new_spool, open_key, trail

from ext_authz.audit.boot import record_start
from ext_authz.audit.delivery import Batch, Delivery, Outlet
from ext_authz.audit.ledger import Ledger
from ext_authz.audit.order import Numbers, merged
from ext_authz.audit.proof import check, prove
from ext_authz.audit.report import State
from ext_authz.audit.sealing import DataKeys, Opener
from ext_authz.audit.segment import HEADER_BYTES
from ext_authz.audit.sinks.file import FileSink
from ext_authz.audit.source import SealedSource
from ext_authz.audit.spool import Limits, Spool
from ext_authz.monitor.feeds import TrailFeed
from ext_authz.tools.trail_fold import chunks_of, lines_of


def blank_all(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def blank_frames(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:HEADER_BYTES].ljust(size, b"\0"))


def nothing(path: Path) -> None:
    """Only the disk failed."""


LOSSES = pytest.mark.parametrize("lose", [blank_all, blank_frames, lambda path: os.truncate(path, 0), nothing])


@pytest.fixture
def spool(tmp_path, monkeypatch):
    made = new_spool(tmp_path / "audit")
    record_start(made, "worker-0", open_key)
    add(made, 2)
    made.keys.wait(1, 5)
    assert made.rotate()
    add(made, 2)
    made.keys.wait(2, 5)
    with monkeypatch.context() as patched:
        fail_one_sync(patched)
        assert made.sync()
    add(made, 2)
    yield made
    if not made._closed:
        made.close()


def numbers(found) -> list[int]:
    return [entry.event["seq"] for entry in found.entries()]


@LOSSES
def test_the_reader_has_every_event_once_in_order_and_speaks_of_no_gap(spool, lose):
    spool.close()
    lose(files(spool.directory)[0])
    found = trail(spool.directory)
    assert [opened(path).header.first_seq for path in files(spool.directory)[1:]] == [3, 0]
    assert numbers(found) == list(range(7))
    assert found.gaps() == []


@LOSSES
@pytest.mark.parametrize("decrypt", [True, False])
def test_verify_finds_the_trail_whole(spool, lose, decrypt):
    spool.close()
    lose(files(spool.directory)[0])
    report = verified(spool.directory, decrypt=decrypt)
    assert (report.status, [str(each) for each in report.problems]) == (0, [])
    assert (report.logs[0].end, report.logs[0].events, report.logs[0].state) == (7, 7, State.SEALED)


@LOSSES
def test_every_event_can_be_proven(spool, lose):
    spool.close()
    lose(files(spool.directory)[0])
    for seq in range(7):
        proven = prove([spool.directory], f"{spool.log_id}:{seq}", open_key, [SIGNER.key])
        assert check(proven, [SIGNER.key])[0]["seq"] == seq


@LOSSES
def test_sinks_the_monitor_and_folds_have_every_event(spool, lose, tmp_path):
    spool.close()
    lose(files(spool.directory)[0])
    sink = FileSink("copy", tmp_path / "copy.jsonl", lambda item: item.line)
    delivery = Delivery(spool.directory, SealedSource(spool.directory, open_key), Outlet(sink, Batch()))
    while delivery.step(final=True):
        pass
    copy = trail(tmp_path / "copy.jsonl")
    assert {each.event["seq"] for each in copy.entries() if each.event["schema"] != "ext_authz.checkpoint/1"} == set(
        range(7)
    )
    assert [each["seq"] for each in TrailFeed([spool.directory], open_key).entries()] == list(range(7))
    opener = Opener(open_key)
    folded = b"\n".join(line or b"" for chunk in chunks_of([spool.directory]) for line in lines_of(chunk, opener))
    assert all(f'"event_id":"{spool.log_id}:{seq}"'.encode() in folded for seq in range(7))


def test_a_reader_that_had_passed_over_a_hole_gets_it_from_the_segment_that_comes_later(tmp_path, monkeypatch):
    """The page was dropped by the failed sync, and is read back as zeros before all is sealed again."""
    spool = new_spool(tmp_path / "audit")
    add(spool, 2)
    assert spool.sync()
    whole = spool.size
    add(spool, 2)
    first = files(spool.directory)[0]
    with_hole = first.read_bytes()[:whole] + bytes(4096)
    spool.keys.wait(1, 5)
    assert spool.rotate()
    add(spool, 1)
    shown = copied(spool.directory, tmp_path / "shown")
    (shown / first.name).write_bytes(with_hole)
    found = trail(shown)
    assert numbers(found) == [0, 1, 4]
    assert found.gaps() == [f"{spool.log_id}: 2 to 3 are missing"]
    spool.keys.wait(2, 5)
    fail_one_sync(monkeypatch)
    assert spool.sync()
    for path in spool.directory.glob("*.000002.*"):
        shutil.copy(path, shown)
    assert numbers(found) == [2, 3]
    assert found.gaps() == []
    spool.close()


def test_a_seal_that_the_disk_did_not_take_is_sealed_again_and_no_alteration(tmp_path, monkeypatch):
    spool = new_spool(tmp_path / "audit")
    add(spool, 3)
    assert spool.certify()
    spool.keys.wait(1, 5)
    fail_one_sync(monkeypatch)
    spool.close()
    assert len(files(spool.directory)) == 2
    report = verified(spool.directory)
    assert (report.status, [str(each) for each in report.problems], report.logs[0].state) == (0, [], State.SEALED)


def test_a_segment_has_its_name_only_when_all_that_it_repeats_is_on_the_disk(tmp_path, monkeypatch):
    """A process that is killed while it seals again leaves a draft, which nobody reads."""
    spool = new_spool(tmp_path / "audit")
    add(spool, 3)
    spool.keys.wait(1, 5)
    fail_one_sync(monkeypatch)
    real = os.pread

    def killed(*_):
        monkeypatch.setattr(os, "pread", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pread", killed)
    with pytest.raises(KeyboardInterrupt):
        spool.sync()
    abandon(spool)
    assert [path.suffix for path in sorted(spool.directory.glob("worker*1.*"))] == [".draft", ".key"]
    assert numbers(trail(spool.directory)) == [0, 1, 2]
    assert verified(spool.directory).status == 0


def test_what_a_later_segment_repeats_must_be_the_same_and_all_there(spool):
    spool.close()
    assert verified(spool.directory).status == 0
    last = files(spool.directory)[-1]
    os.truncate(last, HEADER_BYTES)
    report = verified(spool.directory)
    assert report.status == 4
    assert "are missing in the segment that was to repeat them" in " ".join(str(each) for each in report.problems)
    assert numbers(trail(spool.directory)) == list(range(5))


@pytest.mark.parametrize("after", [2, 5], ids=["behind the segment that repeats too little", "in the same segment"])
def test_nobody_with_the_trails_key_alone_can_replace_signed_events_by_pretending_that_a_disk_failed(tmp_path, after):
    """Forged segments begin with the log, so that readers take what they have for what the old segment lost."""
    victim = new_spool(tmp_path / "audit")
    add(victim, 5)
    assert victim.certify()
    abandon(victim)
    signed = lines(victim.directory)
    forger = new_spool_of(tmp_path / "forged", victim.log_id)
    for seq in range(5):
        if seq == after:
            assert forger.rotate()
        made = signed[seq] if seq < 2 else signed[seq].replace(b'"allow"', b'"deny"')
        forger.append(lambda _, made=made: made)
        forger.keys.wait(2, 5)
    abandon(forger)
    for path in (*forger.directory.glob("*.000001.*"), *forger.directory.glob("*.000002.*")):
        shutil.copy(path, victim.directory)
    report = verified(victim.directory)
    assert report.status == 1
    assert "events 2-4 are others in the next segment" in " ".join(str(each) for each in report.problems)


def new_spool_of(folder: Path, log_id: str) -> Spool:
    """Begin a log of that name without a signing key; all that it will hold stands in segments 1 and 2."""

    class Silent:
        key = SIGNER.key

        def sign(self, message):
            raise OSError("away")

    folder.mkdir(mode=0o700)
    keys = DataKeys(KEYS, log_id)
    keys.wrap(0)
    keys.wrap(1)
    made = Spool(folder, log_id, bytes(32), keys, Ledger(log_id, Silent()), Limits())
    assert made.rotate()
    return made


def test_numbers_that_were_passed_over_are_met_once_and_then_are_no_gap():
    met = Numbers()
    met.skip_to(2, known=True)
    assert [met.meet(seq) for seq in (2, 5, 5, 9)] == [True, True, False, True]
    assert met.gaps() == [(3, 4), (6, 8)]
    assert [met.meet(seq) for seq in (7, 7, 0, 2, 3, 4, 3)] == [True, False, True, False, True, True, False]
    assert met.gaps() == [(6, 6), (8, 8)]
    assert (met.meet(1), met.meet(6), met.meet(8), met.gaps(), met.next) == (True, True, True, [], 10)


def test_sources_are_begun_when_their_turn_comes_and_the_first_goes_first():
    begun = []

    def source(name, *places):
        begun.append(name)
        for place in places:
            yield place, name

    made = merged([(0, source("a", 0, 1, 4)), (1, source("b", 1, 5)), (7, source("c"))], lambda item: item[0])
    assert (next(made), begun) == ((0, "a"), ["a"])
    assert list(made) == [(1, "a"), (1, "b"), (4, "a"), (5, "b")]
    assert begun == ["a", "b", "c"]
