"""Laws of the protobuf edge: any bytes are read or refused, and no answer is an allow by accident."""

from dataclasses import replace

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from wire_requests import AT_NS, check_message, check_request, grpc_request, read_reply

from ext_authz import request, response
from ext_authz._pb import external_auth_pb2
from ext_authz.model import (
    Access,
    Auth,
    Context,
    Decision,
    Identity,
    Outcome,
    Reason,
    Refusal,
    RequestFacts,
    Resource,
    Risk,
    ShadowMatch,
)

NAMES = frozenset({"authorization", "x-api-key", "x-forwarded-for", "x-forwarded-client-cert", "cookie"})
ALLOWS = (Reason.ALLOWED, Reason.PUBLIC_ROUTE)

header_names = st.one_of(
    st.sampled_from([":authority", ":path", ":method", "host", "Host", "content-type", "authorization", "cookie", ""]),
    st.sampled_from(["x-authz-subject", "X_AUTHZ_ROLES", "x-envoy-auth-partial-body", "x-forwarded-for"]),
    st.text(max_size=20),
)
header_values = st.one_of(st.binary(max_size=30), st.sampled_from([b"models.internal", b"/", b"GET", b"true"]))


@st.composite
def structured(draw: st.DrawFn) -> bytes:
    """CheckRequests that get past the parser and differ in what they say."""
    message = check_message(
        draw(st.one_of(st.just("GET"), st.text(max_size=5))),
        draw(st.one_of(st.just("/"), st.text(max_size=20))),
        draw(st.one_of(st.just("models.internal"), st.text(max_size=20), st.text("[]:.@,1aA", max_size=8))),
        draw(st.lists(st.tuples(header_names, header_values), max_size=8)),
        encoding=draw(st.sampled_from(["raw", "map"])),
        pseudo=draw(st.booleans()),
        body=draw(st.binary(max_size=20)),
        size=draw(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
        source=draw(st.one_of(st.just(""), st.just("10.0.0.1"), st.text(max_size=10))),
        principal=draw(st.text(max_size=20)),
        certificate=draw(st.text(max_size=20)),
        time_ns=draw(st.one_of(st.none(), st.integers(-(2**62), 2**62))),
        context_extensions=draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)),
        sni=draw(st.text(max_size=10)),
    )
    http = message.attributes.request.http
    if draw(st.booleans()):
        line = http.header_map.headers.add()
        line.key, line.value = draw(header_names), draw(st.text(max_size=10))
    if draw(st.booleans()):
        http.body = draw(st.text(max_size=10))
    return message.SerializeToString()


valid = [
    check_request("POST", "/v2/models/fraud/infer", headers={"authorization": "Bearer t"}, body=b"{}"),
    check_request(encoding="map", headers={"x-authz-subject": "root"}, principal="spiffe://ml.example/a"),
    grpc_request("/inference.GRPCInferenceService/ModelInfer", b"\x0a\x05fraud", time_ns=None),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Valid messages with bytes changed, cut, repeated or spliced."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["set", "cut", "insert", "repeat"])):
            case "set" if data:
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 8))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=8))
            case _:
                data += data[at:]
    return bytes(data)


@given(st.one_of(st.binary(max_size=300), structured(), mutated()))
def test_any_bytes_give_facts_or_a_malformed_request_and_never_an_exception(data):
    read = request.read(data, NAMES)
    if isinstance(read, Refusal):
        assert read.reason is Reason.MALFORMED_REQUEST
        assert read.detail
        return
    assert isinstance(read, RequestFacts)
    assert read.host
    assert read.host == read.host.lower()
    assert set(read.headers) <= NAMES | {"content-type"}
    assert all(isinstance(values, tuple) and values for values in read.headers.values())
    assert len(read.forged) <= request.MAX_FORGED
    assert read.time_ns is None or 0 <= read.time_ns < 253_402_300_800 * 10**9
    for values in read.headers.values():
        for value in values:
            value.encode("latin-1")


@given(st.text(max_size=40))
def test_a_canonical_host_is_its_own_canonical_form(authority):
    host = request.canonical_host(authority)
    if host is not None:
        assert request.canonical_host(host) == host


@given(st.lists(st.tuples(st.sampled_from(["a", "b-c", "x-api-key", "cookie"]), st.text(max_size=8)), max_size=6))
def test_both_encodings_read_alike_when_no_header_repeats(lines):
    unique = dict(lines)
    raw = request.read(check_request(headers=unique, encoding="raw"), NAMES)
    assert raw == request.read(check_request(headers=unique, encoding="map"), NAMES)


