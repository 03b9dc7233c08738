import threading
import time

import pytest

from ext_authz.server.transport.pool import ParkingPool


def test_a_parked_thread_gives_its_place_to_another():
    pool = ParkingPool(1, 4, "t")
    release = threading.Event()

    def wait():
        with pool.parked() as room:
            assert room
            release.wait(10)
        return "parked"

    waiting = [pool.submit(wait) for _ in range(4)]
    assert pool.submit(lambda: "served").result(10) == "served"
    release.set()
    assert [each.result(10) for each in waiting] == ["parked"] * 4
    pool.shutdown()


def test_a_full_car_park_says_so_at_once():
    pool = ParkingPool(1, 1, "t")
    release = threading.Event()

    def wait():
        with pool.parked() as room:
            if room:
                release.wait(10)
            return room

    first = pool.submit(wait)
    assert pool.submit(wait).result(10) is False
    release.set()
    assert first.result(10) is True
    pool.shutdown()


def test_threads_that_stood_in_go_again():
    pool = ParkingPool(2, 16, "stand-in")
    release = threading.Event()

    def wait():
        with pool.parked():
            release.wait(10)

    waiting = [pool.submit(wait) for _ in range(16)]
    release.set()
    for each in waiting:
        each.result(10)
    for _ in range(200):
        for each in [pool.submit(lambda: None) for _ in range(8)]:
            each.result(10)
        if sum(t.name == "stand-in" for t in threading.enumerate()) <= 2:
            break
        time.sleep(0.01)
    assert sum(t.name == "stand-in" for t in threading.enumerate()) <= 2
    pool.shutdown()


def test_an_error_reaches_whoever_asks_and_ends_no_thread():
    pool = ParkingPool(1, 1, "t")
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(10)
    assert pool.submit(lambda: 1).result(10) == 1
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(lambda: 1)
