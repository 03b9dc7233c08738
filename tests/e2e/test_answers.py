"""What the client sees and what the upstream received, through a real Envoy, on both transports."""

import time

import grpc
import httpx
import pytest
from envoy_process import CALLER, LAKE, MAX_BYTES, MODEL_INFER, MODEL_STREAM, MODELS, infer, raw_input

from ext_authz.demo.calls import cli
from ext_authz.demo.files import ISSUER

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]
HTTP = pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
SCORE = "/v2/models/fraud/infer"


@HTTP
def test_an_allowed_call_reaches_the_upstream_with_who_it_is(edge, http2):
    answer = edge.request("POST", MODELS, SCORE, http2=http2, content=b"{}")
    assert answer.status_code == 200
    assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert answer.json()["upstream"] == "http"
    seen = edge.http.only()
    assert (seen.method, seen.path, seen.body) == ("POST", SCORE, b"{}")
    assert seen.all("x-authz-subject") == [CALLER]
    assert seen.all("x-authz-auth") == ["mtls"]
    assert seen.all("x-authz-policy") == ["caller_infers"]
    assert seen.all("x-team") == ["payments"]
    assert len(seen.all("x-authz-decision-id")) == 1
    assert 0 < int(seen.all("x-authz-ttl")[0]) <= 3600
    assert seen.all("x-authz-roles") == []
    assert not [name for name in answer.headers if name.startswith("x-authz-")]


@HTTP
def test_a_denied_call_says_why_and_reaches_nobody(edge, http2):
    answer = edge.request("GET", LAKE, "/datasets/customer-pii/rows", edge.files.token(), http2=http2)
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert error["reason"] == "no_policy"
    assert error["decision_id"] == answer.headers["x-authz-decision-id"]
    assert "customer-pii" not in error["message"]
    assert edge.http.seen == []


@HTTP
def test_without_a_credential_the_answer_is_401_and_how_to_prove_oneself(edge, http2):
    answer = edge.request("GET", LAKE, "/datasets/clicks/rows", http2=http2, certificate=False)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"]
    assert answer.json()["error"]["reason"] == "no_credentials"
    assert edge.http.seen == []


@HTTP
def test_a_token_in_the_query_is_believed_and_then_taken_off(edge, http2):
    token = edge.files.issuer.token("alice", ["data_scientist"], name=f"{ISSUER}/query")
    query = f"b=%2f&access_token={token}&a=2&c&b=1"
    answer = edge.request("GET", LAKE, f"/datasets/clicks/rows?{query}", http2=http2)
    assert answer.status_code == 200
    seen = edge.http.only()
    assert seen.all("x-authz-subject") == ["q-alice"]
    assert sorted(seen.path.partition("?")[2].split("&")) == ["a=2", "b=%2f", "b=1", "c="]
    edge.http.seen.clear()
    other = query.replace("access_token", "access%5Ftoken")
    assert edge.request("GET", LAKE, f"/datasets/clicks/rows?{other}", http2=http2).status_code == 401
    assert edge.request("GET", LAKE, f"/healthz?{other}", http2=http2).status_code == 200
    assert token not in edge.http.only().path


@HTTP
def test_a_token_is_believed_and_then_taken_off(edge, http2):
    answer = edge.request("GET", LAKE, "/datasets/clicks/rows?limit=2", edge.files.token(), http2=http2)
    assert answer.status_code == 200
    seen = edge.http.only()
    assert seen.path == "/datasets/clicks/rows?limit=2"
    assert seen.all("x-authz-subject") == ["alice"]
    assert seen.all("x-authz-roles") == ["data_scientist"]
    assert "authorization" not in seen.names()
    assert "x-team" not in seen.names()


def test_an_api_key_is_believed_and_then_taken_off(edge):
    key = cli(["apikey", "new", "--subject", "batch", "-c", str(edge.files.config)]).strip()
    deadline = time.monotonic() + 10
    while True:  # the file is read again when it changed
        edge.clear()
        answer = edge.request("GET", LAKE, "/datasets/clicks/rows", {"x-api-key": key})
        if answer.status_code != 401 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert answer.status_code == 200
    seen = edge.http.only()
    assert seen.all("x-authz-subject") == ["batch"]
    assert seen.all("x-authz-auth") == ["api_key"]
    assert "x-api-key" not in seen.names()


@pytest.mark.parametrize("certificate", [True, False], ids=["with a certificate", "without"])
def test_a_bad_token_is_401_whatever_stands_beside_it(edge, certificate):
    answer = edge.request("POST", MODELS, SCORE, {"authorization": "Bearer x.y.z"}, certificate=certificate)
    assert answer.status_code == 401
    assert edge.http.seen == []


