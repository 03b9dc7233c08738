"""Laws of bundles: what is not exactly what was signed is refused, and nothing but a refusal comes of any bytes."""

import gzip

from bundles import FILES, NOW, bundle, key, members
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.bundle.archive import open_bundle, write_archive
from ext_authz.bundle.keys import by_id
from ext_authz.bundle.problems import BundleError
from ext_authz.bundle.trust import Trust

TRUST = Trust(by_id([key().public_key()]), "ml-prod")
GOOD = bundle()
RAW = gzip.decompress(GOOD)
MEMBERS = members(GOOD)


def believed(archive):
    try:
        return open_bundle(archive, TRUST, NOW).files
    except BundleError:
        return None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_a_refusal_and_never_an_exception_of_another_kind(data):
    assert believed(data) is None
    assert believed(gzip.compress(data)) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_an_archive_with_one_changed_byte_is_refused_or_means_exactly_what_was_signed(at, flip):
    odd = bytearray(RAW)
    odd[at] ^= flip
    assert believed(gzip.compress(bytes(odd))) in (None, FILES)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_stream_with_one_changed_byte_is_refused_or_means_exactly_what_was_signed(at, flip):
    odd = bytearray(GOOD)
    odd[at] ^= flip
    assert believed(bytes(odd)) in (None, FILES)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(MEMBERS), max_size=7))
def test_members_in_any_number_and_order_are_refused_or_mean_exactly_what_was_signed(listed):
    assert believed(write_archive(listed)) in (None, FILES)
