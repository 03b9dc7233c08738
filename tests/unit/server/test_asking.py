"""The budget of looks for unknown keys, and the checks that wait for one."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.server.asking import BURST, FORGET_SECONDS, MAX_ABSENT, REFILL_SECONDS, Asking
from ext_authz.server.key_waits import KeyWaits


def test_made_up_names_get_a_burst_and_then_one_look_each_ten_seconds():
    asking = Asking()
    allowed = 0
    for second in range(600):
        for each in range(20):
            name = f"{second}-{each}"
            if asking.may(name, 1000.0 + second):
                allowed += 1
                asking.missed(name, 1000.0 + second)
    assert allowed == BURST + int(599 / REFILL_SECONDS)


def test_a_name_looked_for_in_vain_is_forgotten_after_a_minute():
    asking = Asking()
    assert asking.may("a", 100)
    asking.missed("a", 100)
    assert not asking.may("a", 100 + FORGET_SECONDS - 1)
    assert asking.may("b", 101)
    assert asking.may("a", 100 + FORGET_SECONDS)


def test_new_keys_cost_nothing_so_that_a_fast_rotation_is_followed():
    asking = Asking()
    for second in range(100):
        assert asking.may(f"key-{second}", float(second))
        asking.found()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1000)), max_size=50))
def test_a_clock_that_jumps_gives_no_more_than_the_budget(asked):
    asking = Asking()
    now = [at for _, at in asked]
    allowed = sum(asking.may(kid, at) for kid, at in asked)
    assert allowed <= BURST + sum(max(0, b - a) for a, b in zip([0, *now], now, strict=False)) / REFILL_SECONDS


def test_what_is_remembered_is_bounded():
    asking = Asking()
    for number in range(3 * MAX_ABSENT):
        asking.missed(str(number), 0)
    assert len(asking._absent) == MAX_ABSENT


@pytest.fixture
def waits():
    asked = []
    made = KeyWaits(lambda issuer, kid: asked.append((issuer, kid)), seconds=0.2, limit=3)
    made.asked = asked
    made.start()
    yield made
    made.stop()


def park(waits, kid, issuer="i"):
    done = threading.Event()
    waits.park(issuer, kid, done.set)
    return done


def test_one_look_is_asked_for_however_many_wait(waits):
    assert all(waits.worth("i", "a") for _ in range(10))
    assert waits.asked == [("i", "a")]


def test_a_check_is_run_again_when_its_key_came_and_others_go_on_waiting(waits):
    assert waits.worth("i", "a")
    assert waits.worth("i", "b")
    first, second, third = park(waits, "a"), park(waits, "b"), park(waits, "a", "other")
    waits.arrived({"i": ["a"]}, {}, ["i"])
    assert first.is_set()
    assert not second.is_set()
    assert not third.is_set()


def test_a_key_that_is_not_there_is_not_waited_for_again(waits):
    assert waits.worth("i", "a")
    done = park(waits, "a")
    waits.arrived({"i": ["other"]}, {"i": ["a"]}, [])
    assert done.is_set()
    assert not waits.worth("i", "a")
    assert waits.asked == [("i", "a")]


def test_every_parked_check_is_run_by_its_deadline(waits):
    assert waits.worth("i", "a")
    began = time.monotonic()
    assert park(waits, "a").wait(5)
    assert 0.15 < time.monotonic() - began < 2
    assert waits.waiting == 0


def test_room_is_bounded(waits):
    assert waits.worth("i", "a")
    for _ in range(3):
        park(waits, "a")
    assert not waits.worth("i", "a")
    assert not waits.worth("j", "b")


def test_an_outage_soon_costs_callers_no_wait(waits):
    kids = [f"made-up-{number}" for number in range(100)]
    assert sum(waits.worth("i", kid) for kid in kids) == BURST


def test_the_first_keys_of_an_issuer_end_every_wait_for_it(waits):
    assert waits.worth("i", "")
    done = park(waits, "")
    waits.arrived({"i": ["a"]}, {}, ["i"])
    assert done.is_set()


def test_stopping_runs_what_is_parked_and_parks_no_more(waits):
    assert waits.worth("i", "a")
    done = park(waits, "a")
    waits.stop()
    assert done.is_set()
    assert not waits.worth("i", "b")
