"""Segments that somebody made larger than any writer would: a verdict, and no memory for what is in them."""

import os
import struct
import tracemalloc
from zlib import crc32

import pytest
from altered import abandon, add, event, files, frames, verified, write
from trails import new_spool

from ext_authz.audit.framing import PIECE_BYTES, framing, has_hole, zeros_from
from ext_authz.audit.segment import HEADER_BYTES, Damage, Kind

MiB = 2**20


def large(folder, count=90):
    """A log of events of 100 KB, as a killed process leaves it."""
    spool = new_spool(folder)
    add(spool, 1)
    for _ in range(count):
        spool.append(lambda seq: event(spool.log_id, seq, detail="x" * 100_000))
    spool.check()
    abandon(spool)
    return files(folder)[0]


def heads(at, count):
    """Beginnings of frames that nobody sealed, as anybody can make them."""
    made = bytearray()
    for _ in range(count):
        head = struct.pack(">III", Kind.EVENT << 24, 0, 0)
        made += head + struct.pack(">I", crc32(head, at + len(made))) + bytes(16)
    return bytes(made)


def test_damage_over_several_pieces_is_one(tmp_path):
    path = large(tmp_path)
    whole = frames(path)
    data = path.read_bytes()
    assert len(data) > 2 * PIECE_BYTES
    first, last = whole[5].end, whole[-4].end
    path.write_bytes(data[:first] + b"\xff" * (last - first) + data[last:])
    bad, missing = verified(tmp_path).problems
    assert (bad.offset, bad.text) == (first, f"{last - first} bytes are not as they were written")
    assert (missing.first, missing.last) == (whole[6].seq, whole[-4].seq)


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_memory_does_not_grow_with_a_file(tmp_path, key, fill):
    trail = write(tmp_path / "audit", 5, 5)
    path = files(trail)[0]
    with path.open("ab") as file:
        file.write(b"\xff" * 100 + fill * 100)
    os.truncate(path, 48 * MiB)
    if fill != b"\0":
        with path.open("r+b") as file:
            file.seek(48 * MiB - 1)
            file.write(fill)
    if not key:
        path.with_suffix(".key").unlink()
    tracemalloc.start()
    try:
        report = verified(trail)
        assert tracemalloc.get_traced_memory()[1] < 24 * MiB
    finally:
        tracemalloc.stop()
    assert report.status == (0 if key else 3)  # zeros in it, and no event is missing
    assert any("ends in zeros" in note for note in report.logs[0].notes) == key


def test_a_file_of_nothing_but_beginnings_of_frames_gives_few_problems(tmp_path):
    trail = write(tmp_path / "audit", 5, 5, sealed=False)
    path = files(trail)[0]
    data = path.read_bytes()
    cut = frames(path)[2].end
    path.write_bytes(data[:cut] + heads(cut, 5_000) + data[cut:])
    report = verified(trail)
    assert report.status == 1
    assert len(report.problems) <= 1_002


def test_what_shows_without_a_key_is_the_same_in_pieces(tmp_path):
    path = large(tmp_path)
    found, size = frames(path), path.stat().st_size
    assert framing(path, size).events == sum(each.kind is Kind.EVENT for each in found if not isinstance(each, Damage))
    assert framing(path, size).whole == size
    short = framing(path, found[3].end + 5)
    assert (short.whole, short.last, short.odd) == (found[3].end, found[3].kind, False)
    with path.open("r+b") as file:
        file.seek(found[3].end)
        file.write(b"\xff" * 40)
    assert framing(path, size).odd
    with path.open("r+b") as file:
        file.seek(5 * MiB)
        file.write(bytes(1024))
    assert not framing(path, size).odd
    assert has_hole(path, HEADER_BYTES, size)
    assert not has_hole(path, 5 * MiB + 1024, size)
    assert zeros_from(path, 5 * MiB, 5 * MiB + 1000) == 5 * MiB
    assert zeros_from(path, HEADER_BYTES, 5 * MiB + 1024) == 5 * MiB
