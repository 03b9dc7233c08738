"""A monitor's feed from a real NATS server: every event once, whichever side falls, and acknowledged when remembered."""

import json

import pytest
from sidecar_process import wait_until
from sink_servers import NatsRig

from ext_authz.monitor import feeds_nats
from ext_authz.monitor.feeds_nats import CONSUMER, NatsFeed

SUBJECT = "ext-authz.audit"


@pytest.fixture
def rig(tmp_path):
    made = NatsRig(tmp_path)
    yield made
    made.close()


@pytest.fixture
def feed(rig):
    opened = []

    def make(place=None, **login):
        made = NatsFeed(
            f"nats://127.0.0.1:{rig.port}?subject={SUBJECT}", **(login or {"username": "u", "password": "pw"})
        )
        made.resume(place if place is None else json.loads(json.dumps(place)))
        opened.append(made)
        return made

    yield make
    for each in opened:
        each.close()


def publish(rig, *numbers):
    async def run(stream):
        for number in numbers:
            line = json.dumps({"n": number}).encode() if number is not None else b"no event"
            await stream.publish(SUBJECT, line)

    rig.ask(run)


def numbers(feed):
    return [each["n"] for each in feed.entries()]


def info(rig):
    return rig.ask(lambda stream: stream.consumer_info("audit", CONSUMER))


def test_what_came_before_and_what_comes_later_is_given_once_and_what_is_no_event_is_counted(rig, feed):
    publish(rig, *range(1200))
    one = feed()
    assert numbers(one) == list(range(1200))
    assert numbers(one) == []
    publish(rig, 1200, None, 1201)
    assert numbers(one) == [1200, 1201]
    assert one.damaged == 1
    assert not one.ended


@pytest.mark.parametrize("reply", ["", "x", "$JS.API.x.1.2.3.4.5.6"])
def test_what_another_client_puts_into_our_inbox_keeps_no_event_from_coming(rig, feed, reply):
    one = feed()
    publish(rig, 1)
    assert numbers(one) == [1]
    inbox = one._pull._sub.subject
    rig.ask(lambda stream: stream._nc.publish(inbox, b"{}", reply=reply))
    publish(rig, 2, 3)
    found = numbers(one) + numbers(one)
    assert found == [2, 3]
    assert one.damaged == 1


def test_only_what_is_remembered_is_acknowledged(rig, feed):
    publish(rig, 1, 2, 3)
    one = feed()
    assert numbers(one) == [1, 2, 3]
    assert info(rig).num_ack_pending == 3
    one.remembered()
    publish(rig, 4)
    assert numbers(one) == [4]
    wait_until(lambda: info(rig).ack_floor.stream_seq == 3, what="what is remembered acknowledged")
    assert info(rig).num_ack_pending == 1


def test_after_a_crash_what_was_not_remembered_comes_again_at_once_and_what_was_does_not(rig, feed):
    publish(rig, 1, 2, 3)
    one = feed()
    assert numbers(one) == [1, 2, 3]
    place = one.place()  # saved; killed before it could acknowledge
    publish(rig, 4, 5)
    assert numbers(one) == [4, 5]
    one.close()
    again = feed(place)
    assert numbers(again) == [4, 5]
    again.remembered()
    wait_until(lambda: again.remembered() or info(rig).ack_floor.stream_seq == 5, what="all of it acknowledged")
    assert numbers(feed(again.place())) == []


def test_a_server_that_is_killed_and_comes_back_loses_nothing_and_gives_nothing_twice(rig, feed):
    publish(rig, 1, 2)
    one = feed()
    assert numbers(one) == [1, 2]
    rig.down()
    for what in ("connection", "no connection to nats://127.0.0.1"):
        with pytest.raises(OSError, match=f"the subject `{SUBJECT}` cannot be read: {what}"):
            numbers(one)
    one.remembered()
    rig.up()
    publish(rig, 3)
    seen = []
    wait_until(lambda: seen.extend(numbers(one)) or seen, what="the event after it")
    assert seen == [3]
    one.remembered()
    wait_until(lambda: numbers(one) == [] and (one.remembered() or info(rig).ack_floor.stream_seq == 3), what="acks")


