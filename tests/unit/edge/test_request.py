"""Reading CheckRequests: what becomes a fact, and what is refused as malformed."""

import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from wire_requests import AT_NS, add_headers, check_message, check_request, grpc_request

from ext_authz import request
from ext_authz._pb import external_auth_pb2
from ext_authz.model import Body, Reason, Refusal, RequestFacts

NAMES = frozenset({"authorization", "x-api-key", "x-forwarded-for", "x-request-id"})
ENCODINGS = pytest.mark.parametrize("encoding", ["raw", "map"])


def facts(data: bytes, names: frozenset[str] = NAMES) -> RequestFacts:
    read = request.read(data, names)
    assert isinstance(read, RequestFacts), read
    return read


def refused(data: bytes, names: frozenset[str] = NAMES) -> str:
    read = request.read(data, names)
    assert isinstance(read, Refusal), read
    assert read.reason is Reason.MALFORMED_REQUEST
    return read.detail


@ENCODINGS
def test_a_request_becomes_facts(encoding):
    read = facts(
        check_request(
            "POST",
            "/v2/models/fraud/infer?x=1",
            "Models.Internal:8443",
            [("Authorization".lower(), "Bearer t"), ("accept", "*/*"), ("content-type", "application/json")],
            encoding=encoding,
            body=b'{"a":1}',
            principal="spiffe://ml.example/ns/a/sa/b",
            certificate="-----BEGIN%20",
            context_extensions={"ext_authz_route": "fraud"},
            sni="models.internal",
        )
    )
    assert read == RequestFacts(
        method="POST",
        path="/v2/models/fraud/infer?x=1",
        host="models.internal",
        headers={"authorization": ("Bearer t",), "content-type": ("application/json",)},
        forged=(),
        body=Body(b'{"a":1}', 7, "false"),
        source_address="10.1.2.3",
        source_principal="spiffe://ml.example/ns/a/sa/b",
        source_certificate="-----BEGIN%20",
        time_ns=AT_NS,
        context_extensions={"ext_authz_route": "fraud"},
        http_protocol="HTTP/2",
        scheme="https",
        sni="models.internal",
    )


@ENCODINGS
def test_only_the_headers_asked_for_are_kept_and_content_type(encoding):
    headers = {"cookie": "s=1", "x-api-key": "k", "content-type": "text/plain", "host": "a.b"}
    read = facts(check_request(host="a.b", headers=headers, encoding=encoding, partial="true"))
    assert set(read.headers) == {"x-api-key", "content-type"}


@ENCODINGS
def test_internal_headers_are_kept_when_the_snapshot_asks_for_them(encoding):
    names = frozenset({"host", ":path", "x-envoy-auth-partial-body", "x-authz-token"})
    headers = {"host": "a.b", "x-authz-token": "t"}
    read = facts(check_request(path="/p", host="a.b", headers=headers, encoding=encoding, partial="true"), names)
    assert dict(read.headers) == {
        "host": ("a.b",),
        ":path": ("/p",),
        "x-envoy-auth-partial-body": ("true",),
        "x-authz-token": ("t",),
    }
    assert read.forged == ("x-authz-token",)


def test_repeated_headers_stay_apart_and_in_order():
    read = facts(check_request(headers=[("x-api-key", "a"), ("X-Api-Key", "b"), ("x-api-key", "c")]))
    assert read.headers["x-api-key"] == ("a", "b", "c")
    assert read.header("x-api-key") is None


def test_no_byte_of_a_raw_value_is_lost():
    value = bytes(range(1, 256))
    read = facts(check_request(headers=[("x-api-key", value)]))
    assert read.headers["x-api-key"][0].encode("latin-1") == value


def test_text_and_raw_values_read_alike():
    message = check_message()
    line = message.attributes.request.http.header_map.headers.add(key="x-api-key")
    line.value = "grüß"
    by_text = facts(message.SerializeToString())
    line.ClearField("value")
    line.raw_value = "grüß".encode()
    assert facts(message.SerializeToString()) == by_text
    line.value = "grüß"
    assert facts(message.SerializeToString()) == by_text


