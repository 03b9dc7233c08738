"""Models told by Envoy's metadata: nothing that a caller sends can tell one, and nothing told hides another."""

import pytest
import running_service
from wire_requests import check_request, grpc_request, read_reply

from ext_authz.server.service import Wait

POLICIES = """\
policies:
- id: small
  subjects: [{role: scorer}]
  resources: [{type: model, id: [small, fraud]}]
  actions: [generate, infer]
"""
RESOURCES = """\
routes:
- {name: llm, host: llm.internal, protocol: openai, named_by: {id: "metadata:my.filter/model"}}
- {name: v2, host: v2.internal, protocol: open-inference, named_by: {id: "extension:model"}}
- {name: torch, host: torch.internal, protocol: torchserve, named_by: {id: "metadata:my.filter/model"}}
- {name: plain, host: plain.internal, protocol: openai}
"""
JSON = {"content-type": "application/json"}
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    made = running_service.start(folder, policies=POLICIES, resources=RESOURCES)
    yield made
    made.close()


def answered(running, data):
    answer = running.service.check(data)
    return read_reply(answer.ready if isinstance(answer, Wait) else answer)


def ask(running, host="llm.internal", body=b"", headers=JSON, **rest):
    request = check_request(
        "POST", "/v1/chat/completions", host, headers, body=body, principal=running_service.SCORER, **rest
    )
    reply = answered(running, request)
    event = running.events()[-1]
    assert event["decision"] == ("allow" if reply.allowed else "deny")
    assert event["reason"] == reply.reason
    return reply


def told(model):
    return {"my.filter": {"model": model}}


def test_the_told_model_is_decided_on_and_on_record(running):
    assert ask(running, metadata=told("small")).allowed
    assert running.events()[-1]["resource"]["id"] == "small"
    assert ask(running, metadata=told("large")).reason == "no_policy"


def test_one_callers_model_is_never_the_nexts(running):
    for model, reason in [("small", "allowed"), ("large", "no_policy")] * 3 + [(None, "ambiguous_body")] * 2:
        assert ask(running, metadata=told(model) if model else {}).reason == reason


@pytest.mark.parametrize(
    "more",
    [
        {"headers": {**JSON, "my.filter/model": "small", "x-model": "small"}},
        {"context_extensions": {"model": "small"}},
        {"route_metadata": {"my.filter": {"model": "small"}}},
        {"metadata": {"other.filter": {"model": "small"}}},
        {"metadata": {"my.filter": {"other": "small"}}},
        {"metadata": {"my.filter": {"model": ["small"]}}},
        {"metadata": {"my.filter": {"model": {"model": "small"}}}},
        {"metadata": {"my.filter": {"model": 7}}},
        {"metadata": {"my.filter": {"model": None}}},
        {"host": "plain.internal", "metadata": {"my.filter": {"model": "small"}}},
    ],
)
def test_what_stands_elsewhere_tells_nothing(running, more):
    assert ask(running, **more).reason == "ambiguous_body"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "large"}',
        b'{"model": "small", "model": "large"}',
        b'{"model": "small", "Model": "large"}',
        b'{"model": "small", "fallbacks": ["large"]}',
        '{"model": "large"}'.encode("utf-16"),
        b'{"model": "small"} {"model": "large"}',
        b"{}",
    ],
)
def test_a_body_that_is_shown_is_read_as_strictly_as_ever(running, body):
    assert ask(running, body=body, metadata=told("small")).reason == "ambiguous_body"


@pytest.mark.parametrize(
    ("host", "path", "parameter"),
    [
        ("torch.internal", "/invocations", "model_name"),
        ("llm.internal", "/v1/audio/transcriptions", "model"),
    ],
)
def test_the_query_that_a_server_prefers_to_the_body_is_not_hidden_by_what_is_told(running, host, path, parameter):
    form = {"content-type": "multipart/form-data; boundary=b"}

    def asked(query):
        request = check_request(
            "POST", path + query, host, form, principal=running_service.SCORER, metadata=told("small")
        )
        reply = answered(running, request)
        assert running.events()[-1]["decision"] == ("allow" if reply.allowed else "deny")
        return reply

    assert asked("").allowed
    assert asked(f"?x=1&other={parameter}").allowed
    for query in (f"?{parameter}=large", f"?%6d{parameter[1:]}=large", f"?{parameter}=small&{parameter}=large",
                  f"?{parameter}[]=large", f"?a;{parameter}=large"):  # fmt: skip
        assert asked(query).reason == "ambiguous_body"


def test_a_partial_body_cannot_hide_behind_what_is_told(running):
    assert ask(running, body=b'{"model": "sm', partial="true", metadata=told("small")).reason == "ambiguous_body"
    assert ask(running, partial="true", metadata=told("small")).reason == "ambiguous_body"
    assert ask(running, size=9, metadata=told("small")).reason == "ambiguous_body"
    assert ask(running, headers={**JSON, "content-length": "0"}, metadata=told("small")).reason == "ambiguous_body"


def test_a_message_must_agree_with_the_extension(running):
    def call(message):
        return answered(
            running,
            grpc_request(
                INFER,
                message,
                host="v2.internal",
                principal=running_service.SCORER,
                context_extensions={"model": "fraud"},
            ),
        )

    assert call(b"\x0a\x05fraud").allowed
    assert call(b"\x0a\x06secret").reason == "ambiguous_body"
    assert call(b"\x0a\x05fraud\x0a\x06secret").reason == "ambiguous_body"
    assert call(b"\x8a\x80\x00\x06secret").reason == "ambiguous_body"


def test_a_stream_needs_a_grant_on_any_model_whatever_is_told(running):
    stream = check_request(
        "POST", "/inference.GRPCInferenceService/ModelStreamInfer", "v2.internal", {"content-type": "application/grpc"},
        principal=running_service.SCORER, context_extensions={"model": "fraud"},
    )  # fmt: skip
    assert answered(running, stream).reason == "no_policy"
