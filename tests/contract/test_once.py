"""What every memory of one-time values owes, and what the table shared by processes owes beyond it."""

import multiprocessing
import os
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.authn.once import MemoryOnce, Spent
from ext_authz.server.once_table import FILE_NAME, WINDOW, OnceTable

NOW = 1_795_428_000


@pytest.fixture(params=["memory", "table"])
def small(request, tmp_path):
    """Room for 64 values."""
    return MemoryOnce(WINDOW) if request.param == "memory" else OnceTable(tmp_path, WINDOW)


def test_a_value_counts_once_until_its_time_is_over(small):
    assert small.spend(b"a", NOW + 10, NOW) is Spent.NOW
    assert small.spend(b"b", NOW + 10, NOW) is Spent.NOW
    assert small.spend(b"a", NOW + 10, NOW + 9) is Spent.BEFORE
    assert small.spend(b"a", NOW + 20, NOW + 10) is Spent.NOW


def test_a_full_memory_refuses_and_has_room_again_when_times_are_over(small):
    for number in range(WINDOW):
        assert small.spend(b"%d" % number, NOW + 10, NOW) is Spent.NOW
    assert small.spend(b"one more", NOW + 10, NOW) is Spent.UNKNOWN
    assert small.spend(b"0", NOW + 10, NOW) is Spent.BEFORE
    assert small.spend(b"one more", NOW + 20, NOW + 10) is Spent.NOW


@given(values=st.lists(st.tuples(st.binary(max_size=3), st.integers(1, 5), st.integers(0, 3)), max_size=60))
@settings(max_examples=100, deadline=None)
def test_the_table_answers_as_the_plain_memory_does(values, tmp_path_factory):
    table, plain, now = OnceTable(tmp_path_factory.mktemp("once"), WINDOW), MemoryOnce(WINDOW), NOW
    for value, lasts, passes in values:
        now += passes
        assert table.spend(value, now + lasts, now) is plain.spend(value, now + lasts, now)


def test_the_table_outlives_whoever_opened_it_and_is_private(tmp_path):
    assert OnceTable(tmp_path).spend(b"a", NOW + 10, NOW) is Spent.NOW
    assert OnceTable(tmp_path).spend(b"a", NOW + 10, NOW) is Spent.BEFORE
    path = tmp_path / FILE_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"something else")
    assert OnceTable(tmp_path).spend(b"a", NOW + 10, NOW) is Spent.NOW


def test_a_link_in_the_tables_place_is_not_followed(tmp_path):
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        OnceTable(tmp_path)


def test_threads_never_both_find_a_value_new(tmp_path):
    table, found = OnceTable(tmp_path), []

    def spend():
        found.extend(table.spend(b"%d" % number, NOW + 10, NOW) for number in range(300))

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(Spent.NOW) == 300
    assert found.count(Spent.BEFORE) == 900


def _spend(folder, start, results):
    table = OnceTable(folder)
    start.wait(30)
    results.put([table.spend(b"%d" % number, NOW + 10, NOW).value for number in range(2000)])


def test_processes_never_both_find_a_value_new(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.SimpleQueue()
    workers = [context.Process(target=_spend, args=(tmp_path, start, results)) for _ in range(3)]
    for each in workers:
        each.start()
    answers = [results.get() for _ in workers]
    for each in workers:
        each.join()
    for answer in zip(*answers, strict=True):
        # One that could not be locked in time refuses a value that nobody had; it is never found new twice.
        assert answer.count("now") <= 1
    assert sum(answer.count("now") for answer in zip(*answers, strict=True)) > 1900


def _hold(folder, ready):
    import fcntl
    import time

    table = OnceTable(folder, WINDOW)
    fcntl.lockf(table._fd, fcntl.LOCK_EX, 1, 0)
    ready.set()
    time.sleep(60)


def test_a_process_that_stops_while_it_holds_the_table_makes_others_refuse_and_its_death_frees_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(30)
    os.kill(holder.pid, signal.SIGSTOP)
    table = OnceTable(tmp_path, WINDOW)
    assert table.spend(b"a", NOW + 10, NOW) is Spent.UNKNOWN
    holder.kill()
    holder.join()
    assert table.spend(b"a", NOW + 10, NOW) is Spent.NOW
