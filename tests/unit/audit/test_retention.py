"""Old segments go once every sink has them, and nothing else goes."""

import os
import time

import pytest
from trails import lines, new_spool, open_key, trail

from ext_authz.audit.retention import BELIEVED_SECONDS, STRAY_SECONDS, UnhurriedClock, prune
from ext_authz.audit.trail import DRAFT_SUFFIX, segments
from ext_authz.envelope.errors import KeyUnavailableError

DAY = 86_400


def a_trail(folder):
    spool = new_spool(folder)
    for number in range(3):
        spool.append(lambda seq: b'{"seq":%d}' % seq)
        if number < 2:
            assert spool.rotate()
            spool.keys.wait(spool._number + 1, 5)
    spool.sync()
    for each in segments(folder):
        os.utime(each.path, (0, 0))
    return spool


def test_what_is_old_ended_and_delivered_goes_with_its_key_and_what_is_written_stays(tmp_path):
    spool = a_trail(tmp_path)
    assert [int(name[-10:-4]) for name in prune(tmp_path, DAY, lambda _: True)] == [0, 1]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".key", ".key", ".seg"]
    found = trail(tmp_path)
    assert [entry.event["seq"] for entry in found.entries()] == [2]
    assert found.gaps() == []
    spool.append(lambda seq: b'{"seq":%d}' % seq)
    spool.close()
    assert len(lines(tmp_path)) == 2
    assert prune(tmp_path, DAY, lambda _: True) == []
    os.utime(segments(tmp_path)[0].path, (0, 0))
    assert len(prune(tmp_path, DAY, lambda _: True)) == 1
    assert segments(tmp_path) == []


def test_what_a_sink_lacks_or_is_young_stays(tmp_path):
    spool = a_trail(tmp_path)
    spool.close()
    assert prune(tmp_path, DAY, lambda _: False) == []
    os.utime(segments(tmp_path)[1].path)
    assert [int(name[-10:-4]) for name in prune(tmp_path, DAY, lambda _: True)] == [0]


def test_a_log_goes_from_its_beginning_so_that_none_has_a_gap(tmp_path):
    spool = a_trail(tmp_path)
    spool.close()
    assert prune(tmp_path, DAY, lambda each: each.number > 0) == []
    os.utime(segments(tmp_path)[0].path)
    assert prune(tmp_path, DAY, lambda _: True) == []


@pytest.mark.parametrize("key", ["there", "deleted", "away", "altered"])
def test_a_file_whose_time_was_set_back_is_not_deleted_on_record(tmp_path, key):
    a_trail(tmp_path).close()
    asked = []

    def opened():
        asked.append(1)
        if key == "away":
            raise KeyUnavailableError("no answer")
        return open_key()

    for each in segments(tmp_path):
        if key == "deleted":
            each.key.unlink()
        elif key == "altered":
            each.path.write_bytes(each.path.read_bytes()[:24] + bytes(8) + each.path.read_bytes()[32:])
            os.utime(each.path, (0, 0))
    assert prune(tmp_path, DAY, lambda _: True, open_key=opened) == []
    later = time.time() + 2 * DAY
    assert len(prune(tmp_path, DAY, lambda _: True, open_key=opened, clock=lambda: later)) == 3
    assert len(asked) == (0 if key == "deleted" else 2)


def test_a_key_without_its_segment_goes_after_a_while_and_other_keys_never(tmp_path):
    spool = a_trail(tmp_path)
    spool.close()
    for each in segments(tmp_path):
        each.path.unlink()
    assert prune(tmp_path, DAY, lambda _: True) == []
    assert len(list(tmp_path.glob("worker*.key"))) == 3
    later = time.time() + 2 * STRAY_SECONDS
    prune(tmp_path, DAY, lambda _: True, clock=lambda: later)
    assert [path.name for path in tmp_path.glob("*.key")] == ["query.key"]


def test_a_draft_that_a_crash_left_goes_after_a_while_with_its_key_and_other_files_never(tmp_path):
    spool = a_trail(tmp_path)
    spool.close()
    draft = segments(tmp_path)[-1].path.with_suffix(DRAFT_SUFFIX)
    segments(tmp_path)[-1].path.rename(draft)
    other = tmp_path / f"notes{DRAFT_SUFFIX}"
    other.touch()
    prune(tmp_path, 2 * DAY, lambda _: False)
    assert draft.exists()
    later = time.time() + 2 * STRAY_SECONDS
    prune(tmp_path, 2 * DAY, lambda _: False, clock=lambda: later)
    assert not draft.exists()
    assert not draft.with_suffix(".key").exists()
    assert other.exists()
    assert len(segments(tmp_path)) == 2


def test_what_is_deleted_is_announced_before_or_where_that_is_impossible_afterwards(tmp_path):
    for can in (True, False):
        folder = tmp_path / str(can)
        spool = a_trail(folder)
        seen = []

        def announce(due, folder=folder, seen=seen, can=can):
            seen.append(([each.number for each in due], sum(each.path.exists() for each in due)))
            return can

        prune(folder, DAY, lambda _: True, announce=announce)
        spool.close()
        assert seen == ([([0, 1], 2)] if can else [([0, 1], 2), ([0, 1], 0)])


class Clocks:
    """A clock that can be set, and one that cannot."""

    def __init__(self, now=2_000_000_000.0):
        self.now, self.passed = now, 100.0

    def pass_(self, seconds):
        self.now += seconds
        self.passed += seconds

    def unhurried(self, folder):
        return UnhurriedClock(folder, wall=lambda: self.now, passed=lambda: self.passed)


def ended_at(folder, moment):
    spool = a_trail(folder)
    spool.close()
    for each in segments(folder):
        os.utime(each.path, (moment, moment))


def test_a_clock_that_is_set_ahead_deletes_nothing_until_it_has_stood_so_for_a_day(tmp_path):
    clocks = Clocks()
    ended_at(tmp_path, clocks.now - 10)
    clock = clocks.unhurried(tmp_path)
    assert clock() == clocks.now
    clocks.now += 400 * DAY
    for _ in range(23):
        clocks.pass_(3600)
        assert prune(tmp_path, 90 * DAY, lambda _: True, clock=clock) == []
    clocks.now -= 400 * DAY
    assert clock() == clocks.now
    clocks.now += 400 * DAY
    assert prune(tmp_path, 90 * DAY, lambda _: True, clock=clock) == []
    clocks.pass_(BELIEVED_SECONDS + 1)
    assert clock() == clocks.now
    assert len(prune(tmp_path, 90 * DAY, lambda _: True, clock=clock)) == 3


def test_a_start_with_a_clock_that_is_ahead_deletes_nothing_either(tmp_path):
    clocks = Clocks()
    ended_at(tmp_path, clocks.now)
    clocks.now += 400 * DAY
    clock = clocks.unhurried(tmp_path)
    assert prune(tmp_path, 90 * DAY, lambda _: True, clock=clock) == []
    clocks.pass_(BELIEVED_SECONDS + 1)
    assert len(prune(tmp_path, 90 * DAY, lambda _: True, clock=clock)) == 3


def test_a_clock_that_goes_on_as_it_should_is_believed_all_the_time(tmp_path):
    clocks = Clocks()
    clock = clocks.unhurried(tmp_path)
    for _ in range(1000):
        clocks.pass_(3600)
        clocks.now += 0.5  # a clock that is corrected little by little
        assert clock() == clocks.now
