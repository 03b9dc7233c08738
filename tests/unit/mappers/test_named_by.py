import pytest
from mapping_support import facts, frame, grpc, table

from ext_authz.documents import DocumentError
from ext_authz.mappers.routes import RouteMatch
from ext_authz.model import Refusal, Source, SourceKind

ROUTES = """\
routes:
  - {name: llm, host: llm, protocol: openai, named_by: {id: "metadata:my.filter/model", max_tokens: "metadata:my.filter/max_tokens"}}
  - {name: v2, host: v2, protocol: open-inference, named_by: {id: "extension:model", version: "extension:version"}}
  - {name: oll, host: oll, protocol: ollama, named_by: {id: "route_metadata:my.routes/model"}}
  - {name: claude, host: claude, protocol: anthropic, named_by: {id: "metadata:my.filter/model"}}
"""
TABLE = table(ROUTES)
MODEL = Source(SourceKind.METADATA, "my.filter", "model")
TOKENS = Source(SourceKind.METADATA, "my.filter", "max_tokens")
ROUTE = Source(SourceKind.ROUTE_METADATA, "my.routes", "model")
JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"
INFER = "/inference.GRPCInferenceService/ModelInfer"


def meant(request, told=None):
    from dataclasses import replace

    request = replace(request, told=told or {})
    match = TABLE.match(request)
    assert isinstance(match, RouteMatch)
    return TABLE.target(match, request)


def named(target):
    assert not isinstance(target, Refusal), target
    return [(each.resource.id, each.resource.version, each.action) for each in target.accesses]


def refused(target):
    return isinstance(target, Refusal) and target.reason == "ambiguous_body"


def chat(body=b"", host="llm", **more):
    return facts("POST", CHAT, host, body=body, headers=JSON, **more)


def test_the_table_says_what_is_to_be_read():
    assert {MODEL, TOKENS, ROUTE} < TABLE.sources


def test_what_a_filter_tells_stands_for_a_body_that_was_not_shown():
    target = meant(chat(), {MODEL: "llama", TOKENS: 256})
    assert named(target) == [("llama", "", "generate")]
    assert target.attributes["max_tokens"] == 256


def test_without_it_a_body_that_was_not_shown_is_ambiguous_as_ever():
    assert refused(meant(chat()))
    assert refused(meant(chat(), {MODEL: ""}))
    assert refused(meant(chat(), {TOKENS: 3}))


@pytest.mark.parametrize("value", [None, 7, True, " llama", "a\nb", "x" * 5000])
def test_a_value_that_is_no_name_is_ambiguous(value):
    assert refused(meant(chat(), {MODEL: value}))


def test_a_body_that_is_shown_must_agree():
    body = b'{"model": "llama", "max_tokens": 9}'
    assert named(meant(chat(body), {MODEL: "llama"})) == [("llama", "", "generate")]
    assert refused(meant(chat(body), {MODEL: "other"}))
    assert refused(meant(chat(body), {MODEL: "llama", TOKENS: 10}))
    assert refused(meant(chat(b'{"model": "llama", "fallbacks": ["other"]}'), {MODEL: "llama"}))
    assert refused(meant(chat(b'{"model": "llama", "model": "llama"}'), {MODEL: "llama"}))
    assert named(meant(chat(body))) == [("llama", "", "generate")]


def test_a_path_must_agree():
    def ask(told):
        return meant(facts("POST", "/v2/models/fraud/infer", "v2", extensions=told))

    assert named(ask({"model": "fraud"})) == [("fraud", "", "infer")]
    assert refused(ask({"model": "churn"}))
    versioned = facts("POST", "/v2/models/fraud/versions/2/infer", "v2", extensions={"model": "fraud", "version": "3"})
    assert refused(meant(versioned))


def test_a_truncated_or_empty_body_is_no_body_that_was_not_shown():
    told = {MODEL: "llama"}
    assert refused(meant(chat(b'{"model":', partial="true"), told))
    assert refused(meant(chat(b"", partial="true"), told))
    assert refused(meant(chat(b"", size=100), told))
    empty = facts("POST", CHAT, "llm", headers={**JSON, "content-length": "0"})
    assert refused(meant(empty, told)), "the server would take its default model"


