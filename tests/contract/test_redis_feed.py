"""The streams of a fleet read by one monitor, from a real Redis: what one sidecar writes keeps no other's from coming."""

import orjson
import pytest
from shared_log import needed_redis

from ext_authz.monitor.feeds_streams import RedisFeed


@pytest.fixture
def server(tmp_path):
    with needed_redis(tmp_path) as running:
        yield running


def write(client, log, number):
    client.sadd("fleet:logs", log)
    client.xadd(f"fleet:{log}", {"event": orjson.dumps({"n": number, "time": f"2026-01-01T00:00:{number:02d}Z"})})


def read(feed):
    return [event["n"] for event in feed.entries()]


def test_a_sidecar_that_spoils_its_own_stream_or_the_list_of_streams_blinds_the_monitor_for_no_other(server):
    feed = RedisFeed(f"{server.url}?stream=fleet")
    with server.client() as client:
        write(client, "worker-0-a", 1)
        write(client, "worker-0-b", 2)
        client.sadd("fleet:logs", "poison", b"\xff\xfe", "", "no log", "x" * 1000)
        client.set("fleet:poison", "no stream")
        assert read(feed) == [1, 2]
        assert feed.damaged == 5
        write(client, "worker-0-b", 3)
        client.xadd("fleet:worker-0-a", {"event": b"\xff"})
        assert read(feed) == [3]
    assert feed.place().keys() == {"worker-0-a", "worker-0-b"}


def test_what_the_server_does_not_let_us_read_is_an_outage_and_said(server):
    with server.client() as client:
        write(client, "worker-0-a", 1)
        client.execute_command("ACL", "SETUSER", "default", "-xread")
        with pytest.raises(OSError, match="the stream cannot be read: no permission"):
            read(RedisFeed(f"{server.url}?stream=fleet"))