def test_a_page_that_was_under_way_when_the_connection_broke_comes_again(rig, feed):
    publish(rig, *range(10))
    one = feed()
    page = one._run(one._page())  # delivered, and lost with the connection before any was folded
    assert len(page) == 10
    one.close()
    assert numbers(one) == list(range(10))


def test_a_stream_that_was_made_anew_is_read_from_its_beginning(rig, feed):
    publish(rig, 1, 2, 3)
    one = feed()
    assert numbers(one) == [1, 2, 3]
    one.remembered()
    place = one.place()
    one.close()

    async def anew(stream):
        await stream.delete_stream("audit")
        await stream.add_stream(name="audit", subjects=[SUBJECT])

    rig.ask(anew)
    publish(rig, 11, 12)
    assert numbers(feed(place)) == [11, 12]


def test_no_more_is_taken_than_may_wait_to_be_remembered(rig, feed, monkeypatch):
    monkeypatch.setattr(feeds_nats, "MOST_WAITING", 1000)
    publish(rig, *range(2500))
    one = feed()
    got = []
    for _ in range(5):
        more = numbers(one)
        assert len(more) <= 1000
        got += more
        assert one.waits == (len(more) == 1000)
        one.remembered()
    assert got == list(range(2500))


@pytest.mark.parametrize(
    ("login", "what"), [({"username": "u", "password": "wrong"}, "not authorized"), ({"token": "x"}, "not authorized")]
)
def test_a_refusal_says_what_to_do_and_not_the_password(feed, login, what):
    with pytest.raises(OSError, match=what) as caught:
        numbers(feed(**login))
    assert "wrong" not in str(caught.value)


def test_a_subject_of_no_stream_and_a_consumer_of_another_kind_are_said(rig, feed):
    rig.ask(lambda stream: stream.add_consumer("audit", durable_name=CONSUMER, ack_policy="all"))
    with pytest.raises(OSError, match="is not one that pulls it and acknowledges each message"):
        numbers(feed())
    nowhere = NatsFeed(f"nats://127.0.0.1:{rig.port}?subject=other", username="u", password="pw")
    with pytest.raises(OSError, match="no stream takes it"):
        numbers(nowhere)


def test_a_server_without_tls_is_told_nothing_where_tls_was_asked_for(rig):
    feed = NatsFeed(f"tls://127.0.0.1:{rig.port}?subject={SUBJECT}", username="u", password="pw")
    with pytest.raises(OSError, match="does not ask for TLS"):
        numbers(feed)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("tls://h:4222", "a subject is"),
        ("tls://h:4222?stream=a", "a subject is"),
        ("tls://h:4222?subject=", "a subject is"),
        ("tls://h:4222?subject=a&consumer=a.b", "a subject is"),
        ("tls://h:4222/0?subject=a", "a subject is"),
        ("tls://h:port?subject=a", "a subject is"),
        ("tls://?subject=a", "a subject is"),
        ("tls://u:secret@h?subject=a", "environment"),
        ("nats://nats.internal:4222?subject=a", "use `tls://`"),
    ],
)
def test_what_is_no_subject_is_said(url, what):
    with pytest.raises(ValueError, match=what):
        NatsFeed(url)


@pytest.mark.parametrize(
    "place", [3, [], {}, {"made": "x", "floor": "y", "ranges": []}, {"made": "x", "floor": 0, "ranges": [[0, 1 << 60]]}]
)
def test_a_place_that_makes_no_sense_is_none(place):
    feed = NatsFeed(f"nats://127.0.0.1:1?subject={SUBJECT}")
    feed.resume(place)
    assert feed.place() == {"made": "", "floor": 0, "ranges": []}


def test_a_place_is_short_however_much_was_folded():
    feed = NatsFeed(f"nats://127.0.0.1:1?subject={SUBJECT}")
    feed._folded = dict.fromkeys((*range(5, 900), *range(1000, 5000), 7000), "")
    assert feed.place()["ranges"] == [[5, 899], [1000, 4999], [7000, 7000]]
    other = NatsFeed(f"nats://127.0.0.1:1?subject={SUBJECT}")
    other.resume(feed.place())
    assert other.place() == feed.place()
