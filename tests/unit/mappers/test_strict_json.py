"""What one JSON body may cost: counted, not timed."""

import json

import pytest
from mapping_support import LIMIT, facts, field, grpc, meaning, table

from ext_authz.mappers.strict_json import MAX_WORK, StrictError, parse, work

MB = 1_000_000


def listed(unit: bytes, size: int = MB) -> bytes:
    return b'{"model":"m","a":[' + b",".join([unit] * (size // (len(unit) + 1))) + b"]}"


def keyed(template: bytes, size: int = MB) -> bytes:
    return b'{"model":"m",' + b",".join([template % number for number in range(size // (len(template) + 5))]) + b"}"


ATTACKS = {
    "empty lists": listed(b"[]"),
    "empty objects": listed(b"{}"),
    "small objects": listed(b'{"":0}'),
    "small numbers": listed(b"0"),
    "short floats": listed(b"0.1"),
    "words": listed(b"null"),
    "empty strings": listed(b'""'),
    "strings that end in a backslash": listed(rb'"\\"'),
    "strings that end in a quote": listed(rb'"\\\""'),
    "deep lists": listed(b"[" * 60 + b"]" * 60),
    "deep objects": listed(b'{"":' * 60 + b"1" + b"}" * 60),
    "keys": keyed(b'"%x":0'),
    "keys with escapes": keyed(rb'"\u00e9%x":0'),
    "keys that begin alike": keyed(b'"' + b"k" * 40 + b'%x":0'),
    "never closed": b'{"model":["' * (MB // 11),
    "open lists": b"[" * MB,
    "open objects": b'{"a":' * (MB // 5),
    "dense, and wrong at the very end": listed(b"{}") + b"x",
    "dense, and then one long string": listed(b"{}", MB // 2)[:-1] + b',"p":"' + rb"\\" * (MB // 4),
    "dense after a backslash that is not in a string": b"\\" + listed(b"{}"),
}


@pytest.mark.parametrize("data", ATTACKS.values(), ids=ATTACKS)
def test_a_dense_body_is_refused_before_any_parser_sees_it(data, monkeypatch):
    monkeypatch.setattr("ext_authz.mappers.strict_json.orjson.loads", lambda _: pytest.fail("it was parsed"))
    assert work(data) > MAX_WORK
    with pytest.raises(StrictError, match="more keys, numbers or brackets"):
        parse(data)


PLAIN = {
    "one long string": b"x",
    "commas and brackets in a string": b",[{:",
    "escapes": rb"\u00e9",
    "escaped quotes": rb"\"",
    "escaped backslashes": rb"\\",
    "JSON in a string": rb"{\"a\":[1,\"b\\\"c\"]},",
    "letters beyond ASCII": "é😀".encode(),
}


@pytest.mark.parametrize("unit", PLAIN.values(), ids=PLAIN)
def test_what_stands_in_strings_costs_nothing(unit):
    data = b'{"model":"m","messages":[{"content":"' + unit * (MB // len(unit)) + b'"}]}'
    assert work(data) < 64
    assert parse(data) == json.loads(data)


def test_a_long_conversation_with_many_tools_is_read():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {f"p{n}": {"type": "string", "description": "d" * 40} for n in range(12)}}}}  # fmt: skip
    turn = {"role": "user", "content": 'text, with commas: {"and": ["json"]}' * 20}
    data = json.dumps({"model": "m", "messages": [turn] * 500, "tools": [tool] * 100}).encode()
    assert len(data) > MB // 2
    assert parse(data)["model"] == "m"


def test_the_bound_counts_what_stands_outside_strings_exactly():
    elements = 20_000
    data = json.dumps({"a": [f'",[{number}' for number in range(elements)], "p": "," * MB}).encode()
    # Commas between elements and before "p", two colons, one list, one object.
    assert work(data) == 2 * elements + 2 * 5 + 4 + 8


def test_a_dense_body_that_decides_the_meaning_is_ambiguous_and_one_read_for_limits_is_not_read():
    routes = table("routes: [{host: h, protocol: openai}, {host: v, protocol: kserve-v1}]")
    body, kind = ATTACKS["small objects"], {"content-type": "application/json"}
    assert len(body) < LIMIT
    request = facts("POST", "/v1/chat/completions", "h", body=body, headers=kind)
    assert meaning(routes, request) == "ambiguous_body"
    request = facts("POST", "/v1/models/m:predict", "v", body=body, headers=kind)
    assert meaning(routes, request) == [("model", "m", "", "infer")]


def test_messages_within_a_message_share_one_bound_of_fields():
    routes = table("routes: [{host: h, protocol: open-inference}, {host: t, protocol: tensorflow-serving}]")
    tensor = field(3, b"\x05") + field(9, 1) * 4000
    request = grpc("/inference.GRPCInferenceService/ModelInfer", field(1, "m") + field(5, tensor) * 60)
    assert meaning(routes, request) == [("model", "m", "", "infer")]
    task = field(1, field(1, "m")) + field(9, 1) * 4000
    request = grpc("/tensorflow.serving.PredictionService/MultiInference", field(1, task) * 60, "t")
    assert meaning(routes, request) == "ambiguous_body"