def test_one_line_with_two_different_values_is_malformed():
    message = check_message()
    message.attributes.request.http.header_map.headers.add(key="x-api-key", value="a", raw_value=b"b")
    assert "two values" in refused(message.SerializeToString())


def test_headers_in_both_encodings_are_malformed():
    message = check_message(headers={"x-api-key": "a"})
    message.attributes.request.http.headers["x-api-key"] = "a"
    assert "both encodings" in refused(message.SerializeToString())


@ENCODINGS
def test_forged_names_are_reported_verbatim_and_their_values_forgotten(encoding):
    headers = [("x-authz-subject", "root"), ("X_Authz_Roles", "admin"), ("x_authz-", "v"), ("x-authzed", "fine")]
    read = facts(check_request(headers=headers, encoding=encoding))
    assert set(read.forged) == {"x-authz-subject", "X_Authz_Roles", "x_authz-"}
    assert dict(read.headers) == {}


def test_a_forged_name_is_reported_once():
    assert facts(check_request(headers=[("x-authz-a", "1"), ("x-authz-a", "2")])).forged == ("x-authz-a",)


@ENCODINGS
def test_sixty_four_forged_names_are_read_and_one_more_is_malformed(encoding):
    forged = [(f"x-authz-{n}", "v") for n in range(64)]
    assert len(facts(check_request(headers=forged, encoding=encoding)).forged) == 64
    assert "forged" in refused(check_request(headers=[*forged, ("x_authz_more", "v")], encoding=encoding))


@pytest.mark.parametrize("name", ["x-authz-\n", "x-authz- a", "x-authz-ü", "x-authz-" + "a" * 300])
def test_a_forged_name_that_could_not_be_removed_is_malformed(name):
    assert "token" in refused(check_request(headers=[(name, "v")]))


@ENCODINGS
def test_more_than_512_headers_are_malformed(encoding):
    headers = [(f"h{n}", "v") for n in range(508)]
    facts(check_request(headers=headers, encoding=encoding))
    assert "512" in refused(check_request(headers=[*headers, ("one-more", "v")], encoding=encoding))


def test_names_beyond_the_table_of_known_names_are_still_read():
    names = frozenset({"x-late"})
    for start in range(0, 3000, 500):
        facts(check_request(headers=[(f"n{start + n}", "v") for n in range(500)]), names)
    read = facts(check_request(headers=[("x-late", "here"), ("x-authz-late", "v")]), names)
    assert read.headers["x-late"] == ("here",)
    assert read.forged == ("x-authz-late",)


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("models.internal", "models.internal"),
        ("MODELS.Internal.:443", "models.internal"),
        ("a_b-c.x:65535", "a_b-c.x"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("[::1]", "[::1]"),
        ("[0:0:0:0:0:0:0:1]:8080", "[::1]"),
        ("[2001:DB8::A]", "[2001:db8::a]"),
        ("a." * 126 + "a", "a." * 126 + "a"),
    ],
)
def test_hosts_have_one_form(authority, host):
    assert facts(check_request(host=authority)).host == host


@pytest.mark.parametrize(
    "authority",
    [
        "",
        ".",
        "a..",
        "a..b",
        ".a",
        ":80",
        "a:",
        "a:b",
        "a:65536",
        "a:123456",
        "a:80:80",
        "a:-1",
        "a:\u0661",
        "user@a",
        "a@b:80",
        "a,b",
        "a b",
        " a",
        "a\n",
        "a\x00",
        "a/b",
        "a\\b",
        "a%2eb",
        "*",
        "*.a",
        "ä.b",
        "\u212aube.local",
        "[::1",
        "::1",
        "[]",
        "[::1]x",
        "[::1%25eth0]",
        "[fe80::1%eth0]",
        "[1.2.3.4]",
        "a" * 64,
        "a." * 127 + "a",
    ],
)
def test_what_is_not_one_host_is_malformed(authority):
    assert "host" in refused(check_request(host=authority))