def test_context_extensions_name_the_model_and_version_of_a_message_that_was_not_shown():
    bare = facts(
        "POST", INFER, "v2", headers={"content-type": "application/grpc"}, extensions={"model": "fraud", "version": "2"}
    )
    assert named(meant(bare)) == [("fraud", "2", "infer")]
    shown = grpc(INFER, b"\x0a\x05fraud", "v2", extensions={"model": "fraud"})
    assert named(meant(shown)) == [("fraud", "", "infer")]
    assert refused(meant(grpc(INFER, b"\x0a\x06secret", "v2", extensions={"model": "fraud"})))
    twice = frame(b"\x0a\x05fraud\x0a\x06secret")
    request = facts(
        "POST", INFER, "v2", body=twice, headers={"content-type": "application/grpc"}, extensions={"model": "fraud"}
    )
    assert refused(meant(request))


def test_a_stream_may_still_name_any_model():
    stream = facts(
        "POST",
        "/inference.GRPCInferenceService/ModelStreamInfer",
        "v2",
        headers={"content-type": "application/grpc"},
        extensions={"model": "fraud"},
    )
    assert named(meant(stream)) == [("*", "", "infer")]


def test_a_gateways_header_must_agree_with_what_is_told():
    headers = {"content-type": "application/grpc", "seldon-model": "secret"}
    assert refused(meant(facts("POST", INFER, "v2", headers=headers, extensions={"model": "fraud"})))
    assert refused(meant(facts("POST", CHAT, "llm", headers={**JSON, "x-ai-eg-model": "secret"}), {MODEL: "llama"}))


def test_one_name_is_not_enough_where_a_body_names_several_things():
    told = {MODEL: "llama"}
    assert refused(meant(facts("POST", "/v1/messages/batches", "claude", headers=JSON), told))
    assert refused(meant(facts("POST", "/v1/fine_tuning/jobs", "llm", headers=JSON), told))
    assert refused(meant(facts("POST", "/api/copy", "oll", headers=JSON), {ROUTE: "llama"}))
    load = facts("POST", "/v2/repository/models/fraud/load", "v2", extensions={"model": "fraud"})
    assert [action for _, _, action in named(meant(load))] == ["deploy_model", "register_model"]


def test_names_are_spelled_as_the_protocol_spells_them():
    assert named(meant(facts("POST", "/api/chat", "oll", headers=JSON), {ROUTE: "LLaMA3:latest"})) == [
        ("llama3", "", "generate")
    ]
    shown = facts("POST", "/api/chat", "oll", body=b'{"model": "llama3"}', headers=JSON)
    assert named(meant(shown, {ROUTE: "registry.ollama.ai/library/llama3"})) == [("llama3", "", "generate")]
    assert refused(meant(facts("POST", "/api/chat", "oll", headers=JSON), {ROUTE: "no name!"}))


def test_calls_on_the_server_do_not_care():
    assert named(meant(facts("GET", "/v1/models", "llm"), {MODEL: "llama"})) == [("llm", "", "list_models")]


def mistakes(text):
    with pytest.raises(DocumentError) as caught:
        table(f"routes: [{text}]")
    return [each.message for each in caught.value.diagnostics]


@pytest.mark.parametrize(
    "source",
    [
        "metadata",
        "metadata:x",
        "metadata:/x",
        "metadata:a/",
        "header:x",
        "extension:",
        "extension:a/b c",
        "extension:ext_authz_route",
        "route_metadata:a b/c",
    ],
)
def test_a_source_that_names_nothing_is_a_mistake(source):
    (message,) = mistakes(f'{{host: h, protocol: openai, named_by: {{id: "{source}"}}}}')
    assert message.startswith("`id` needs a source: `metadata:NAMESPACE/KEY`")


def test_it_stands_beside_a_protocol_and_says_an_id():
    assert (
        "goes with `protocol`"
        in mistakes(
            "{host: h, path: /a, resource: {type: model, id: a}, action: infer, named_by: {id: 'extension:a'}}"
        )[0]
    )
    assert "`id` is missing" in mistakes("{host: h, protocol: openai, named_by: {version: 'extension:a'}}")[0]
    assert "is a mapping" in mistakes("{host: h, protocol: openai, named_by: extension}")[0]
    assert (
        "not an attribute name"
        in mistakes("{host: h, protocol: openai, named_by: {id: 'extension:a', 'b c': 'extension:a'}}")[0]
    )
