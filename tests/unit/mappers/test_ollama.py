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
        ("llama3:Cloud", "llama3:cloud"),
        ("llama3:8b-cloud", "llama3:8b-cloud"),
        ("llama3:local", None),
        ("me/llama3:LOCAL", None),
        ("llama3:latest-cloud", None),
        ("llama3:8b:local", None),
        ("llama3:8b:cloud", None),
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
        ("/v1/images/generations", "generate"),
        ("/v1/images/edits", "generate"),
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
        ("HEAD", "/api/version", [("server", "o", "", "read_metadata")]),
        ("HEAD", "/api/tags", [("server", "o", "", "list_models")]),
        ("POST", "/api/me", [("server", "o", "", "admin")]),
        ("POST", "/api/experimental/web_fetch", [("server", "o", "", "admin")]),
        ("DELETE", "/api/user/keys/k", [("server", "o", "", "admin")]),
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


def test_a_transcription_names_its_model_in_the_form_and_nowhere_else():
    kind = {"content-type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nM:latest\r\n--x--\r\n'
    path = "/v1/audio/transcriptions"
    assert meaning(ROUTES, facts("POST", path, body=body, headers=kind)) == model("generate")
    # Go's FormValue takes the query's before the form's.
    for bad in (
        facts("POST", f"{path}?model=secret", body=body, headers=kind),
        facts("POST", f"{path}?x=1", body=body, headers=kind),
        facts("POST", path, body=b"model=m", headers={"content-type": "application/x-www-form-urlencoded"}),
        facts("POST", path, headers=kind),
        call("POST", path, {"model": "m"}),
    ):
        assert meaning(ROUTES, bad) == "ambiguous_body"


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