def test_a_gRPC_call_is_judged_by_the_model_in_its_body(edge):
    allowed = edge.call(MODEL_INFER, infer("fraud"))
    assert allowed.code() is grpc.StatusCode.OK
    seen = edge.grpc.only()
    assert seen.all("x-authz-subject") == [CALLER]
    assert seen.all("x-authz-policy") == ["caller_infers"]
    assert seen.body == infer("fraud")
    denied = edge.call(MODEL_INFER, infer("churn"))
    assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "churn" not in denied.details()
    assert dict(denied.initial_metadata()).get("x-authz-decision-id") or dict(denied.trailing_metadata()).get(
        "x-authz-decision-id"
    )
    assert len(edge.grpc.seen) == 1


def test_a_gRPC_caller_without_a_credential_is_unauthenticated(edge):
    call = edge.call(MODEL_INFER, infer("fraud"), certificate=False)
    assert call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert edge.grpc.seen == []


@pytest.mark.parametrize(
    "body",
    [infer("fraud", infer("churn")), b"", b"\x0a\x7ffraud", infer("fraud") + b"\x0b", b"\x8a\x80\x80\x80\x00\x05churn"],
    ids=["two names", "no name", "cut short", "a group", "an over-long tag"],
)
def test_a_gRPC_body_that_parsers_could_read_differently_is_refused(edge, body):
    call = edge.call(MODEL_INFER, body)
    assert call.code() is not grpc.StatusCode.OK
    assert edge.grpc.seen == []


