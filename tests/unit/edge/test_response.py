"""Writing CheckResponses: what Envoy, the caller and the upstream get for each reason."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from wire_requests import AT_NS, check_request, grpc_request, read_reply

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
    RequestFacts,
    Resource,
    Risk,
    ShadowMatch,
)

ALLOWS = {Reason.ALLOWED, Reason.PUBLIC_ROUTE}
DENIALS = [reason for reason in Reason if reason not in ALLOWS]
METADATA = {
    "decision_id",
    "decision",
    "reason",
    "policy_id",
    "policy_revision",
    "subject",
    "resource_type",
    "resource_id",
    "action",
    "risk",
    "shadow",
}


def facts_of(data: bytes) -> RequestFacts:
    facts = request.read(data, frozenset())
    assert isinstance(facts, RequestFacts)
    return facts


def allow(headers=(("x-authz-subject", "alice"),), remove=("authorization",), reason=Reason.ALLOWED) -> Outcome:
    decision = Decision(
        allowed=True, reason=reason, policy_id="p1", headers=tuple(headers), remove_headers=tuple(remove), ttl=60
    )
    return known(decision)


def deny(reason: Reason, *, error_shape: str = "", data: bytes | None = None) -> Outcome:
    outcome = known(Decision(allowed=False, reason=reason))
    facts = facts_of(data) if data is not None else None
    return replace(outcome, facts=facts, error_shape=error_shape)


def known(decision: Decision) -> Outcome:
    return Outcome(
        decision=decision,
        decision_id="0123456789abcdef",
        policy_revision="cafe",
        now_ns=AT_NS,
        identity=Identity("sub:alice", "alice", Auth.JWT),
        access=Access(Resource("model", "fraud"), "infer"),
        context=Context(None, AT_NS, AT_NS, Risk.MEDIUM, ()),
    )


GRPC = grpc_request("/inference.GRPCInferenceService/ModelInfer")


def test_an_allow_sets_and_removes():
    reply = read_reply(response.write(allow(remove=("authorization", "x-authz-roles"))))
    assert reply.allowed
    assert reply.headers == {"x-authz-subject": "alice"}
    assert reply.removed == ("authorization", "x-authz-roles")


def test_a_public_route_is_an_allow():
    assert read_reply(response.write(allow(reason=Reason.PUBLIC_ROUTE))).allowed


def test_a_name_that_is_set_is_never_removed_however_it_is_spelled():
    forged = ("X-Authz-Subject", "x-authz-subject", "X_Authz_Subject", "X-Other", "x-other")
    reply = read_reply(response.write(allow(remove=forged)))
    assert reply.removed == ("x_authz_subject", "x-other")
    assert reply.headers == {"x-authz-subject": "alice"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "v"),
        (":path", "/admin"),
        ("host", "evil"),
        ("Host", "evil"),
        ("X-Upper", "v"),
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("x-envoy-original-path", "/"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-client-cert", "URI=spiffe://a/b"),
        ("a b", "v"),
        ("a\r\nb", "v"),
        ("a\n", "v"),
        ("ä", "v"),
        ("a" * 257, "v"),
        ("x-a", ""),
        ("x-a", " "),
        ("x-a", " v"),
        ("x-a", "v "),
        ("x-a", "v\n"),
        ("x-a", "a\r\nx-admin: 1"),
        ("x-a", "a\x00b"),
        ("x-a", "a\tb"),
        ("x-a", "ä"),
        ("x-a", "\ud800"),
        ("x-a", "v" * 8193),
    ],
)
def test_an_allow_with_a_header_envoy_must_not_get_is_not_written(name, value):
    with pytest.raises(response.UnsendableError):
        response.write(allow([(name, value)]))


@pytest.mark.parametrize("name", ["", ":authority", "a b", "a\r\n", "a:b", "ä", "a" * 257])
def test_an_allow_with_a_name_that_cannot_be_removed_is_not_written(name):
    with pytest.raises(response.UnsendableError):
        response.write(allow(remove=[name]))


def test_bounds_on_numbers_and_sizes():
    response.write(allow([(f"x-{n}", "v") for n in range(64)], [f"y-{n}" for n in range(1024)]))
    for headers, remove in (
        ([(f"x-{n}", "v") for n in range(65)], []),
        ([("x-a", "1"), ("x-a", "2")], []),
        ([], [f"y-{n}" for n in range(1025)]),
        ([(f"x-{n}", "v" * 8000) for n in range(5)], []),
    ):
        with pytest.raises(response.UnsendableError):
            response.write(allow(headers, remove))


@pytest.mark.parametrize("reason", DENIALS)
def test_an_allow_with_a_reason_to_deny_is_not_written(reason):
    with pytest.raises(response.UnsendableError):
        response.write(allow(reason=reason))


@pytest.mark.parametrize("reason", sorted(ALLOWS))
def test_a_denial_with_an_allows_reason_stays_a_denial(reason):
    reply = read_reply(response.write(deny(reason)))
    assert not reply.allowed
    assert (reply.http_status, reply.reason) == (503, "internal_error")
    assert reply.metadata["decision"] == "deny"


@pytest.mark.parametrize("reason", DENIALS)
def test_every_denial_has_its_status_our_body_and_the_same_metadata(reason):
    reply = read_reply(response.write(deny(reason)))
    assert reply.kind == "denied_response"
    assert reply.http_status == reason.http_status
    assert reply.json == {
        "error": {
            "code": reason.http_status,
            "reason": reason.value,
            "message": response.MESSAGES[reason],
            "decision_id": "0123456789abcdef",
        }
    }
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-authz-decision-id"] == "0123456789abcdef"
    assert ("www-authenticate" in reply.headers) == (reason.http_status == 401)
    assert reply.metadata == {
        "decision_id": "0123456789abcdef",
        "decision": "deny",
        "reason": reason.value,
        "policy_id": "",
        "policy_revision": "cafe",
        "subject": "sub:alice",
        "resource_type": "model",
        "resource_id": "fraud",
        "action": "infer",
        "risk": "medium",
        "shadow": "",
    }


def test_metadata_has_the_same_names_on_an_allow_and_when_nothing_is_known():
    shadow = (ShadowMatch("p2", "deny"), ShadowMatch("p3", "allow"))
    allowed = allow()
    allowed = replace(allowed, decision=replace(allowed.decision, shadow=shadow))
    reply = read_reply(response.write(allowed))
    assert set(reply.metadata) == METADATA
    assert reply.metadata["shadow"] == "p2:deny,p3:allow"
    assert reply.metadata["policy_id"] == "p1"
    bare = Outcome(Decision(allowed=False, reason=Reason.MALFORMED_REQUEST), "d", "", 0)
    assert set(read_reply(response.write(bare)).metadata) == METADATA


def test_a_risk_the_state_is_too_old_to_say_is_unknown():
    outcome = allow()
    outcome = replace(outcome, context=Context(None, 0, 0, None, None))
    assert read_reply(response.write(outcome)).metadata["risk"] == "unknown"


def test_metadata_survives_long_and_unpaired_text():
    outcome = deny(Reason.NO_POLICY)
    outcome = replace(outcome, access=Access(Resource("model", "m" * 100_000), "\ud800infer"))
    metadata = read_reply(response.write(outcome)).metadata
    assert len(metadata["resource_id"]) == 1024
    assert metadata["resource_id"].endswith("m…")
    assert metadata["action"] == "?infer"


def test_no_token_tried_means_no_error_in_the_challenge():
    for reason in (Reason.NO_CREDENTIALS, Reason.INVALID_CERTIFICATE, Reason.INVALID_API_KEY):
        assert read_reply(response.write(deny(reason))).headers["www-authenticate"] == 'Bearer realm="ext-authz"'
    for reason in (Reason.INVALID_TOKEN, Reason.EXPIRED_TOKEN, Reason.TOKEN_NOT_BOUND, Reason.REVOKED):
        challenge = read_reply(response.write(deny(reason))).headers["www-authenticate"]
        assert challenge.startswith('Bearer realm="ext-authz", error="invalid_token", error_description="')


@pytest.mark.parametrize("reason", DENIALS)
@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto"])
def test_grpc_callers_get_plain_messages_and_the_right_code(reason, content_type):
    data = check_request("POST", "/a.B/C", headers={"content-type": content_type})
    reply = read_reply(response.write(deny(reason, data=data, error_shape="openai")))
    assert reply.http_status == reason.http_status
    assert reply.body == response.MESSAGES[reason]
    assert "content-type" not in reply.headers
    assert reply.headers.get("grpc-status") == ("3" if reason.http_status == 400 else None)


@pytest.mark.parametrize(
    "content_type", ["application/grpc-web", "application/grpcx", "text/plain", "application/json"]
)
def test_others_never_see_a_grpc_status(content_type):
    data = check_request("POST", "/a.B/C", headers={"content-type": content_type})
    reply = read_reply(response.write(deny(Reason.AMBIGUOUS_BODY, data=data)))
    assert "grpc-status" not in reply.headers
    assert reply.json["error"]["reason"] == "ambiguous_body"


def body(shape: str, reason: Reason) -> str:
    return read_reply(response.write(deny(reason, error_shape=shape))).body


@pytest.mark.parametrize("shape", ["open-inference", "kserve-v1", "tensorflow-serving", "ollama"])
def test_servers_with_a_flat_error(shape):
    assert json.loads(body(shape, Reason.NO_POLICY)) == {"error": "You may not do this."}


def test_openai_errors():
    assert json.loads(body("openai", Reason.NO_POLICY)) == {
        "error": {"message": "You may not do this.", "type": "permission_error", "param": None, "code": "no_policy"}
    }
    assert json.loads(body("openai", Reason.EXPIRED_TOKEN))["error"]["type"] == "authentication_error"


def test_anthropic_errors():
    assert json.loads(body("anthropic", Reason.NO_POLICY)) == {
        "type": "error",
        "error": {"type": "permission_error", "message": "You may not do this."},
        "request_id": "0123456789abcdef",
    }
    assert json.loads(body("anthropic", Reason.OVERLOADED))["error"]["type"] == "overloaded_error"


def test_mlflow_and_torchserve_errors():
    assert json.loads(body("mlflow", Reason.NO_CREDENTIALS))["error_code"] == "UNAUTHENTICATED"
    torchserve = json.loads(body("torchserve", Reason.AMBIGUOUS_PATH))
    assert torchserve["code"] == 400
    assert torchserve["type"] == "BadRequestException"


@pytest.mark.parametrize("reason", DENIALS)
def test_s3_errors_are_xml(reason):
    reply = read_reply(response.write(deny(reason, error_shape="s3")))
    assert reply.headers["content-type"] == "application/xml"
    error = ET.fromstring(reply.body)
    assert error.tag == "Error"
    assert error.findtext("Message") == response.MESSAGES[reason]
    assert error.findtext("RequestId") == "0123456789abcdef"


@pytest.mark.parametrize("shape", sorted(response.ERROR_SHAPES))
@pytest.mark.parametrize("reason", DENIALS)
def test_every_shape_has_a_body_for_every_reason(shape, reason):
    assert response.MESSAGES[reason] in body(shape, reason)


def test_an_unknown_shape_gets_ours():
    assert "reason" in json.loads(body("hal-9000", Reason.NO_POLICY))["error"]


@pytest.mark.parametrize("reason", DENIALS)
def test_report_errors_sends_outages_and_only_those_as_errors(reason):
    reply = read_reply(response.write(deny(reason), report_errors=True))
    assert reply.kind == ("error_response" if reason.http_status == 503 else "denied_response")
    assert not reply.allowed


def test_an_unprintable_decision_id_is_left_out_of_the_headers():
    outcome = replace(deny(Reason.NO_POLICY, error_shape="s3"), decision_id="<a>\r\nset-cookie: x")
    reply = read_reply(response.write(outcome))
    assert "x-authz-decision-id" not in reply.headers
    assert "cookie" not in reply.body


def test_the_last_resort_is_a_finished_denial():
    reply = read_reply(response.FAIL_CLOSED)
    assert (reply.kind, reply.http_status, reply.reason) == ("denied_response", 503, "internal_error")


def test_messages_say_nothing_that_tells_denials_by_policy_apart():
    assert response.MESSAGES[Reason.NO_POLICY] == response.MESSAGES[Reason.DENIED_BY_POLICY]
    assert set(response.MESSAGES) == set(Reason)


def test_protobuf_writes_the_same_bytes():
    for outcome in (allow(), deny(Reason.NO_POLICY), deny(Reason.AMBIGUOUS_BODY, data=GRPC)):
        message = external_auth_pb2.CheckResponse.FromString(response.write(outcome))
        again = external_auth_pb2.CheckResponse.FromString(message.SerializeToString())
        assert message == again
        assert not message.FindInitializationErrors()
        unknown = message.SerializeToString()
        message.DiscardUnknownFields()
        assert message.SerializeToString() == unknown
