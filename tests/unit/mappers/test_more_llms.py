"""llama.cpp, Text Generation Inference, Gemini, Bedrock."""

import json

import pytest
from mapping_support import ask, facts, meaning, table

ROUTES = table(
    "routes: [{name: own, host: l, protocol: llama-cpp}, {name: own, host: t, protocol: tgi}, {name: g, host: g, protocol: gemini}, "
    "{name: b, host: b, protocol: bedrock, encoded_slash: true}, {name: o, host: o, protocol: openai}]".replace(
        "name: own, host: t", "name: tgi-own, host: t"
    )
)
JSON = {"content-type": "application/json"}


def posted(host, path, content, **more):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return facts("POST", path, host, body=body, headers=JSON, **more)


def model(name, action="generate"):
    return ("model", name, "", action)


def adapter(name, action="generate"):
    return ("adapter", name, "", action)


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("/completion", {"prompt": "x"}, [model("own")]),
        ("/v1/chat/completions", {"model": "m"}, [model("m")]),
        ("/infill", {"model": ""}, [model("own")]),
        ("/embeddings", {"model": "m"}, [model("m", "embed")]),
        ("/v1/reranking", {"model": "m"}, [model("m", "rerank")]),
        ("/apply-template", {}, [model("own", "tokenize")]),
        ("/completion", {"lora": [{"id": 0, "scale": 0.5}, {"id": 2}, {"id": 0}]}, [model("own"), adapter("own/0"), adapter("own/2")]),
        ("/completion", {"lora": [{"id": "0"}]}, "ambiguous_body"),
        ("/completion", {"lora": [{"id": True}]}, "ambiguous_body"),
        ("/completion", {"lora": {"id": 0}}, "ambiguous_body"),
        ("/completion", {"model": 7}, "ambiguous_body"),
        ("/completion", {"Model": "m"}, "ambiguous_body"),
        ("/completion", b'{"model":"a","model":"b"}', "ambiguous_body"),
        ("/completion", b"", "ambiguous_body"),
        ("/models/load", {"model": "m"}, [model("m", "deploy_model")]),
        ("/models/unload", {"model": "m"}, [model("m", "undeploy_model")]),
        ("/models/load", {}, "ambiguous_body"),
        ("/slots/0?action=save", {}, [("server", "own", "", "admin")]),
        ("/tools", {}, [("server", "own", "", "admin")]),
    ],
)  # fmt: skip
def test_llama_cpp(path, content, expected):
    assert meaning(ROUTES, posted("l", path, content)) == expected


def test_llama_cpps_own_limit_is_one_and_two_are_none():
    def limits(content):
        return ask(ROUTES, posted("l", "/completion", content)).attributes.get("max_tokens")

    assert limits({"n_predict": 9}) == 9
    assert limits({"max_tokens": 9}) == 9
    assert limits({"max_tokens": 9, "n_predict": 900}) is None
    assert limits({"n_predict": -1}) is None


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("/generate", {"inputs": "x"}, [model("tgi-own")]),
        ("/", {"inputs": "x", "parameters": {"adapter_id": "a"}}, [model("tgi-own"), adapter("tgi-own/a")]),
        ("/invocations", {"messages": [], "model": "a"}, [model("tgi-own"), adapter("tgi-own/a")]),
        ("/v1/chat/completions", {"model": "tgi"}, [model("tgi-own")]),
        ("/v1/chat/completions", {}, [model("tgi-own")]),
        ("/v1/completions", {"model": "a"}, [model("tgi-own"), adapter("tgi-own/a")]),
        ("/generate", {"parameters": {"Adapter_Id": "a"}}, "ambiguous_body"),
        ("/generate", {"parameters": {"adapter_id": 7}}, "ambiguous_body"),
        ("/vertex", {"instances": [{"inputs": "x", "parameters": {"adapter_id": "a"}}]}, "ambiguous_body"),
        ("/generate", b"", "ambiguous_body"),
        ("/tokenize", {}, [model("tgi-own", "tokenize")]),
    ],
)
def test_text_generation_inference(path, content, expected):
    assert meaning(ROUTES, posted("t", path, content)) == expected


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        ("g", "/v1beta/models/gemini-x:generateContent", [model("gemini-x")]),
        ("g", "/v1/models/gemini-x:streamGenerateContent?alt=sse", [model("gemini-x")]),
        ("g", "/v1beta/models/gemini-x:batchEmbedContents", [model("gemini-x", "embed")]),
        ("g", "/v1beta/models/gemini-x:countTokens", [model("gemini-x", "tokenize")]),
        ("g", "/v1beta/models/gemini-x:other", "no_route"),
        ("g", "/v1beta/models/a%2Fb:generateContent", "ambiguous_path"),
        ("b", "/model/anthropic.claude-v2:1/invoke", [model("anthropic.claude-v2:1")]),
        ("b", "/model/arn%3Aaws%3Abedrock%3Aeu%3A1%3Ax%2Fy/converse-stream", [model("arn:aws:bedrock:eu:1:x/y")]),
        ("b", "/model/m/count-tokens", [model("m", "tokenize")]),
        ("b", "/model/m/other", "no_route"),
    ],
)
def test_what_clouds_name_in_the_path(host, path, expected):
    assert meaning(ROUTES, facts("POST", path, host)) == expected


def test_kserves_prefix_of_openai_paths():
    assert meaning(ROUTES, posted("o", "/openai/v1/chat/completions", {"model": "m"})) == [model("m")]
    assert meaning(ROUTES, facts("POST", "/openai/deployments/m/chat/completions", "o")) == [model("m")]


@pytest.mark.parametrize("path", ["/audio/transcriptions", "/v1/audio/transcriptions"])
def test_a_form_for_llama_cpp_may_be_for_any_model_and_adapter(path):
    routes = table("routes: [{name: l, host: l, protocol: llama-cpp}]")
    wanted = [("model", "*", "", "generate"), ("adapter", "*", "", "generate")]
    assert meaning(routes, facts("POST", path, "l")) == wanted
