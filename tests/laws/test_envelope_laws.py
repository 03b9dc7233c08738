"""Laws of envelope encryption, one sentence each."""

import io
import itertools

import independent_envelope
import pytest
from envelopes import CHUNK, HEADER, NAME, Memory, keyring, opened, provider, sealed
from hypothesis import example, given
from hypothesis import strategies as st

from ext_authz.envelope.errors import AlteredError, EnvelopeError, KeyUnavailableError, UnsupportedError
from ext_authz.envelope.format import PAGE, DataName, read_header
from ext_authz.envelope.keys import context_bytes
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.envelope.keys.memory import MemoryKey
from ext_authz.envelope.rewrap import rewrap
from ext_authz.envelope.stream import seal, unseal

TAG = 16
PLAINS = st.integers(0, 4 * CHUNK + 1).map(lambda size: bytes(i * 7 % 256 for i in range(size))) | st.binary(
    max_size=64
)
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)
NAMES = st.builds(DataName, TEXTS, TEXTS)
SEEDS = st.binary(min_size=83, max_size=83)

PLAIN = bytes(i % 253 for i in range(3 * CHUNK + 100))
SEALED = sealed(PLAIN)
MEANT = (range(2 * PAGE), range(HEADER, len(SEALED)))  # all but the page that waits for the next rewrap


def refused(data, name=NAME):
    """It is refused, and whatever came out before is the beginning of the plain text."""
    out = io.BytesIO()
    with pytest.raises(EnvelopeError):
        unseal(io.BytesIO(data), out, provider(), name)
    return PLAIN.startswith(out.getvalue())


def units(data):
    """The header and each chunk."""
    size = CHUNK + TAG
    return [data[:HEADER], *(data[at : at + size] for at in range(HEADER, len(data), size))]


@given(PLAINS, NAMES, st.integers(1024, 3000))
@example(b"", NAME, 1024)
@example(bytes(1024), NAME, 1024)
@example(bytes(2048), NAME, 1024)
def test_what_is_sealed_is_opened_under_its_name(plain, name, chunk):
    assert opened(sealed(plain, name=name, chunk=chunk), name=name) == plain


@given(PLAINS, NAMES, st.integers(1024, 3000), SEEDS)
@example(b"", NAME, 1024, bytes(range(83)))
@example(bytes(2048), NAME, 1024, bytes(range(83)))
def test_a_second_implementation_makes_the_same_bytes_and_opens_them(plain, name, chunk, seed):
    ring, given_out = keyring(), iter([seed[:32], seed[32:64], seed[64:71]])
    key = FileKeys(ring, "file:x", lambda _: seed[71:])
    ours = sealed(plain, key, name, chunk, entropy=lambda _: next(given_out))
    theirs = independent_envelope.seal_envelope(plain, ring.text(), name.type, name.id, chunk=chunk, random=seed)
    assert ours == theirs
    assert independent_envelope.open_envelope(ours, ring.text(), name.type, name.id) == plain


@given(st.sampled_from(MEANT).flatmap(st.sampled_from), st.integers(1, 255))
def test_a_changed_byte_is_refused(at, flip):
    assert refused(SEALED[:at] + bytes([SEALED[at] ^ flip]) + SEALED[at + 1 :])


@pytest.mark.parametrize("bit", range(8))
def test_every_flip_of_every_byte_that_is_used_is_refused(bit):
    used = itertools.chain(
        range(128), range(PAGE, PAGE + 128), range(2 * PAGE - 64, 2 * PAGE), range(HEADER, HEADER + 80)
    )
    for at in used:
        assert refused(SEALED[:at] + bytes([SEALED[at] ^ (1 << bit)]) + SEALED[at + 1 :]), at


@given(st.binary(min_size=1, max_size=64).filter(any).map(lambda junk: (junk * PAGE)[:PAGE]))
def test_what_stands_in_the_waiting_page_changes_nothing_and_is_reported(junk):
    spoiled = SEALED[: 2 * PAGE] + junk + SEALED[HEADER:]
    assert opened(spoiled) == PLAIN
    assert read_header(spoiled).unfinished
    assert not read_header(SEALED).unfinished


@given(st.integers(0, len(SEALED) - 1))
@example(HEADER)
@example(HEADER + CHUNK + TAG)
@example(HEADER + 3 * (CHUNK + TAG))
@example(HEADER + 3 * (CHUNK + TAG) + TAG)
def test_a_truncation_is_refused(length):
    assert refused(SEALED[:length])


@given(st.binary(min_size=1, max_size=3 * CHUNK))
def test_an_extension_is_refused(more):
    assert refused(SEALED + more)


@given(st.lists(st.sampled_from(range(1, 5)), min_size=1, max_size=8).filter(lambda order: order != [1, 2, 3, 4]))
def test_chunks_left_out_repeated_or_in_another_order_are_refused(order):
    parts = units(SEALED)
    assert refused(parts[0] + b"".join(parts[number] for number in order))


