"""What hosts tell each other for a while; the fake and a real Redis pass the same tests."""

import time
import uuid

import pytest
from shared_log import redis_if_any
from shelves import MemoryShelf

from ext_authz.monitor.fleet import Exchange
from ext_authz.state import StoreError
from ext_authz.state.redis import PREFIX
from ext_authz.state.redis_shelf import MAX_PAYLOAD, RedisShelf

SECRET = b"0123456789abcdef0123456789abcdef"
A, B, C = (character * 32 for character in "abc")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with redis_if_any(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis_shelf(server):
    if server is None:
        pytest.skip("no redis-server")
    with server.client() as client:
        client.flushall()
    made = RedisShelf(server.url, secret=SECRET)
    yield made
    made.close()


@pytest.fixture(params=["memory", "redis"])
def shelf(request):
    return MemoryShelf() if request.param == "memory" else request.getfixturevalue("redis_shelf")


def test_every_host_finds_the_last_row_of_each(shelf):
    assert shelf.take(10) == []
    shelf.give(A, 1, b"one", 60)
    shelf.give(B, 2, b"two", 60)
    shelf.give(A, 3, b"three", 60)
    assert sorted(shelf.take(10)) == [(A, 3, b"three"), (B, 2, b"two")]
    assert len(shelf.take(1)) == 1


def test_a_row_that_is_not_renewed_is_gone_and_one_that_is_renewed_stays(shelf):
    shelf.give(A, 1, b"one", 1)
    shelf.give(B, 1, b"two", 60)
    if isinstance(shelf, MemoryShelf):
        shelf.seconds += 2
    else:
        time.sleep(1.2)
    assert shelf.take(10) == [(B, 1, b"two")]


def test_a_row_that_was_not_made_with_the_secret_or_stands_under_another_name_is_refused(redis_shelf, server):
    stranger = RedisShelf(server.url, secret=b"x" * 32)
    stranger.give(A, 1, b"forged", 60)
    stranger.close()
    redis_shelf.give(B, 1, b"two", 60)
    with server.client() as client:
        row = client.get(f"{PREFIX}:shelf:{B}")
        client.set(f"{PREFIX}:shelf:{C}", row)
        client.zadd(f"{PREFIX}:shelf", {C: time.time(), "../x": time.time(), b"\xff": time.time()})
    assert redis_shelf.take(10) == [(B, 1, b"two")]
    assert redis_shelf.refused == 2


def test_what_a_stranger_made_huge_or_of_another_kind_is_not_even_read(redis_shelf, server, monkeypatch):
    redis_shelf.give(B, 1, b"two", 60)
    with server.client() as client:
        client.set(f"{PREFIX}:shelf:{A}", b"x" * (1 << 24))
        client.lpush(f"{PREFIX}:shelf:{C}", b"x")
        client.zadd(f"{PREFIX}:shelf", dict.fromkeys((A, C, "y" * (1 << 20)), time.time()))
    asked, ask = [], redis_shelf._call
    monkeypatch.setattr(redis_shelf, "_call", lambda *each: asked.append(ask(*each)) or asked[-1])
    assert redis_shelf.take(10) == [(B, 1, b"two")]
    assert redis_shelf.refused == 2
    assert sum(len(each) for reply in asked for each in reply) < 1000


def test_a_host_with_another_secret_is_told_of_once(server, redis_shelf):
    said = []
    stranger = RedisShelf(server.url, secret=b"x" * 32)
    one, two = Exchange(lambda: redis_shelf, say=said.append), Exchange(lambda: stranger)
    for number in range(3):
        for each in (two, one):
            each.offer({"version": 1, "n": number})
            each.look()
    assert one.heard() == {}
    assert len(said) == 1
    assert "are refused" in said[0]


def test_a_row_has_a_size_and_an_outage_is_said(redis_shelf):
    redis_shelf.give(A, 1, b"x" * MAX_PAYLOAD, 60)
    assert len(redis_shelf.take(1)[0][2]) == MAX_PAYLOAD
    for host, payload in ((A, b"x" * (MAX_PAYLOAD + 1)), ("a", b"")):
        with pytest.raises(ValueError, match="not a row"):
            redis_shelf.give(host, 1, payload, 60)
    away = RedisShelf("redis://127.0.0.1:1/0", secret=SECRET)
    with pytest.raises(StoreError, match="redis:"):
        away.take(1)
    away.close()


def test_rows_that_nobody_renews_leave_nothing_behind(redis_shelf, server):
    for _ in range(20):
        redis_shelf.give(uuid.uuid4().hex, 1, b"x", 1)
    time.sleep(2.2)
    redis_shelf.give(A, 1, b"x", 1)
    with server.client() as client:
        assert client.zcard(f"{PREFIX}:shelf") == 1
    time.sleep(2.2)
    with server.client() as client:
        assert client.keys("*shelf*") == []


def test_two_exchanges_hear_each_other_and_not_themselves(shelf):
    one, two = Exchange(lambda: shelf), Exchange(lambda: shelf)
    one.offer({"version": 1, "x": [1]})
    one.look()
    two.look()
    assert (one.heard(), two.heard()) == ({}, {one.me: {"version": 1, "x": [1]}})
    assert two.heard() is None, "nothing was looked at since"
