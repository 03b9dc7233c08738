"""Whole bodies, strict JSON, gRPC frames."""

import pytest
from mapping_support import LIMIT, facts, frame

from ext_authz.mappers.body import certainly_empty, grpc_message, is_grpc, json_body, json_object, whole
from ext_authz.mappers.strict_json import MAX_DEPTH
from ext_authz.model import Reason, Refusal


def refused(result) -> bool:
    return isinstance(result, Refusal) and result.reason is Reason.AMBIGUOUS_BODY


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-length": "5"},
        {"transfer-encoding": "chunked"},
        {"transfer-encoding": "Chunked"},
        {"content-encoding": "identity"},
    ],
)
def test_a_body_whose_lengths_agree_is_whole(headers):
    assert whole(facts("POST", body=b"12345", headers=headers), LIMIT) == b"12345"


@pytest.mark.parametrize(
    "request_",
    [
        facts("POST"),
        facts("POST", body=b"12345", partial="true"),
        facts("POST", body=b"12345", partial="True"),
        facts("POST", body=b"12345", partial="true,false"),
        facts("POST", body=b"12345", size=6),
        facts("POST", body=b"12345", size=4),
        facts("POST", body=b"12345", size=-1),
        facts("POST", body=b"12345", size=0),
        facts("POST", body=b"12345", headers={"content-length": "6"}),
        facts("POST", body=b"12345", headers={"content-length": "+5"}),
        facts("POST", body=b"12345", headers={"content-length": "05"}),
        facts("POST", body=b"12345", headers={"content-length": "5,5"}),
        facts("POST", body=b"12345", headers={"content-length": ("5", "5")}),
        facts("POST", body=b"12345", headers={"content-length": ""}),
        facts("POST", body=b"12345", headers={"content-length": "9" * 5000}),
        facts("POST", body=b"12345", headers={"transfer-encoding": "gzip, chunked"}),
        facts("POST", body=b"12345", headers={"transfer-encoding": ("chunked", "chunked")}),
        facts("POST", body=b"12345", headers={"content-encoding": "gzip"}),
        facts("POST", body=b"12345", headers={"content-encoding": ""}),
        facts("POST", body=b"12345", headers={"content-encoding": ("identity", "gzip")}),
    ],
)
def test_a_body_that_may_not_be_all_is_not_whole(request_):
    assert refused(whole(request_, LIMIT))


def test_a_body_that_fills_the_buffer_is_not_whole():
    assert whole(facts("POST", body=b"x" * 9), 10) == b"x" * 9
    assert refused(whole(facts("POST", body=b"x" * 10), 10))
    assert refused(whole(facts("POST", body=b"x" * 11), 10))


def test_strict_json_reads_escapes_and_keeps_values():
    assert json_object(rb'{"mod\u0065l": "fraud", "n": [1, 2.5, null, true, "\ud83d\ude00"]}') == {
        "model": "fraud",
        "n": [1, 2.5, None, True, "😀"],
    }


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"a","model":"b"}',
        rb'{"model":"a","mod\u0065l":"b"}',
        b'{"x":{"y":1,"y":2}}',
        b'{"x":[{"y":1,"y":1}]}',
        b'{"model":"a"} ',
        b'{"model":"a"}{"model":"b"}',
        b'{"model":"a"}\x00',
        b'\xef\xbb\xbf{"model":"a"}',
        '{"model":"a"}'.encode("utf-16"),
        '{"model":"a"}'.encode("utf-16-le"),
        '{"model":"a"}'.encode("utf-32"),
        b'{"model":"\xff"}',
        b'{"model":"\xed\xa0\x80"}',
        rb'{"model":"a\ud800"}',
        rb'{"a\udc00":1}',
        b'{"model":NaN}',
        b'{"model":Infinity}',
        b'{"model":-Infinity}',
        b'{"n":1e999}',
        b'{"n":01}',
        b'{"n":+1}',
        b'{"n":.5}',
        b"{'model':'a'}",
        b'{"model":"a",}',
        b'{"model":"a"}//c',
        b'{"model":"a\nb"}',
        b'["model"]',
        b'"{}"',
        b"null",
        b"",
        b"{",
        b'{"n":' + b"9" * 5000 + b"}",
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'{"a":"' + b"[" * 200,
    ],
)
def test_json_that_parsers_read_differently_is_refused(data):
    if data == b'{"model":"a"} ':
        assert json_object(data) == {"model": "a"}, "white space after the value is JSON"
        return
    assert refused(json_object(data))


