"""Version 1 stays readable: a file that was made once and is kept, and the bytes of its header."""

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from envelopes import NAME, counted, keyring, opened, provider, sealed

from ext_authz.envelope.errors import AlteredError, UnsupportedError
from ext_authz.envelope.format import (
    HEADER_BYTES,
    MAX_CHUNK,
    PAGE,
    DataName,
    Prelude,
    Slot,
    derive,
    read_header,
    write_header,
)
from ext_authz.envelope.keys import WrappedKey
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.envelope.stream import _nonce, seal

KEPT = Path(__file__).parent / "version_1"
PLAIN = b"kept since version 1\n" * 100


def vector():
    """What `version_1/kept.enc` holds, made again: all that is random is counted."""
    entropy = counted()
    return sealed(PLAIN, FileKeys(keyring(), "file:x", entropy), entropy=entropy)


def test_the_kept_file_opens_and_is_made_again_to_the_byte():
    kept = (KEPT / "kept.enc").read_bytes()
    assert opened(kept) == PLAIN
    assert vector() == kept
    assert (KEPT / "kept.keyring.json").read_text() == keyring().text()


def test_the_keys_are_hkdf_sha_256():
    keys = derive(bytes(range(32)), bytes(32))
    whole = keys.payload + keys.commitment + keys.header
    assert hashlib.sha256(whole).hexdigest() == "f13373ea193a07141091b8845d682e173f5fcaa6768c13f5037cb58b2a41b327"


def test_an_aes_256_key_is_used_and_nothing_shorter():
    assert len(derive(bytes(32), bytes(32)).payload) == 32
    for size in (0, 16, 24, 31, 33):
        with pytest.raises(AlteredError):
            derive(bytes(size), bytes(32))


def test_nonces_never_repeat_and_the_last_chunk_has_its_own():
    prefix = bytes(7)
    nonces = {_nonce(prefix, number, last) for number in (0, 1, 255, 256, 2**32 - 1) for last in (False, True)}
    assert len(nonces) == 10
    assert {len(nonce) for nonce in nonces} == {12}
    with pytest.raises(UnsupportedError, match="too large"):
        _nonce(prefix, 2**32, last=False)


@pytest.mark.parametrize("size", [0, 1023, MAX_CHUNK + 1])
def test_a_chunk_size_out_of_bounds_is_refused_on_both_sides(size):
    with pytest.raises(ValueError, match="chunk"):
        sealed(b"", chunk=size)
    prelude = Prelude(NAME, size, bytes(32), bytes(7), bytes(32)).encode()
    with pytest.raises(AlteredError):
        read_header(prelude + sealed(b"")[PAGE:])


@pytest.mark.parametrize(
    "name", [("", "x"), ("x", ""), ("a\n", "x"), ("x", "\x9b"), ("x" * 129, "x"), ("x", "é" * 1025)]
)
def test_a_name_that_cannot_be_bound_is_refused(name):
    with pytest.raises(ValueError, match="the data"):
        DataName(*name)


def test_the_longest_name_fits():
    name = DataName("t" * 128, "i" * 2048)
    assert opened(sealed(b"x", name=name), name=name) == b"x"


def test_a_wrapped_key_that_does_not_fit_is_refused_before_anything_is_written():
    class Sink:
        def write(self, _):
            pytest.fail("nothing is to be written")

    class Talkative:
        def wrap(self, data_key, context):
            return WrappedKey("file", "x", "1", bytes(PAGE))

    with pytest.raises(UnsupportedError, match="does not fit"):
        seal(None, Sink(), Talkative(), NAME)


def test_slots_take_turns():
    wrapped = WrappedKey("file", "x", "1", b"w")
    assert [Slot(generation, wrapped).offset for generation in (1, 2, 3, 4)] == [PAGE, 2 * PAGE, PAGE, 2 * PAGE]


def test_a_slot_in_the_others_place_is_not_in_force():
    data = sealed(b"x")
    moved = data[:PAGE] + bytes(PAGE) + data[PAGE : 2 * PAGE] + data[HEADER_BYTES:]
    with pytest.raises(AlteredError):
        opened(moved)


def test_a_header_for_another_data_key_is_refused():
    """Two data keys that open one file are what the commitment rules out."""
    prelude = Prelude(NAME, 1024, bytes(32), bytes(7), derive(bytes(32), bytes(32)).commitment)
    other = b"\1" * 32
    slot = Slot(1, provider().wrap(other, NAME.context))
    header = read_header(write_header(prelude, slot, derive(other, prelude.salt)))
    with pytest.raises(AlteredError, match="header"):
        header.check(other)


def forged(data, at, change):
    """The slot in page 2 changed by somebody who has no key, its checksum made to fit; put where `at` says."""
    page = bytearray(data[PAGE : 2 * PAGE])
    change(page)
    page[4064:] = hashlib.sha256(page[:4064]).digest()
    return data[:at] + bytes(page) + data[at + PAGE :]


def of_generation(number):
    def change(page):
        page[4:8] = number.to_bytes(4, "big")

    return change


@pytest.mark.parametrize(("at", "generation"), [(PAGE, 3), (PAGE, 2**32 - 1), (2 * PAGE, 2)])
def test_a_slot_with_a_checksum_that_fits_is_not_believed_without_its_mac(at, generation):
    data = forged(sealed(b"x"), at, of_generation(generation))
    assert read_header(data).slot.generation == generation
    with pytest.raises(AlteredError, match="header"):
        opened(data)


def test_a_forged_mac_is_not_believed():
    def change(page):
        page[4032:4064] = bytes(32)

    with pytest.raises(AlteredError, match="header"):
        opened(forged(sealed(b"x"), PAGE, change))


def test_an_empty_last_chunk_after_others_is_refused_even_from_a_holder_of_the_key():
    data = sealed(bytes(1024))
    header = read_header(data)
    keys = header.check(provider().unwrap(header.slot.wrapped, NAME.context))
    cipher, prefix = AESGCM(keys.payload), header.prelude.nonce_prefix
    chunks = cipher.encrypt(_nonce(prefix, 0, False), bytes(1024), header.digest)
    chunks += cipher.encrypt(_nonce(prefix, 1, True), b"", header.digest)
    assert opened(data) == bytes(1024)
    with pytest.raises(AlteredError, match="cut off or added to"):
        opened(data[:HEADER_BYTES] + chunks)
