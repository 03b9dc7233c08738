"""Frames open in their place or not at all, and what is damaged hides nothing behind it."""

import os

import pytest

from ext_authz.audit.segment import (
    EMPTY_ROOT,
    HEADER_BYTES,
    MAX_PAYLOAD,
    OVERHEAD_BYTES,
    Damage,
    Kind,
    Record,
    Segment,
    frames,
    read_header,
)
from ext_authz.envelope.errors import AlteredError, UnsupportedError

KEY, SALT = bytes(range(32)), bytes(range(32, 64))


def made(**other) -> Segment:
    fields = {"log_id": "worker-0-x", "number": 0, "first_seq": 10, "started_ns": 1, "root": EMPTY_ROOT}
    return Segment.create(KEY, SALT, **{**fields, **other})


def body(segment: Segment, payloads) -> bytes:
    out = b""
    for number, payload in enumerate(payloads):
        out += segment.seal(Kind.EVENT, payload, HEADER_BYTES + len(out), number, number)
    return out


PAYLOADS = [b"first", b"", b"third" * 100, b"fourth"]


def test_what_was_sealed_is_read_with_its_numbers_and_ends():
    segment = made()
    data = body(segment, PAYLOADS)
    found = list(segment.read(data))
    assert [(each.kind, each.seq, each.payload) for each in found] == [
        (Kind.EVENT, 10 + n, payload) for n, payload in enumerate(PAYLOADS)
    ]
    assert found[-1].end == HEADER_BYTES + len(data)
    assert [frame.end for frame in frames(data)] == [each.end for each in found]
    assert found[0].end - HEADER_BYTES == len(b"first") + OVERHEAD_BYTES


def test_reading_goes_on_from_the_end_of_any_record():
    segment = made()
    data = body(segment, PAYLOADS)
    whole = list(segment.read(data))
    for each in whole:
        rest = list(segment.read(data[each.end - HEADER_BYTES :], each.end))
        assert rest == whole[whole.index(each) + 1 :]


def test_checkpoints_and_seals_count_the_events_before_them():
    segment = made()
    event = segment.seal(Kind.EVENT, b"e", HEADER_BYTES, 0, 0)
    data = event + segment.seal(Kind.CHECKPOINT, b"c", HEADER_BYTES + len(event), 1, 1)
    assert [(each.kind, each.seq) for each in segment.read(data)] == [(Kind.EVENT, 10), (Kind.CHECKPOINT, 11)]


def test_a_torn_end_is_nothing_yet():
    segment = made()
    data = body(segment, PAYLOADS)
    whole = list(segment.read(data))
    for cut in range(len(data)):
        assert list(segment.read(data[:cut])) == [each for each in whole if each.end <= HEADER_BYTES + cut]


def test_every_flipped_bit_is_damage_and_costs_one_event():
    segment = made()
    data = body(segment, [b"first", b"second", b"third"])
    whole = list(segment.read(data))
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        found = list(segment.read(bytes(flipped)))
        hit = next(n for n, each in enumerate(whole) if place < each.end - HEADER_BYTES)
        assert [each for each in found if isinstance(each, Record)] == [
            each for n, each in enumerate(whole) if n != hit
        ]
        assert sum(isinstance(each, Damage) for each in found) == 1


def test_a_frame_moved_copied_or_of_another_segment_does_not_open():
    segment, other = made(), made(number=1)
    one, two = body(segment, [b"one!", b"two!"])[:36], body(segment, [b"one!", b"two!"])[36:]
    for data in (two + one, one + one, two, body(other, [b"one!"])):
        found = list(segment.read(data))
        assert [each.payload for each in found if isinstance(each, Record)] == ([b"one!"] if data == one + one else [])
        assert any(isinstance(each, Damage) for each in found)


def test_a_frame_of_another_kind_does_not_open():
    segment = made()
    sealed = segment.seal(Kind.EVENT, b"x", HEADER_BYTES, 0, 0)
    forged = segment.seal(Kind.SEAL, b"x", HEADER_BYTES, 0, 0)[:16] + sealed[16:]
    assert list(segment.read(forged)) == [Damage(HEADER_BYTES, HEADER_BYTES + len(sealed))]


def test_zeros_that_a_power_failure_left_are_damage_and_said_to_be_blank():
    segment = made()
    data = body(segment, [b"one"])
    found = list(segment.read(data + bytes(100)))
    assert found[1] == Damage(HEADER_BYTES + len(data), HEADER_BYTES + len(data) + 85, blank=True)


def test_the_header_says_what_it_was_made_of_and_opens_with_its_own_key_only():
    segment = made(number=7, root=bytes(32))
    assert len(segment.bytes) == HEADER_BYTES
    header, mac = read_header(segment.bytes)
    assert header == segment.header
    assert Segment(header, mac, KEY).bytes == segment.bytes
    with pytest.raises(AlteredError):
        Segment(header, mac, bytes(32))


def test_no_altered_header_is_taken():
    good = made().bytes
    for place in range(HEADER_BYTES):
        flipped = bytearray(good)
        flipped[place] ^= 1 << place % 8
        with pytest.raises((AlteredError, UnsupportedError)):
            Segment(*read_header(bytes(flipped)), KEY)
    for cut in range(HEADER_BYTES):
        with pytest.raises(AlteredError):
            read_header(good[:cut])


def test_garbage_of_any_kind_ends_and_is_counted():
    segment = made()
    for data in (os.urandom(50_000), b"\x01\x00" * 20_000, bytes(30_000), b"\xff" * 1000):
        found = list(segment.read(data))
        assert found
        assert all(isinstance(each, Damage) for each in found)


def test_a_length_beyond_the_limit_is_damage_not_a_wait():
    segment = made()
    sealed = segment.seal(Kind.EVENT, bytes(MAX_PAYLOAD + 1), HEADER_BYTES, 0, 0)
    assert isinstance(next(iter(segment.read(sealed))), Damage)
