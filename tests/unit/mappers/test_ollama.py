"""Ollama: names that it reads as one are one."""

import json

import pytest
from mapping_support import ask, facts, meaning, table

from ext_authz.mappers.ollama import canonical_name
from ext_authz.model import Target

ROUTES = table("routes: [{name: o, host: h, protocol: ollama}]")


def call(method, path, content, **headers):
    return facts(method, path, body=json.dumps(content).encode(), headers=headers)


def model(action, name="m"):
    return [("model", name, "", action)]


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("llama3", "llama3"),
        ("LLaMA3", "llama3"),
        ("llama3:latest", "llama3"),
        ("llama3:LATEST", "llama3"),
        ("llama3:8B", "llama3:8b"),
        ("library/llama3", "llama3"),
        ("registry.ollama.ai/library/llama3:latest", "llama3"),
        ("Registry.Ollama.AI/Library/llama3", "llama3"),
        ("me/llama3", "me/llama3"),
        ("registry.ollama.ai/me/llama3", "me/llama3"),
        ("hf.co/org/model:Q4_K_M", "hf.co/org/model:q4_k_m"),
        ("hf.co/library/model", "hf.co/library/model"),
        ("localhost:5000/me/m", "localhost:5000/me/m"),
        ("", None),
        ("a/b/c/d", None),
        ("a:b:c", None),
        ("../m", None),
        ("https://hf.co/org/model", None),
        ("m@sha256:abc", None),
        ("m ", None),
        ("m\n", None),
        ("\u212aimi", None),
        ("/m", None),
        ("m/", None),
        ("m:", None),
        ("x" * 600, None),
    ],
)
def test_a_name_has_one_spelling(name, canonical):
    assert canonical_name(name) == canonical


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("POST", "/api/generate", "generate"),
        ("POST", "/api/chat", "generate"),
        ("POST", "/api/embed", "embed"),
        ("POST", "/api/embeddings", "embed"),
        ("POST", "/api/show", "read_metadata"),
        ("POST", "/api/pull", "register_model"),
        ("POST", "/api/push", "read_data"),
        ("POST", "/api/create", "register_model"),
        ("DELETE", "/api/delete", "delete_model"),
    ],
)
def test_native_calls_read_the_model_or_its_older_name_whatever_the_content_type(method, path, action):
    assert meaning(ROUTES, call(method, path, {"model": "M:latest"})) == model(action)
    assert meaning(ROUTES, call(method, path, {"name": "M"})) == model(action)
    assert meaning(ROUTES, call(method, path, {"name": "M", "model": ""})) == model(action)
    assert meaning(ROUTES, call(method, path, {"name": "M", "model": "m:latest"})) == model(action)
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert meaning(ROUTES, call(method, path, {"model": "m"}, **form)) == model(action)
    for bad in (
        {},
        {"model": "m", "name": "n"},
        {"Model": "m"},
        {"model": "m", "NAME": "n"},
        {"model": ["m"]},
        {"model": "a b"},
    ):
        assert meaning(ROUTES, call(method, path, bad)) == "ambiguous_body"
    assert meaning(ROUTES, facts(method, path)) == "ambiguous_body"


@pytest.mark.parametrize(
    ("path", "action"),
    [
        ("/v1/chat/completions", "generate"),
        ("/v1/completions", "generate"),
        ("/v1/responses", "generate"),
        ("/v1/messages", "generate"),
        ("/v1/embeddings", "embed"),
    ],
)
def test_compatible_calls_read_the_same_names(path, action):
    assert meaning(ROUTES, call("POST", path, {"model": "LIBRARY/M"})) == model(action)
    assert meaning(ROUTES, call("POST", path, {"name": "m"})) == "ambiguous_body"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", [("server", "o", "", "health")]),
        ("HEAD", "/", [("server", "o", "", "health")]),
        ("GET", "/api/version", [("server", "o", "", "read_metadata")]),
        ("GET", "/api/status", [("server", "o", "", "read_metadata")]),
        ("GET", "/api/tags", [("server", "o", "", "list_models")]),
        ("GET", "/api/ps", [("server", "o", "", "list_models")]),
        ("HEAD", "/api/blobs/sha256:x", [("blob", "sha256:x", "", "read_metadata")]),
        ("POST", "/api/blobs/sha256:x", [("blob", "sha256:x", "", "write_data")]),
        ("GET", "/v1/models", [("server", "o", "", "list_models")]),
        ("GET", "/v1/models/M:Latest", model("read_metadata")),
        ("GET", "/v1/models/a%20b", "no_route"),
        ("GET", "/api/generate", "no_route"),
    ],
)
def test_other_calls(method, path, expected):
    assert meaning(ROUTES, facts(method, path)) == expected


def test_a_copy_and_a_creation_read_their_source():
    assert meaning(ROUTES, call("POST", "/api/copy", {"source": "A", "destination": "B"})) == [
        ("model", "b", "", "register_model"),
        ("model", "a", "", "read_data"),
    ]
    assert meaning(ROUTES, call("POST", "/api/copy", {"source": "A"})) == "ambiguous_body"
    assert meaning(ROUTES, call("POST", "/api/create", {"model": "B", "from": "A:latest"})) == [
        ("model", "b", "", "register_model"),
        ("model", "a", "", "read_data"),
    ]
    assert meaning(ROUTES, call("POST", "/api/create", {"model": "B", "from": 7})) == "ambiguous_body"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, {"stream": True}),
        ({"stream": False}, {"stream": False}),
        ({"options": {"num_predict": 64}}, {"stream": True, "max_tokens": 64}),
        ({"options": {"num_predict": -1}}, {"stream": True}),
        ({"options": {"num_predict": 64, "Num_Predict": 9000}}, {"stream": True}),
        ({"options": 7}, {"stream": True}),
    ],
)
def test_limits(content, expected):
    target = ask(ROUTES, call("POST", "/api/generate", {"model": "m", **content}))
    assert isinstance(target, Target)
    assert dict(target.attributes) == expected
