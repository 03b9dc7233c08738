"""Rewrapping in place: one at a time, proven before the old key goes, refused without a trace."""

import os

import pytest
from envelopes import HEADER, NAME, Memory, opened, sealed

from ext_authz.envelope.errors import AlteredError, KeyUnavailableError
from ext_authz.envelope.format import PAGE, read_header
from ext_authz.envelope.keys.memory import MemoryKey
from ext_authz.envelope.rewrap import LockedFile, rewrap, settled

PLAIN = b"plain" * 1000


class Forgetful(MemoryKey):
    """Wraps, and does not give back what it wrapped."""

    def __init__(self, answer):
        super().__init__("forgetful")
        self.answer = answer

    def unwrap(self, wrapped, context):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def descriptor(path):
    return os.open(path, os.O_RDWR)


def test_a_file_on_the_disk_is_moved(tmp_path):
    old, new = MemoryKey("old"), MemoryKey("new")
    (tmp_path / "f").write_bytes(sealed(PLAIN, old))
    number = descriptor(tmp_path / "f")
    with LockedFile(number) as disk:
        done = rewrap(disk, old, new)
    os.close(number)
    assert (done.name, done.before.key_id, done.after.key_id) == (NAME, "old", "new")
    assert opened((tmp_path / "f").read_bytes(), new) == PLAIN


def test_the_new_key_is_on_the_disk_before_the_old_one_is_erased():
    old, new = MemoryKey("old"), MemoryKey("new")
    disk = Memory(sealed(PLAIN, old))
    rewrap(disk, old, new)
    first, synced, second, last = disk.writes
    assert (first[0], len(first[1])) == (2 * PAGE, PAGE)
    assert (second[0], second[1]) == (PAGE, bytes(PAGE))
    assert synced is last is None


@pytest.mark.parametrize(
    "answer", [bytes(32), b"", KeyUnavailableError("may not decrypt"), AlteredError("?")], ids=repr
)
def test_a_key_that_does_not_open_what_it_wraps_changes_nothing(answer):
    old = MemoryKey("old")
    disk = Memory(sealed(PLAIN, old))
    with pytest.raises(KeyUnavailableError, match="nothing was changed"):
        rewrap(disk, old, Forgetful(answer))
    assert disk.writes == []


def test_a_key_that_is_not_to_be_had_changes_nothing():
    old, new = MemoryKey("old"), MemoryKey("new")
    disk = Memory(sealed(PLAIN, old))
    for down in (old, new):
        down.down = True
        with pytest.raises(KeyUnavailableError):
            rewrap(disk, old, new)
        down.down = False
    assert disk.writes == []


@pytest.mark.parametrize("at", [0, 60, 95, PAGE + 6, PAGE + 30, 2 * PAGE - 40])
def test_an_altered_header_is_not_given_a_new_key(at):
    old = MemoryKey("old")
    data = bytearray(sealed(PLAIN, old))
    data[at] ^= 1
    disk = Memory(data)
    with pytest.raises(AlteredError):
        rewrap(disk, old, MemoryKey("new"))
    assert disk.writes == []


def test_a_header_without_data_is_refused():
    old = MemoryKey("old")
    disk = Memory(sealed(PLAIN, old)[:HEADER])
    with pytest.raises(AlteredError, match="cut off"):
        rewrap(disk, old, old)


def test_two_rewraps_of_one_file_do_not_meet(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    one, other = descriptor(tmp_path / "f"), descriptor(tmp_path / "f")
    with LockedFile(one), pytest.raises(BlockingIOError), LockedFile(other):
        pytest.fail("both are at work")
    with LockedFile(other):
        pass
    with settled(one), pytest.raises(BlockingIOError), LockedFile(other):
        pytest.fail("a header is being read")
    os.close(one)
    os.close(other)


def test_the_generation_counts_every_rewrap():
    key = MemoryKey()
    disk = Memory(sealed(PLAIN, key))
    for generation in range(2, 6):
        rewrap(disk, key, key)
        assert read_header(bytes(disk.data)).slot.generation == generation
