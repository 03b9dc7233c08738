"""The strict protobuf scanner, against the variants that parsers were seen to disagree about."""

import pytest
from mapping_support import field, varint

from ext_authz.mappers.wire import BYTES, MAX_FIELDS, VARINT, WireError, only, packed, scan, text

WANTED = {1: BYTES, 2: BYTES}


def read(message: bytes, number: int = 1) -> str:
    return text(message, scan(message, 0, len(message), WANTED), number)


def test_a_string_field_is_found_wherever_it_stands():
    assert read(field(1, "fraud") + field(9, b"x" * 300)) == "fraud"
    assert read(field(9, b"x" * 300) + field(3, 7) + field(1, "fraud")) == "fraud"


def test_an_absent_field_is_the_empty_string():
    assert read(b"") == ""
    assert read(field(3, 5)) == ""
    assert read(field(1, "")) == ""


def test_fixed_width_fields_are_stepped_over():
    assert read(b"\x25abcd" + b"\x29abcdefgh" + field(1, "m")) == "m"


def test_field_numbers_up_to_the_largest_are_stepped_over():
    assert read(field((1 << 29) - 1, b"x") + field(1, "m")) == "m"


def test_a_big_field_is_not_copied():
    message = field(7, b"x" * 1_000_000) + field(1, "m")
    assert scan(message, 0, len(message), WANTED) == [(1, len(message) - 1, len(message))]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(field(1, "fraud") + field(1, "secret"), id="the field twice"),
        pytest.param(field(1, "fraud") + b"\x8a\x80\x00\x06secret", id="an over-long tag"),
        pytest.param(b"\x8a\x00\x06secret", id="a two-byte tag for a one-byte number"),
        pytest.param(field(1, "fraud") + b"\x8a\x80\x80\x80\x10\x06secret", id="a tag with bit 32 set"),
        pytest.param(b"\x8a\x80\x80\x80\x80\x80\x80\x80\x80\x00\x06secret", id="a ten-byte tag"),
        pytest.param(b"\x0a\x86\x00secret", id="an over-long length"),
        pytest.param(b"\x0a\x80\x80\x80\x80\x08", id="a length of 2 GiB"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="a negative length"),
        pytest.param(b"\x0b" + field(1, "secret") + b"\x0c", id="a group of the field"),
        pytest.param(b"\x1b\x1c" + field(1, "m"), id="a group elsewhere"),
        pytest.param(b"\x0c", id="the end of a group"),
        pytest.param(b"\x0e\x01", id="wire type 6"),
        pytest.param(b"\x0f\x01", id="wire type 7"),
        pytest.param(b"\x08\x05", id="the field as a varint"),
        pytest.param(b"\x0dabcd", id="the field as fixed32"),
        pytest.param(b"\x02\x01a", id="field number 0"),
        pytest.param(b"\x00\x01", id="field number 0 as a varint"),
        pytest.param(b"\x0a", id="no length"),
        pytest.param(b"\x0a\x05abc", id="a value past the end"),
        pytest.param(b"\x0a\x80", id="a length past the end"),
        pytest.param(b"\x8a", id="a tag past the end"),
        pytest.param(b"\x25abc", id="fixed32 past the end"),
        pytest.param(b"\x29abcdefg", id="fixed64 past the end"),
        pytest.param(b"\x18", id="a varint past the end"),
        pytest.param(b"\x18" + b"\xff" * 10, id="an unfinished varint"),
        pytest.param(b"\x18" + b"\x80" * 10 + b"\x00", id="an eleven-byte varint"),
        pytest.param(b"\x18" + b"\xff" * 9 + b"\x02", id="a varint beyond 64 bits"),
        pytest.param(field(1, b"fr\xffaud"), id="not UTF-8"),
        pytest.param(field(1, b"\xed\xa0\x80"), id="a surrogate"),
        pytest.param(field(1, b"\xc0\xaf"), id="over-long UTF-8"),
        pytest.param(field(1, "x" * 1025), id="an endless name"),
        pytest.param(b"\x18\x00" * (MAX_FIELDS + 1), id="a flood of fields"),
    ],
)
def test_what_parsers_disagree_about_is_refused(message):
    with pytest.raises(WireError):
        read(message)


def test_a_negative_number_is_ten_bytes_and_fine():
    message = b"\x18" + b"\xff" * 9 + b"\x01" + field(1, "m")
    assert read(message) == "m"


def test_a_wanted_varint_is_its_value():
    message = field(4, 300)
    found = only(scan(message, 0, len(message), {4: VARINT}), 4)
    assert found is not None
    assert found.start == 300


def test_packed_values_are_bounded():
    data = varint(1) + varint(300)
    assert packed(data, 0, len(data), 2) == [1, 300]
    with pytest.raises(WireError):
        packed(data, 0, len(data), 1)