def test_nesting_up_to_the_bound_and_brackets_in_strings_are_fine():
    deep = MAX_DEPTH - 1
    assert isinstance(json_object(b'{"a":' + b"[" * deep + b"]" * deep + b"}"), dict)
    assert json_object(b'{"a":"' + b"[{" * 500 + b'\\""}') == {"a": "[{" * 500 + '"'}
    assert isinstance(json_object(b'{"a":[' + b",".join([b"[[]]"] * 500) + b"]}"), dict)


def test_a_json_body_says_so():
    for kind in ("application/json", "application/json; charset=utf-8", 'Application/JSON ; charset="UTF-8"'):
        assert json_body(facts("POST", body=b"{}", headers={"content-type": kind}), LIMIT) == {}
    for kind in (
        "text/plain",
        "application/json; charset=utf-16",
        "application/json5",
        "application/x-www-form-urlencoded",
        "",
        ("application/json", "text/plain"),
    ):
        assert refused(json_body(facts("POST", body=b"{}", headers={"content-type": kind}), LIMIT))
    assert refused(json_body(facts("POST", body=b"{}"), LIMIT))


def test_a_grpc_message_is_exactly_one_uncompressed_frame():
    data = frame(b"abc")
    assert grpc_message(facts("POST", body=data), LIMIT) == data
    assert grpc_message(facts("POST", body=frame(b"")), LIMIT) == frame(b"")


@pytest.mark.parametrize(
    "data",
    [
        frame(b"abc", flag=1),
        frame(b"abc", flag=0x80),
        frame(b"abc") + frame(b"def"),
        frame(b"abc") + b"\x00",
        frame(b"abc")[:-1],
        b"\x00\x00\x00\x00",
        b"\x00\xff\xff\xff\xffabc",
    ],
)
def test_other_framings_are_refused(data):
    assert refused(grpc_message(facts("POST", body=data), LIMIT))


@pytest.mark.parametrize(
    ("kind", "native"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc;x=y", True),
        ("application/grpc-web", False),
        ("application/grpc-web+proto", False),
        ("application/grpc+json", False),
        ("application/connect+proto", False),
        ("application/proto", False),
        ("application/json", False),
        ("application/grpcx", False),
        ("Application/gRPC", False),
    ],
)
def test_only_native_grpc_is_grpc(kind, native):
    assert is_grpc(facts("POST", headers={"content-type": kind})) is native
    assert not is_grpc(facts("GET", headers={"content-type": kind}))


def test_a_body_we_were_not_shown_is_not_an_empty_one():
    assert certainly_empty(facts("POST", protocol="HTTP/1.1"))
    assert certainly_empty(facts("POST", headers={"content-length": "0"}))
    assert not certainly_empty(facts("POST"))
    assert not certainly_empty(facts("POST", protocol="HTTP/1.1", headers={"content-length": "5"}))
    assert not certainly_empty(facts("POST", protocol="HTTP/1.1", headers={"transfer-encoding": "chunked"}))
    assert not certainly_empty(facts("POST", headers={"content-length": ("0", "5")}))
    assert not certainly_empty(facts("POST", protocol="HTTP/1.1", partial="true"))
    assert not certainly_empty(facts("POST", protocol="HTTP/1.1", size=7))
    assert not certainly_empty(facts("POST", partial="false")), "a caller may have sent that header itself"
