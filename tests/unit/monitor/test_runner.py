"""The monitor at work on events made here: outages lose nothing, restarts repeat nothing, other hosts count."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ext_authz.audit.event import timestamp
from ext_authz.audit.spool import AuditUnavailable
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.monitor.detectors.finding import Finding, Severity
from ext_authz.monitor.risk import SECOND
from ext_authz.monitor.runner import Monitor, Surroundings
from ext_authz.monitor.settings import MonitorSettings
from ext_authz.state import Page, StoreError
from ext_authz.state.book import read_book
from ext_authz.state.changes import Change, Kind
from ext_authz.state.memory import MemoryStore
from tests.support.envelopes import provider
from tests.support.monitor_events import event

NOW = 1_800_000_000 * SECOND
SETTINGS = MonitorSettings.model_validate({"enumeration": {"response": "quarantine"}})


class Feed:
    """Events in a list; its place is a number."""

    begins_again = True
    waits = False

    def __init__(self, events):
        self.events, self.at, self.ended = events, 0, False

    def entries(self):
        while self.at < len(self.events):
            self.at += 1
            yield self.events[self.at - 1]

    def resume(self, place):
        self.at = place or 0

    def place(self):
        return self.at

    def remembered(self):
        self.kept = self.at


class Log:
    """What the monitor needs of a spool."""

    def __init__(self, directory):
        self.log_id, self.query_key, self.directory = "control-20260101T000000Z-00", b"k" * 32, directory
        self.lines, self.fail = [], False

    def append(self, make, *, again=False):
        if self.fail:
            raise AuditUnavailable("full")
        self.lines.append(json.loads(make(len(self.lines))))
        return len(self.lines) - 1


class World:
    """Everything round monitors that follow one another; `clock` is Unix nanoseconds."""

    def __init__(self, folder):
        (folder / "audit").mkdir()
        self.folder, self.store, self.log, self.clock = folder, MemoryStore(), Log(folder / "audit"), NOW
        self.events, self.said, self.counted = [], [], []
        self.keys = provider

    def monitor(self, settings=SETTINGS, **other):
        return Monitor(
            settings,
            Surroundings(
                folder=self.folder, feed=Feed(self.events), open_store=lambda: self.store, spool=self.log,
                open_key=self.keys, count=lambda *each: self.counted.append(each), say=self.said.append,
                clock_ns=lambda: self.clock, **other,
            ),
        )  # fmt: skip

    def attack(self, subject="sub:mallory", begin=0, count=12):
        for number in range(begin, begin + count):
            self.events.append(
                event(self.clock / SECOND - 1, subject, allowed=False, resource=f"model/m{number}", ip="192.0.2.1")
            )

    def changes(self, kind):
        return [each for each in self.store.read(0).changes if each.kind is kind]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_store_that_is_away_delays_a_quarantine_and_loses_none(world):
    monitor = world.monitor()
    monitor.step()
    world.attack()
    world.store.fail = "locked"
    for _ in range(3):
        with pytest.raises(StoreError):
            monitor.step()
    world.store.fail = ""
    monitor.step()
    assert [each.subject for each in world.changes(Kind.QUARANTINE)] == ["sub:mallory"]
    assert [each["detector"] for each in world.log.lines] == ["enumeration"]


def test_a_full_trail_delays_an_alert_not_the_quarantine_and_nothing_is_remembered_before_it_is_told(world):
    monitor = world.monitor()
    monitor.step()
    world.attack()
    world.log.fail = True
    with pytest.raises(AuditUnavailable):
        monitor.step()
    assert len(world.changes(Kind.QUARANTINE)) == 1
    world.log.fail = False
    another = world.monitor()
    another.step()
    assert len(world.changes(Kind.QUARANTINE)) == 1, "it holds already"
    assert [each["status"] for each in world.log.lines] == ["firing"]


def test_a_restart_goes_on_where_it_was(world):
    one = world.monitor()
    one.step()
    world.attack(count=7)
    one.step()
    one._save()
    two = world.monitor()
    world.attack(begin=7, count=5)
    two.step()
    assert len(world.changes(Kind.QUARANTINE)) == 1
    assert two._feed.at == 12
    assert world.said == []


def test_a_damaged_memory_is_begun_anew_and_one_without_its_key_is_waited_for(world):
    one = world.monitor()
    world.attack()
    one.step()
    one._save()
    path = world.folder / "monitor.state"
    assert b"mallory" not in path.read_bytes()
    keys, world.keys = world.keys, lambda: (_ for _ in ()).throw(KeyUnavailableError("away"))
    with pytest.raises(KeyUnavailableError):
        world.monitor().step()
    world.keys = keys
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    world.monitor().step()
    assert "damaged" in world.said[0]


def test_what_happened_long_before_the_monitor_was_told_to_watch_teaches_and_raises_no_alert(world):
    world.attack()
    world.clock += 7200 * SECOND
    world.monitor().step()
    assert world.log.lines == []
    assert world.store.read(0).changes == ()


def test_what_happened_while_it_was_down_is_told_but_locks_nobody_out(world):
    one = world.monitor()
    one.step()
    one._save()
    world.attack()
    world.clock += 1800 * SECOND
    world.monitor().step()
    assert [each["response"]["withheld"] for each in world.log.lines] == ["old"]
    assert world.changes(Kind.QUARANTINE) == []


def test_risk_falls_step_by_step_in_the_store_and_ends_there_by_itself(world):
    monitor = world.monitor(MonitorSettings())
    monitor.step()
    monitor._found.append(Finding("unusual_volume", "sub:a", None, Severity.CRITICAL, "much", ("w:1",), NOW))
    seen = []
    for _ in range(40):
        monitor.step()
        risk = read_book(world.store).state(world.clock).risk_of("sub:a", world.clock)
        seen += [] if seen[-1:] == [risk] else [risk]
        world.clock += 600 * SECOND
    assert seen == ["critical", "high", "medium", "low"]
    assert len(world.changes(Kind.RISK)) == 3
    assert world.changes(Kind.QUARANTINE) == []


def test_many_identities_make_the_store_grow_no_more_than_a_day_allows_and_hide_no_high_risk(world):
    settings = MonitorSettings.model_validate({"risk_changes": 100})
    monitor = world.monitor(settings)
    monitor.step()

    def find(begin, count, severity):
        for number in range(begin, begin + count):
            monitor._found.append(Finding("new_pair", f"sub:{number}", None, severity, "odd", ("w:1",), world.clock))
        for _ in range(8):
            monitor.step()

    find(0, 300, Severity.MEDIUM)
    assert len(world.changes(Kind.RISK)) == 75
    find(1000, 1, Severity.HIGH)
    assert world.changes(Kind.RISK)[-1].subject == "sub:1000"
    find(2000, 300, Severity.CRITICAL)
    assert len(world.changes(Kind.RISK)) == 100
    world.store.append(Change(Kind.QUARANTINE, "os:ops", world.clock, subject="sub:1000", withdraw=True))
    again = world.monitor(settings)  # what the store has of today counts, also after a restart
    for _ in range(8):
        again.step()
    assert [each.subject for each in world.changes(Kind.RISK) if not each.withdraw] == [
        each.subject for each in world.changes(Kind.RISK)[:100]
    ]
    assert [each for each in world.said if "no more until tomorrow" in each]
    assert ("withheld", "risk_changes") in world.counted
    world.clock += 86_400 * SECOND
    monitor = world.monitor(settings)
    monitor.step()
    find(3000, 1, Severity.MEDIUM)
    assert world.changes(Kind.RISK)[-1].subject == "sub:3000"


def test_a_trail_that_cannot_be_read_for_a_while_loses_no_event_and_tells_none_twice(world):
    monitor = world.monitor()
    monitor.step()
    world.attack()
    whole, broken = list(world.events), 0

    def entries():
        nonlocal broken
        for number in range(monitor._feed.at, len(whole)):
            monitor._feed.at = len(whole)  # it reads ahead
            if number == 11 and broken < 3:
                broken += 1
                raise OSError("gone for a moment")
            yield whole[number]

    monitor._feed.entries = entries
    for _ in range(3):
        with pytest.raises(OSError, match="moment"):
            monitor.step()
    monitor.step()
    assert [each["status"] for each in world.log.lines] == ["firing"]
    assert len(world.changes(Kind.QUARANTINE)) == 1


class Foreign(MemoryStore):
    """A store whose first changes come from another host."""

    def read(self, after_id, limit=None):
        page = super().read(after_id, limit)
        return replace(page, origins={each.id: f"x:{each.id}" for each in page.changes if each.id <= 1})


def test_a_risk_that_another_host_recorded_is_not_lowered_here(world):
    world.store = Foreign()
    end = NOW // SECOND + 90_000
    world.store.append(Change(Kind.RISK, "monitor", NOW, subject="sub:mallory", risk="critical", expires_at=end))
    monitor = world.monitor()
    world.attack()
    for _ in range(20):
        world.clock += 600 * SECOND
        monitor.step()
    assert len(world.changes(Kind.RISK)) == 1


def test_a_longer_quarantine_by_a_person_is_left_alone(world):
    end = NOW // SECOND + 86_400
    world.store.append(Change(Kind.QUARANTINE, "os:ann", NOW, "watched", subject="sub:mallory", expires_at=end))
    monitor = world.monitor()
    world.attack()
    monitor.step()
    assert [each.by for each in world.changes(Kind.QUARANTINE)] == ["os:ann"]


def test_an_event_that_a_detector_fails_on_ends_nothing(world, monkeypatch):
    monitor = world.monitor()
    monitor.step()
    broken = monitor._detectors.folds[0]
    monkeypatch.setattr(type(broken), "see", lambda *_: 1 / 0)
    world.attack()
    monitor.step()
    assert ("failed", "ZeroDivisionError") in world.counted
    assert [each["detector"] for each in world.log.lines] == ["enumeration"], "the others see it"


def test_the_monitors_own_events_are_not_fed_back(world):
    monitor = world.monitor()
    world.attack()
    monitor.step()
    alerts = len(world.log.lines)
    for each in list(world.log.lines) * 50:
        world.events.append(each)
    world.events += [
        {"schema": "ext_authz.state/1", "event_id": "c:1", "time": timestamp(NOW), "record": {"subject": "sub:x"}}
    ] * 50
    monitor.step()
    assert len(world.log.lines) == alerts == 1


def test_the_store_is_read_from_its_beginning_where_another_stands(world):
    monitor = world.monitor()
    world.attack()
    monitor.step()
    world.store = MemoryStore()
    monitor._close_store()
    world.attack("sub:eve", begin=50)
    monitor.step()
    assert {each.subject for each in world.changes(Kind.RISK)} == {"sub:mallory", "sub:eve"}
    assert isinstance(world.store.read(0), Page)
    assert Path(world.folder / "monitor.state").exists()


def lift(world, subject="sub:mallory"):
    world.store.append(Change(Kind.QUARANTINE, "os:ann", world.clock, "a mistake", withdraw=True, subject=subject))


def test_a_withdrawal_is_respected_after_a_crash_that_forgot_who_had_found_it(world):
    monitor = world.monitor()
    monitor.step()
    monitor._save()
    world.attack()
    monitor._save_at = float("inf")  # nothing of the attack is remembered
    monitor.step()
    assert len(world.changes(Kind.QUARANTINE)) == 1
    world.clock += 10 * SECOND
    lift(world)
    (world.folder / "monitor.state").unlink()
    del world.events[:]
    another = world.monitor()
    another.step()
    world.clock += 60 * SECOND
    world.attack(begin=100)
    another.step()
    assert [each.withdraw for each in world.changes(Kind.QUARANTINE)] == [False, True]


def test_a_withdrawal_is_respected_by_the_monitors_of_other_hosts(world):
    """The first host's quarantine was lifted; the second host's own detector finds the subject a minute later."""
    end = NOW // SECOND + 600
    imposed = Change(Kind.QUARANTINE, "monitor", NOW, "enumeration: odd", subject="sub:mallory", expires_at=end)
    world.store.append(imposed)
    monitor = world.monitor()
    monitor.step()
    world.clock += 10 * SECOND
    lift(world)
    monitor.step()
    world.clock += 60 * SECOND
    world.attack()
    monitor.step()
    assert [each.by for each in world.changes(Kind.QUARANTINE)] == ["monitor", "os:ann"]
    assert [each["response"]["withheld"] for each in world.log.lines] == ["pardoned"]


def test_a_clock_that_jumps_a_year_ahead_and_back_locks_nobody_out_for_a_year(world):
    monitor = world.monitor()
    monitor.step()
    world.clock += 365 * 86_400 * SECOND
    world.attack()
    monitor.step()
    assert len(world.changes(Kind.QUARANTINE)) == 1
    world.clock = NOW
    monitor._tick_at = monitor._forget_at = 0.0
    monitor.step()
    assert read_book(world.store).state(world.clock).quarantine_of("sub:mallory", world.clock) is None
    for _ in range(14):
        world.clock += 600 * SECOND
        monitor.step()
    assert read_book(world.store).state(world.clock).risk_of("sub:mallory", world.clock) == "low"


def test_a_bug_of_whatever_kind_does_not_end_the_watch(world, monkeypatch):
    monitor = world.monitor()
    calls = []

    def step():
        calls.append(1)
        if len(calls) < 3:
            raise KeyError("bug")
        monitor._stop.set()
        return True

    monkeypatch.setattr(monitor, "step", step)
    monkeypatch.setattr("ext_authz.monitor.runner.RETRY_SECONDS", 0.01)
    monitor.run()
    assert len(calls) >= 3
    assert world.said == ["the monitor waits: KeyError: 'bug'"]
    assert ("failed", "KeyError") in world.counted


class OthersAt(MemoryStore):
    """A store in which the changes with these ids come from other hosts."""

    others = frozenset()

    def read(self, after_id, limit=None):
        page = super().read(after_id, limit)
        return replace(page, origins={each.id: f"x:{each.id}" for each in page.changes if each.id in self.others})


@pytest.mark.parametrize("seconds_before", [1, -1])
def test_hosts_that_impose_at_once_keep_only_what_the_budget_allows(world, seconds_before):
    """Before they hear of each other every host is within its budget; the later one then takes its own back."""
    world.store = OthersAt()
    monitor = world.monitor()
    monitor.step()
    world.attack()
    monitor.step()
    assert [each.subject for each in world.changes(Kind.QUARANTINE)] == ["sub:mallory"]
    other = Change(
        Kind.QUARANTINE, "monitor", NOW - seconds_before * SECOND, "enumeration: odd", subject="sub:eve",
        expires_at=NOW // SECOND + 600,
    )  # fmt: skip
    world.store.others = frozenset({world.store.append(other).id})
    monitor.step()
    monitor.step()
    state = read_book(world.store).state(world.clock)
    assert state.quarantine_of("sub:eve", world.clock)
    assert (state.quarantine_of("sub:mallory", world.clock) is None) is (seconds_before > 0)


def test_a_quarantine_that_stood_for_a_while_is_not_taken_back_for_one_that_turns_up(world):
    world.store = OthersAt()
    monitor = world.monitor()
    world.attack()
    monitor.step()
    world.clock += 120 * SECOND
    other = Change(
        Kind.QUARANTINE, "monitor", NOW - SECOND, "enumeration: odd", subject="sub:eve", expires_at=NOW // SECOND + 600
    )
    world.store.others = frozenset({world.store.append(other).id})
    monitor.step()
    assert [each.withdraw for each in world.changes(Kind.QUARANTINE)] == [False, False]


def test_a_clock_that_was_a_year_ahead_does_not_blind_the_detectors_until_then(world):
    monitor = world.monitor()
    monitor.step()
    world.clock += 365 * 86_400 * SECOND
    world.attack()
    monitor.step()
    world.clock = NOW + 60 * SECOND
    monitor.step()
    world.clock += 7200 * SECOND
    world.attack(begin=100)
    monitor.step()
    told = [each["since"] for each in world.log.lines if each["status"] == "firing"]
    assert told == [timestamp(NOW + 365 * 86_400 * SECOND - SECOND), timestamp(world.clock - SECOND)]
    assert world.said == ["the clock was set back by more than a day: the detectors begin anew"]
    world.clock -= 7200 * SECOND
    monitor.step()
    assert len(world.said) == 1, "a little is nothing"