@given(st.sampled_from(range(5)), st.sampled_from(["same", "content", "name"]))
def test_a_part_of_another_envelope_is_refused(number, kind):
    name = DataName("dataset", "others") if kind == "name" else NAME
    other = sealed(bytes(len(PLAIN)) if kind == "content" else PLAIN, name=name)
    parts = units(SEALED)
    parts[number] = units(other)[number]
    assert refused(b"".join(parts))


@given(st.sampled_from([(0, PAGE), (PAGE, 2 * PAGE)]))
def test_a_page_of_another_envelope_is_refused(span):
    start, end = span
    assert refused(SEALED[:start] + sealed(PLAIN)[start:end] + SEALED[end:])


@given(NAMES)
@example(DataName("datasetc", "licks"))
@example(DataName("clicks", "dataset"))
@example(DataName("model", "clicks"))
def test_another_name_is_refused_and_nothing_is_written(name):
    if name == NAME:
        return
    out = io.BytesIO()
    with pytest.raises(AlteredError):
        unseal(io.BytesIO(SEALED), out, provider(), name)
    assert out.getvalue() == b""


@given(NAMES, NAMES)
def test_two_names_never_give_the_same_associated_data(one, other):
    assert (context_bytes(one.context) == context_bytes(other.context)) == (one == other)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda junk: b"EXTAZENV" + junk.ljust(HEADER + 40, b"\0")))
def test_any_bytes_give_a_refusal_and_never_another_error(data):
    with pytest.raises((AlteredError, UnsupportedError)):
        opened(data)


WIDTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=5)


@given(PLAINS, WIDTHS, WIDTHS)
def test_however_input_and_output_are_cut_the_bytes_are_the_same(plain, read_widths, write_widths):
    reads, writes = itertools.cycle(read_widths), itertools.cycle(write_widths)

    class Dribble:
        def __init__(self, content):
            self.content = io.BytesIO(content)

        def readinto(self, buffer):
            return self.content.readinto(buffer[: next(reads)])

    class Narrow:
        def __init__(self):
            self.content = bytearray()

        def write(self, given_bytes):
            some = bytes(given_bytes[: next(writes)])
            self.content += some
            return len(some)

    middle, out = Narrow(), Narrow()
    seal(Dribble(plain), middle, provider(), NAME, chunk_size=CHUNK)
    unseal(Dribble(bytes(middle.content)), out, provider(), NAME)
    assert bytes(out.content) == plain


def after_power_cut(before, writes, moment, torn):
    """The disk after a cut at `moment`: what was synced is there, of the rest those 512-byte sectors that `torn` picks."""
    disk = bytearray(before)
    synced = max((i for i, each in enumerate(writes[:moment]) if each is None), default=-1)
    for index, write in enumerate(writes[:moment]):
        if write is None:
            continue
        at, data = write
        for sector in range(0, len(data), 512):
            if index < synced or torn[sector // 512]:
                disk[at + sector : at + sector + 512] = data[sector : sector + 512]
    return bytes(disk)


@given(st.integers(0, 5), st.lists(st.booleans(), min_size=8, max_size=8), st.integers(0, 4), st.booleans())
def test_a_power_cut_within_a_rewrap_leaves_a_file_that_opens_and_the_next_rewrap_finishes(moment, torn, times, again):
    old, new = MemoryKey("old"), MemoryKey("new")
    data = sealed(PLAIN, old)
    for _ in range(times):
        disk = Memory(data)
        rewrap(disk, old, old)
        data = bytes(disk.data)
    for _ in range(1 + again):
        disk = Memory(data)
        holder = old if opens(data, old) else new
        rewrap(disk, holder, new)
        data = after_power_cut(data, disk.writes, moment, torn)
        assert opens(data, old) or opens(data, new)
    disk = Memory(data)
    rewrap(disk, old if opens(data, old) else new, new)
    finished = bytes(disk.data)
    assert opens(finished, new)
    assert not opens(finished, old)
    assert not read_header(finished).unfinished
    assert finished[HEADER:] == data[HEADER:]


def opens(data, key):
    try:
        return opened(data, key) == PLAIN
    except KeyUnavailableError:
        return False


@given(st.integers(1, 6))
def test_a_rewrap_changes_the_key_and_no_byte_of_the_data(times):
    key = MemoryKey()
    data = sealed(PLAIN, key)
    first = data
    for _ in range(times):
        key.rotate()
        disk = Memory(data)
        done = rewrap(disk, key, key)
        data = bytes(disk.data)
        assert done.after.key_version == str(len(key.versions))
    assert data[:PAGE] == first[:PAGE]
    assert data[HEADER:] == first[HEADER:]
    assert opened(data, key) == PLAIN
    assert sum(any(data[at : at + PAGE]) for at in (PAGE, 2 * PAGE)) == 1


def test_no_two_envelopes_share_a_key_a_salt_or_a_nonce_prefix():
    drawn = [read_header(sealed(PLAIN)).prelude for _ in range(50)]
    assert len({each.salt for each in drawn}) == len({each.commitment for each in drawn}) == 50
    assert len({each.nonce_prefix for each in drawn}) == 50