@pytest.mark.parametrize(
    ("name", "value"),
    [(":authority", "evil"), ("host", "evil"), (":path", "/admin"), (":path", b"/\xff"), (":method", "DELETE")],
)
@ENCODINGS
def test_a_header_that_disagrees_with_its_attribute_is_malformed(name, value, encoding):
    message = check_message(path="/p", pseudo=False)
    add_headers(message.attributes.request.http, [(name, value)], encoding)
    assert name in refused(message.SerializeToString())


@pytest.mark.parametrize("name", [":authority", "host", ":path", ":method", "Host"])
def test_a_doubled_authority_path_or_method_is_malformed_even_when_both_agree(name):
    value = {":path": "/", ":method": "GET"}.get(name, "models.internal")
    data = check_request(headers=[(name, value), (name, value)], pseudo=False)
    assert "twice" in refused(data)


def test_a_host_header_beside_an_agreeing_authority_is_read():
    assert facts(check_request(headers={"host": "models.internal"})).host == "models.internal"


@pytest.mark.parametrize("method", ["", "GE T", "GET\n", "GÉT", "a" * 65, "GET\x00", "(GET)"])
def test_a_method_that_is_no_token_is_malformed(method):
    assert "method" in refused(check_request(method))


@pytest.mark.parametrize("method", ["CONNECT", "get", "PROPFIND", "a" * 64, "M-SEARCH"])
def test_any_token_is_a_method(method):
    assert facts(check_request(method)).method == method


def test_a_connect_request_has_an_empty_path():
    assert facts(check_request("CONNECT", "")).path == ""


@pytest.mark.parametrize("field", ["query", "fragment"])
def test_a_query_outside_the_path_is_malformed(field):
    message = check_message()
    setattr(message.attributes.request.http, field, "admin=1")
    assert "outside the path" in refused(message.SerializeToString())


def test_bodies_in_either_field():
    message = check_message()
    http = message.attributes.request.http
    http.body, http.size = "grüß", 6
    assert facts(message.SerializeToString()).body == Body("grüß".encode(), 6, "")
    http.raw_body = b"x"
    assert "both encodings" in refused(message.SerializeToString())


@pytest.mark.parametrize(("size", "read"), [(0, 0), (-1, -1), (-(2**63), -1), (2**63 - 1, 2**63 - 1)])
def test_the_size_is_as_sent_and_never_below_minus_one(size, read):
    assert facts(check_request(body=b"abc", size=size)).body.size == read


def test_the_partial_header_is_verbatim():
    assert facts(check_request(body=b"abc", partial="true")).body.partial == "true"
    twice = [("x-envoy-auth-partial-body", "false"), ("x-envoy-auth-partial-body", "true")]
    assert facts(check_request(headers=twice)).body.partial == "false,true"
    assert facts(check_request()).body.partial == ""


def test_a_unix_socket_or_no_address_is_an_empty_source():
    assert facts(check_request(source="")).source_address == ""


def test_time_may_be_absent():
    assert facts(check_request(time_ns=None)).time_ns is None


@pytest.mark.parametrize(("seconds", "nanos"), [(-1, 0), (2**62, 0), (253_402_300_800, 0), (1, -1), (1, 10**9)])
def test_a_time_no_calendar_has_is_malformed(seconds, nanos):
    message = check_message()
    message.attributes.request.time.seconds = seconds
    message.attributes.request.time.nanos = nanos
    assert "time" in refused(message.SerializeToString())


def test_without_http_attributes_it_is_malformed():
    for data in (b"", external_auth_pb2.CheckRequest(attributes={"source": {"principal": "x"}}).SerializeToString()):
        assert "HTTP" in refused(data)


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x80", check_request()[:-3], b"\x0b" * 200])
def test_what_is_no_message_is_malformed(data):
    refused(data)


def test_text_that_is_not_utf8_is_malformed():
    data = check_request(path="/aaaa").replace(b"/aaaa", b"/\xff\xfe\xfd\xfc", 1)
    assert "UTF-8" in refused(data)