@given(st.sampled_from(sorted(NAMES | {"host", "x-authz-a", "x-other"})), st.data())
def test_letter_case_hides_no_header(name, data):
    spelled = "".join(data.draw(st.sampled_from([letter, letter.upper()])) for letter in name)
    plain = request.read(check_request(headers={name: "models.internal"}), NAMES)
    odd = request.read(check_request(headers={spelled: "models.internal"}), NAMES)
    assert isinstance(plain, RequestFacts)
    assert isinstance(odd, RequestFacts)
    assert odd.headers == plain.headers
    assert [each.lower() for each in odd.forged] == list(plain.forged)


@given(st.one_of(structured(), st.sampled_from(valid)))
def test_json_and_wire_say_the_same(data):
    message = external_auth_pb2.CheckRequest.FromString(data)
    try:
        text = json_format.MessageToJson(message)
    except json_format.Error:
        return  # a time that JSON cannot spell
    assert request.read(request.from_json(text), NAMES) == request.read(data, NAMES)


@given(st.text(max_size=60))
def test_any_json_text_is_converted_or_a_value_error(text):
    try:
        data = request.from_json(text)
    except ValueError:
        return
    assert isinstance(request.read(data, NAMES), RequestFacts | Refusal)


texts = st.text(st.characters(), max_size=30)
set_headers = st.lists(
    st.tuples(
        st.one_of(st.from_regex(r"x-[a-z-]{1,8}", fullmatch=True), st.text(max_size=8)),
        st.one_of(st.from_regex(r"[!-~]{1,20}", fullmatch=True), st.text(max_size=8)),
    ),
    max_size=6,
).map(tuple)
removed_names = st.lists(
    st.one_of(st.from_regex(r"[xX][-_][a-zA-Z-]{1,8}", fullmatch=True), st.text(max_size=8)), max_size=6
).map(tuple)
decisions = st.builds(
    Decision,
    allowed=st.booleans(),
    reason=st.one_of(st.sampled_from(Reason), st.sampled_from(ALLOWS)),
    policy_id=texts,
    shadow=st.lists(st.builds(ShadowMatch, texts, st.sampled_from(["allow", "deny"])), max_size=3).map(tuple),
    headers=set_headers,
    remove_headers=removed_names,
    ttl=st.just(60),
)
outcomes = st.builds(
    Outcome,
    decision=decisions,
    decision_id=st.one_of(st.just("ab" * 16), texts),
    policy_revision=texts,
    now_ns=st.just(AT_NS),
    facts=st.one_of(
        st.none(), st.sampled_from([f for f in (request.read(v, NAMES) for v in valid) if isinstance(f, RequestFacts)])
    ),
    identity=st.one_of(st.none(), st.builds(Identity, texts, texts, st.sampled_from(Auth))),
    access=st.one_of(st.none(), st.builds(Access, st.builds(Resource, texts, texts), texts)),
    context=st.one_of(
        st.none(),
        st.builds(Context, st.none(), st.just(0), st.just(0), st.one_of(st.none(), st.sampled_from(Risk)), st.just(())),
    ),
    error_shape=st.one_of(st.sampled_from(sorted(response.ERROR_SHAPES)), texts),
)


@given(outcomes, st.booleans())
def test_a_response_parses_and_allows_only_what_the_decision_allows(outcome, report_errors):
    decision = outcome.decision
    try:
        data = response.write(outcome, report_errors=report_errors)
    except response.UnsendableError:
        assert decision.allowed
        return
    reply = read_reply(data)
    assert reply.allowed == (decision.allowed and decision.reason in ALLOWS)
    message = external_auth_pb2.CheckResponse.FromString(data)
    assert (message.status.code == 0) == reply.allowed
    assert 400 <= reply.http_status < 600 or reply.allowed
    assert "\n" not in "".join(reply.headers.values())


@given(outcomes)
def test_no_name_is_both_set_and_removed_and_nothing_else_is_lost(outcome):
    outcome = replace(outcome, decision=replace(outcome.decision, allowed=True, reason=Reason.ALLOWED))
    try:
        reply = read_reply(response.write(outcome))
    except response.UnsendableError:
        return
    names = set(reply.headers)
    assert not names & set(reply.removed)
    assert {name.lower() for name in outcome.decision.remove_headers} == set(reply.removed) | (
        names & {name.lower() for name in outcome.decision.remove_headers}
    )
    assert reply.headers == dict(outcome.decision.headers)


@given(outcomes)
def test_protobuf_would_write_the_same_message(outcome):
    try:
        data = response.write(outcome)
    except response.UnsendableError:
        return
    ours = external_auth_pb2.CheckResponse.FromString(data)
    length = len(data)
    assert len(ours.SerializeToString()) == length
    ours.DiscardUnknownFields()
    assert len(ours.SerializeToString()) == length


@pytest.mark.parametrize("data", valid)
def test_no_prefix_of_a_valid_message_is_more_than_it(data):
    for end in range(len(data)):
        read = request.read(data[:end], NAMES)
        assert isinstance(read, Refusal | RequestFacts)
