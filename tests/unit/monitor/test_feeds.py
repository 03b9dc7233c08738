"""Feeds: a pipe's lines however they are cut, and a trail that is taken up where it was left."""

import json
import os

import pytest
from trails import new_spool, open_key

from ext_authz.monitor.feeds import TrailFeed
from ext_authz.monitor.feeds_streams import MAX_LINE_BYTES, PipeFeed, RedisFeed


def append(spool, number):
    spool.append(lambda seq: json.dumps({"event_id": f"w:{seq}", "n": number, "time": "2026-01-01"}).encode())


def numbers(feed):
    return [each["n"] for each in feed.entries() if "n" in each]


def test_a_trail_is_taken_up_where_another_reader_was(tmp_path):
    spool = new_spool(tmp_path / "audit")
    for number in range(5):
        append(spool, number)
    first = TrailFeed([tmp_path / "audit"], open_key)
    assert numbers(first) == [0, 1, 2, 3, 4]
    place = json.loads(json.dumps(first.place()))
    other = new_spool(tmp_path / "audit", "worker-1")
    for number in range(5, 8):
        append(spool, number)
        append(other, number + 10)
    second = TrailFeed([tmp_path / "audit"], open_key)
    second.resume(place)
    assert sorted(numbers(second)) == [5, 6, 7, 15, 16, 17]
    assert numbers(second) == []
    assert second._trail.gaps() == [], "what another has read is not missing"
    append(spool, 9)
    assert numbers(second) == [9]
    second.resume(None)
    assert len(numbers(second)) == 12
    for each in (spool, other):
        each.close()


@pytest.mark.parametrize("place", [None, 3, [], {"x": "y"}, {"/nowhere": 10}, {"x": -1}])
def test_a_place_that_makes_no_sense_is_the_beginning(tmp_path, place):
    spool = new_spool(tmp_path / "audit")
    append(spool, 1)
    feed = TrailFeed([tmp_path / "audit"], open_key)
    feed.resume(place)
    assert numbers(feed) == [1]
    spool.close()


def test_lines_of_a_pipe_come_whole_however_they_were_cut_and_what_is_none_is_counted():
    reading, writing = os.pipe()
    feed = PipeFeed(reading)
    os.write(writing, b'{"n": 1}\n{"n"')
    assert numbers(feed) == [1]
    os.write(writing, b": 2}\nnonsense\n[3]\n\n")
    assert numbers(feed) == [2]
    assert feed.damaged == 2
    assert not feed.ended
    os.write(writing, b'{"n": 4}')
    os.close(writing)
    assert numbers(feed) == [4]
    assert feed.ended
    os.close(reading)


def test_a_line_without_end_fills_no_memory(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b'{"n": "' + b"x" * (3 * MAX_LINE_BYTES) + b'"}\n{"n": 5}\n')
    with path.open("rb") as file:
        feed = PipeFeed(file.fileno())
        assert numbers(feed) == [5]
        assert len(feed._rest) < MAX_LINE_BYTES
        assert feed.damaged >= 1


@pytest.mark.parametrize(
    "url", ["redis://h/0", "http://h/0?stream=a", "redis:///0?stream=a", "redis://h/0?stream=", "redis://h/0?other=a"]
)
def test_what_is_no_stream_is_said(url):
    with pytest.raises(ValueError, match="a stream is"):
        RedisFeed(url)


def test_credentials_do_not_stand_in_a_command_line():
    with pytest.raises(ValueError, match="environment"):
        RedisFeed("rediss://user:secret@h/0?stream=a")