def test_unknown_fields_pass_by():
    assert facts(check_request() + b"\xfa\x07\x03abc") == facts(check_request())


def test_attributes_that_come_twice_merge_and_stay_consistent():
    once = check_request("GET", "/public", pseudo=False)
    again = check_request("DELETE", "/secret", pseudo=False)
    assert facts(once + again).path == "/secret"
    assert facts(once + again).method == "DELETE"
    # Envoy never writes this; with its pseudo-headers the two halves contradict each other.
    assert "twice" in refused(check_request(path="/public") + check_request(path="/secret"))


def test_a_grpc_call_brings_its_framed_message():
    read = facts(grpc_request("/inference.GRPCInferenceService/ModelInfer", b"\x0a\x05fraud"))
    assert read.method == "POST"
    assert read.headers["content-type"] == ("application/grpc",)
    assert read.body == Body(b"\x00\x00\x00\x00\x07\x0a\x05fraud", 12, "false")


def test_a_request_recorded_from_envoy_is_read():
    recorded = """attributes {
      source { address { socket_address { address: "127.0.0.1" port_value: 52374 } }
        principal: "spiffe://lab.local/ns/default/sa/client-a" }
      destination { address { socket_address { address: "127.0.0.1" port_value: 28443 } } principal: "spiffe://e" }
      request {
        time { seconds: 1795377015 nanos: 180681000 }
        http { id: "16894475642748642088" method: "POST" path: "/lab.v1.Echo/Say" host: "lab.local" scheme: "https"
          protocol: "HTTP/2"
          header_map {
            headers { key: ":path" raw_value: "/lab.v1.Echo/Say" }
            headers { key: ":authority" raw_value: "lab.local" }
            headers { key: ":method" raw_value: "POST" }
            headers { key: ":scheme" raw_value: "https" }
            headers { key: "content-type" raw_value: "application/grpc" }
            headers { key: "x-forwarded-for" raw_value: "192.0.2.2" } } } }
      context_extensions { key: "tier" value: "edge" }
      metadata_context {} route_metadata_context {} tls_session { sni: "lab.local" } }"""
    message = text_format.Parse(recorded, external_auth_pb2.CheckRequest())
    read = facts(message.SerializeToString())
    assert (read.method, read.path, read.host, read.sni) == ("POST", "/lab.v1.Echo/Say", "lab.local", "lab.local")
    assert read.headers["x-forwarded-for"] == ("192.0.2.2",)
    assert read.time_ns == 1_795_377_015_180_681_000
    assert read.context_extensions == {"tier": "edge"}


def test_proto_json_is_read_in_either_spelling():
    body = {"method": "GET", "path": "/", "host": "a.b"}
    for key, lines in (("headerMap", "rawValue"), ("header_map", "raw_value")):
        http = body | {key: {"headers": [{"key": "x-api-key", lines: "az0="}]}}
        text = json.dumps({"attributes": {"request": {"time": "2026-11-23T10:00:00Z", "http": http}}})
        read = facts(request.from_json(text))
        assert read.headers["x-api-key"] == ("k=",)
        assert read.time_ns == AT_NS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"attributes": {"reqest": {}}}',
        '{"attributes": {}, "attributes": {}}',
        '{"attributes": {"request": {"time": "noon"}}}',
        '{"attributes": {"request": {"http": {"rawBody": "hello world!"}}}}',
        "[" * 100_000,
        '{"attributes": {"metadataContext": {"filterMetadata": {"a": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}}}}",
        '{"attributes": {"request": {"http": {"path": "\\ud800"}}}}',
    ],
)
def test_what_is_not_a_check_request_in_json_says_so(text):
    with pytest.raises(ValueError, match="not a CheckRequest in proto JSON"):
        request.from_json(text)


def test_only_the_edge_imports_protobuf_of_its_own():
    package = Path(request.__file__).parent
    importers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "ext_authz._pb" in path.read_text() and not path.is_relative_to(package / "_pb")
    }
    assert {name for name in importers if not name.startswith("server/")} == {"request.py", "response.py"}