def test_a_stream_that_may_name_any_model_needs_a_grant_on_all(edge):
    with edge.channel() as channel:
        stream = channel.stream_stream(MODEL_STREAM)(iter([infer("fraud")]), timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert edge.grpc.seen == []


def test_bodies_that_no_check_reads_may_be_of_any_size(edge):
    answer = edge.request("POST", MODELS, SCORE, content=b" " * (4 * MAX_BYTES))
    assert answer.status_code == 200
    assert len(edge.http.only().body) == 4 * MAX_BYTES


def test_bodies_that_the_check_must_read_are_bounded(edge):
    assert edge.call(MODEL_INFER, infer("fraud", raw_input(MAX_BYTES // 2))).code() is grpc.StatusCode.OK
    assert edge.call(MODEL_INFER, infer("fraud", raw_input(2 * MAX_BYTES))).code() is not grpc.StatusCode.OK
    assert len(edge.grpc.seen) == 1


def test_a_model_named_behind_a_long_tensor_is_found(edge):
    call = edge.call(MODEL_INFER, raw_input(MAX_BYTES // 2) + infer("churn"))
    assert call.code() is not grpc.StatusCode.OK
    assert edge.grpc.seen == []


SPOOFED = [
    ("x-authz-subject", "root"),
    ("X-Authz-Subject", "admin"),
    ("x-authz-roles", "admin"),
    ("x-authz-policy", "mine"),
    ("x-authz-anything", "1"),
    ("x-authz-decision-id", "1"),
    ("x-authz-ttl", "999999"),
    ("x-other-team", "root"),
]


def ours_alone(seen, subject):
    assert seen.all("x-authz-subject") == [subject]
    assert seen.all("x-authz-policy") != ["mine"]
    assert "x-authz-anything" not in seen.names()
    assert len(seen.all("x-authz-decision-id")) == 1
    assert seen.all("x-authz-decision-id") != ["1"]
    assert seen.all("x-authz-ttl") != ["999999"]
    assert "x-other-team" not in seen.names()
    assert "admin" not in seen.all("x-authz-roles")


@HTTP
def test_what_only_we_may_say_a_caller_cannot(any_edge, http2):
    answer = any_edge.request("POST", MODELS, SCORE, SPOOFED, http2=http2, content=b"{}")
    assert answer.status_code == 200
    ours_alone(any_edge.http.only(), CALLER)


@HTTP
def test_underscores_are_no_way_round(any_edge, http2):
    headers = [("x_authz_subject", "root"), ("X-Authz_Roles", "admin")]
    try:
        status = any_edge.request("POST", MODELS, SCORE, headers, http2=http2, content=b"{}").status_code
    except httpx.RemoteProtocolError:
        status = 0  # Envoy resets the stream
    if status == 200:
        seen = any_edge.http.only()
        assert not [name for name in seen.names() if "_" in name]
        ours_alone(seen, CALLER)
    else:
        assert any_edge.http.seen == []


def test_a_gRPC_caller_cannot_either(any_edge):
    metadata = [(name.lower(), value) for name, value in SPOOFED]
    call = any_edge.call(MODEL_INFER, infer("fraud"), metadata)
    assert call.code() is grpc.StatusCode.OK
    ours_alone(any_edge.grpc.only(), CALLER)


def test_a_public_route_carries_no_identity_and_no_credential(any_edge):
    headers = [*SPOOFED, ("authorization", "Bearer x.y.z"), ("x-api-key", "k")]
    answer = any_edge.request("GET", LAKE, "/healthz", headers)
    assert answer.status_code == 200
    seen = any_edge.http.only()
    assert {name for name in seen.names() if name.startswith("x-authz-")} <= {"x-authz-decision-id"}
    assert seen.names().isdisjoint({"authorization", "x-api-key", "x-other-team"})
    assert seen.all("x-authz-decision-id") != ["1"]


def test_too_many_forged_names_are_refused(any_edge):
    headers = [(f"x-authz-forged-{number}", "1") for number in range(70)]
    answer = any_edge.request("POST", MODELS, SCORE, headers, content=b"{}")
    if answer.status_code == 200:
        assert not [name for name in any_edge.http.only().names() if "forged" in name]
    else:
        assert answer.status_code == 400
        assert any_edge.http.seen == []


def test_a_certificate_header_of_the_caller_is_not_believed(any_edge):
    forged = 'By=spiffe://ml.example/ns/mesh/sa/envoy;Hash=00;URI="spiffe://ml.example/ns/admin/sa/root"'
    answer = any_edge.request("POST", MODELS, SCORE, {"x-forwarded-client-cert": forged}, content=b"{}")
    assert answer.status_code == 200
    seen = any_edge.http.only()
    assert seen.all("x-authz-subject") == [CALLER]
    assert "admin" not in " ".join(seen.all("x-forwarded-client-cert"))


PATHS = [
    "/datasets/clicks/../customer-pii/rows",
    "/datasets/clicks/%2e%2e/customer-pii/rows",
    "/datasets/clicks/..%2fcustomer-pii/rows",
    "/datasets/clicks/..%5ccustomer-pii/rows",
    "/datasets/clicks/..\\customer-pii/rows",
    "/datasets/clicks/..;/customer-pii/rows",
    "/datasets/clicks;/../customer-pii/rows",
    "/datasets/clicks/%252e%252e/customer-pii/rows",
    "//datasets/customer-pii/rows",
    "/./datasets/customer-pii/rows",
    "/datasets/customer-pii%00/rows",
    "/datasets/customer-pii;x=1/rows",
    "/datasets/customer%2dpii/rows",
    "/datasets/clicks/%c0%ae%c0%ae/customer-pii/rows",
    "/datasets/clicks/rows#/../customer-pii",
    "/datasets/%63ustomer-pii/rows",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_way_of_writing_a_path_reads_what_it_may_not(any_edge, path):
    answer = any_edge.request("GET", LAKE, path, any_edge.files.token())
    assert answer.status_code in (400, 403), answer.text
    assert any_edge.http.seen == []


@pytest.mark.parametrize("host", ["LAKE.internal", "lake.internal:443", "lake.internal."])
def test_a_host_written_otherwise_is_the_same_host(edge, host):
    answer = edge.request("GET", host, "/datasets/clicks/rows", edge.files.token())
    assert answer.status_code == 200
    assert edge.request("GET", host, "/datasets/customer-pii/rows", edge.files.token()).status_code == 403


@pytest.mark.parametrize("host", ["elsewhere.internal", "lake.internal.evil.example", "evil@lake.internal"])
def test_a_host_that_nobody_routes_is_refused(edge, host):
    answer = edge.request("GET", host, "/datasets/clicks/rows", edge.files.token())
    assert answer.status_code in (400, 403)
    assert edge.http.seen == []


def test_an_upgrade_is_not_let_through(edge):
    headers = {**edge.files.token(), "connection": "upgrade", "upgrade": "websocket"}
    answer = edge.request("GET", LAKE, "/datasets/clicks/rows", headers)
    assert answer.status_code in (400, 403)
    assert edge.http.seen == []


def test_the_decision_is_in_envoys_log_and_in_the_audit_trail(edge):
    answer = edge.request("GET", LAKE, "/datasets/customer-pii/rows", edge.files.token())
    wanted = answer.headers["x-authz-decision-id"]
    deadline = time.monotonic() + 10
    entry = None
    while entry is None:
        assert time.monotonic() < deadline
        logged = edge.envoy.entries(1, 5)
        entry = next((each for each in logged if each["request_id"] == answer.headers["x-request-id"]), None)
    assert entry["authz"]["decision_id"] == wanted
    assert entry["authz"]["reason"] == "no_policy"
    assert entry["authz"]["subject"] == "sub:alice"
    deadline = time.monotonic() + 10
    while not (found := [each for each in edge.files.events() if each.get("decision_id") == wanted]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (event,) = found
    assert event["reason"] == "no_policy"
    assert event["context"]["request_id"] == answer.headers["x-request-id"]
