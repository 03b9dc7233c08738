"""Group commit: everybody is answered once, with True only for what is durable."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trails import new_spool

from ext_authz.audit.spool import Committer

FAR = time.time_ns() + 3600 * 10**9


class Disk:
    """A log whose sync can be held up or fail."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.well = True
        self.syncs = 0
        self.error: Exception | None = None

    def sync(self) -> bool:
        self.syncs += 1
        self.entered.release()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return self.well

    def check(self) -> None:
        pass


class Answers:
    def __init__(self) -> None:
        self.given: list[bool] = []
        self.came = threading.Semaphore(0)

    def __call__(self, durable: bool) -> None:
        self.given.append(durable)
        self.came.release()

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.came.acquire(timeout=10)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def committer(disk: Disk) -> Iterator[Committer]:
    made = Committer(disk, background_seconds=3600, max_waiting=5)
    made.start()
    yield made
    disk.gate.set()
    made.stop()


@pytest.mark.parametrize("well", [True, False])
def test_a_caller_hears_what_the_disk_said(committer: Committer, disk: Disk, well: bool) -> None:
    disk.well = well
    answers = Answers()
    committer.commit(answers, FAR)
    answers.wait()
    assert answers.given == [well]
    assert committer.waiting == 0


def test_those_who_come_during_a_sync_wait_for_the_next_one_together(committer: Committer, disk: Disk) -> None:
    disk.gate.clear()
    first, later = Answers(), Answers()
    committer.commit(first, FAR)
    assert disk.entered.acquire(timeout=10)
    for _ in range(4):
        committer.commit(later, FAR)
    before = disk.syncs
    disk.gate.set()
    first.wait()
    later.wait(4)
    assert later.given == [True] * 4
    assert disk.syncs == before + 1


def test_a_disk_that_hangs_holds_nobody_beyond_the_deadline(committer: Committer, disk: Disk) -> None:
    disk.gate.clear()
    answers = Answers()
    committer.commit(answers, time.time_ns() + 20_000_000)
    answers.wait()
    assert answers.given == [False]
    disk.gate.set()
    again = Answers()
    committer.commit(again, FAR)
    again.wait()
    assert answers.given == [False]
    assert committer.expired == 1


def test_a_nearer_deadline_than_those_before_is_kept(committer: Committer, disk: Disk) -> None:
    disk.gate.clear()
    patient, hasty = Answers(), Answers()
    committer.commit(patient, FAR)
    committer.commit(hasty, time.time_ns() - 1)
    hasty.wait()
    assert hasty.given == [False]
    assert patient.given == []


def test_more_than_can_be_parked_are_refused_at_once(committer: Committer, disk: Disk) -> None:
    disk.gate.clear()
    parked, refused = Answers(), Answers()
    for _ in range(5):
        committer.commit(parked, FAR)
    committer.commit(refused, FAR)
    assert refused.given == [False]
    disk.gate.set()
    parked.wait(5)
    assert parked.given == [True] * 5


def test_a_callback_that_fails_does_not_keep_others_waiting(committer: Committer, disk: Disk) -> None:
    disk.gate.clear()
    answers = Answers()

    def broken(_: bool) -> None:
        raise ZeroDivisionError

    committer.commit(broken, FAR)
    committer.commit(answers, FAR)
    disk.gate.set()
    answers.wait()
    assert answers.given == [True]
    assert committer.errors == 1


def test_a_bug_in_the_log_is_a_no(committer: Committer, disk: Disk) -> None:
    disk.error = ZeroDivisionError()
    answers = Answers()
    committer.commit(answers, FAR)
    answers.wait()
    assert answers.given == [False]


def test_stopping_answers_everybody_and_takes_no_more(disk: Disk) -> None:
    committer = Committer(disk)
    answers = Answers()
    committer.start()
    with pytest.raises(RuntimeError):
        committer.start()
    committer.commit(answers, FAR)
    committer.stop()
    committer.commit(answers, FAR)
    assert len(answers.given) == 2
    assert answers.given[-1] is False


def test_stopping_does_not_wait_for_a_disk_that_hangs(disk: Disk) -> None:
    committer = Committer(disk)
    answers = Answers()
    disk.gate.clear()
    committer.start()
    committer.commit(answers, FAR)
    committer.stop(seconds=0.01)
    assert answers.given == [False]
    disk.gate.set()


def test_what_nobody_waits_for_reaches_the_disk_by_itself(disk: Disk) -> None:
    committer = Committer(disk, background_seconds=0.001)
    committer.start()
    for _ in range(3):
        assert disk.entered.acquire(timeout=10)
    committer.stop()


def test_with_a_real_spool_the_answer_means_it_is_synced(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "audit")
    committer = Committer(spool)
    committer.start()
    answers = Answers()
    spool.append(lambda seq: b"{}")
    committer.commit(answers, FAR)
    answers.wait()
    assert answers.given == [True]
    assert spool._part.synced == spool.size > 3
    committer.stop()
    spool.close()
