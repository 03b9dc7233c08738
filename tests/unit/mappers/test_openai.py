"""The OpenAI API and vLLM's extras."""

import json

import pytest
from mapping_support import ask, facts, meaning, table

from ext_authz.model import Target

ROUTES = table("routes: [{name: llm, host: h, protocol: openai, upgrade: [websocket]}]")
JSON = {"content-type": "application/json"}


def post(path, content, **headers):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return facts("POST", path, body=body, headers={**JSON, **headers})


def model(action, name="m"):
    return [("model", name, "", action)]


@pytest.mark.parametrize(
    ("path", "action"),
    [
        ("/v1/chat/completions", "generate"),
        ("/v1/completions", "generate"),
        ("/v1/responses", "generate"),
        ("/v1/responses/compact", "generate"),
        ("/v1/audio/speech", "generate"),
        ("/v1/images/generations", "generate"),
        ("/inference/v1/generate", "generate"),
        ("/v1/embeddings", "embed"),
        ("/v2/embed", "embed"),
        ("/pooling", "embed"),
        ("/v1/moderations", "classify"),
        ("/classify", "classify"),
        ("/generative_scoring", "classify"),
        ("/rerank", "rerank"),
        ("/v1/rerank", "rerank"),
        ("/v2/rerank", "rerank"),
        ("/score", "rerank"),
        ("/v1/score", "rerank"),
        ("/tokenize", "tokenize"),
        ("/detokenize", "tokenize"),
        ("/v1/responses/input_tokens", "tokenize"),
        ("/v1/chat/completions/render", "tokenize"),
    ],
)
def test_the_body_names_the_model(path, action):
    assert meaning(ROUTES, post(path, {"messages": ["x" * 500], "model": "org/m"})) == model(action, "org/m")
    assert meaning(ROUTES, facts("POST", path, headers=JSON)) == "ambiguous_body", "and without one nothing is known"
    assert meaning(ROUTES, facts("GET", path + "/x/y")) == "no_route"


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"model": ""},
        {"model": None},
        {"model": ["m"]},
        {"model": 7},
        {"model": " m"},
        {"model": "m\n"},
        {"model": "m\u0000"},
        {"model": "x" * 2000},
        {"model": "m", "Model": "secret"},
        {"model": "m", "MODEL": "m"},
        {"Model": "m"},
        {"model": "m", "\u017ftream": True},
        b'{"model": "m", "model": "secret"}',
        rb'{"model": "m", "mod\u0065l": "secret"}',
        rb'{"model": "m\ud800"}',
        b'[{"model": "m"}]',
        '{"model": "m"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model": "m"}',
        {"model": "m", "fallbacks": "secret"},
        {"model": "m", "fallbacks": [{"model": "secret"}]},
        {"model": "m", "models": ["x"] * 33},
    ],
)
def test_a_body_that_may_name_another_model_is_refused(content):
    assert meaning(ROUTES, post("/v1/chat/completions", content)) == "ambiguous_body"


def test_a_body_under_another_content_type_or_coding_is_refused():
    body = b'{"model": "m"}'
    for headers in ({}, {"content-type": "text/plain"}, {**JSON, "content-encoding": "gzip"}):
        assert meaning(ROUTES, facts("POST", "/v1/chat/completions", body=body, headers=headers)) == "ambiguous_body"


def test_fallback_models_are_asked_for_too():
    content = {"model": "m", "fallbacks": ["a", "m"], "models": ["b"]}
    assert meaning(ROUTES, post("/v1/chat/completions", content)) == model("generate") + model("generate", "a") + model(
        "generate", "b"
    )


@pytest.mark.parametrize("header", ["x-ai-eg-model", "x-gateway-model-name"])
def test_a_header_that_gateways_route_by_must_agree(header):
    assert header in ROUTES.header_names
    assert meaning(ROUTES, post("/v1/chat/completions", {"model": "m"}, **{header: "m"})) == model("generate")
    assert meaning(ROUTES, post("/v1/chat/completions", {"model": "m"}, **{header: "secret"})) == "ambiguous_body"
    assert meaning(ROUTES, facts("POST", "/engines/m/completions", headers={header: "secret"})) == "ambiguous_body"
    assert meaning(ROUTES, facts("GET", "/v1/realtime?model=m", headers={header: "secret"})) == "ambiguous_body"


@pytest.mark.parametrize(
    "path",
    ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations", "/v1/videos"],
)
def test_a_form_names_its_model_and_one_that_we_are_not_shown_may_name_any(path):
    kind = {"content-type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--x--\r\n'
    assert meaning(ROUTES, facts("POST", path, body=body, headers=kind)) == model("generate", "whisper")
    assert meaning(ROUTES, facts("POST", path, headers=kind)) == model("generate", "*")
    assert meaning(ROUTES, facts("POST", path, body=body, headers=kind, partial="true")) == "ambiguous_body"
    assert meaning(ROUTES, facts("POST", path, body=b"--x", headers=kind)) == "ambiguous_body"
    assert meaning(ROUTES, post(path, {"model": "m"})) == model("generate")
    for query in ("model=secret", "model=whisper", "Model=secret", "mod%65l=secret", "model[]=secret", "a=1&model="):
        assert meaning(ROUTES, facts("POST", f"{path}?{query}", body=body, headers=kind)) == "ambiguous_body"
    assert meaning(ROUTES, facts("POST", f"{path}?a=1", body=body, headers=kind)) == model("generate", "whisper")
    header = {**kind, "x-ai-eg-model": "secret"}
    assert meaning(ROUTES, facts("POST", path, body=body, headers=header)) == "ambiguous_body"


def test_invocations_may_be_any_kind_of_call():
    assert meaning(ROUTES, post("/invocations", {"model": "m", "input": "x"})) == [
        *model("generate"),
        *model("embed"),
        *model("classify"),
        *model("rerank"),
    ]


@pytest.mark.parametrize("prefix", ["/openai/deployments", "/engines"])
def test_a_deployment_in_the_path_decides_and_a_visible_body_may_not_differ(prefix):
    path = f"{prefix}/m/chat/completions"
    assert meaning(ROUTES, facts("POST", path + "?api-version=1")) == model("generate")
    assert meaning(ROUTES, post(path, {"model": "m"})) == model("generate")
    assert meaning(ROUTES, post(path, {"messages": []})) == model("generate")
    assert meaning(ROUTES, post(path, {"model": "secret"})) == "ambiguous_body"
    assert meaning(ROUTES, post(path, {"model": "m", "fallbacks": ["x"]})) == model("generate") + model("generate", "x")
    assert meaning(ROUTES, post(f"{prefix}/m/embeddings", {"input": "x"})) == model("embed")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/models", [("server", "llm", "", "list_models")]),
        ("GET", "/v1/models/m", model("read_metadata")),
        ("DELETE", "/v1/models/m", model("delete_model")),
        ("GET", "/v1/models/org%2Fm", "ambiguous_path"),
        ("GET", "/v1/models/org/m", "no_route"),
        ("GET", "/v1/responses", [("response", "*", "", "list_data")]),
        ("GET", "/v1/responses/r1", [("response", "r1", "", "read_data")]),
        ("DELETE", "/v1/responses/r1", [("response", "r1", "", "delete_data")]),
        ("POST", "/v1/responses/r1/cancel", [("response", "r1", "", "cancel_job")]),
        ("POST", "/v1/responses/r1", "no_route"),
        ("POST", "/v1/chat/completions/c1", [("response", "c1", "", "write_data")]),
        ("GET", "/v1/conversations/c1/items/i", [("conversation", "c1", "", "read_data")]),
        ("POST", "/v1/files", [("file", "*", "", "write_data")]),
        ("GET", "/v1/files/f1/content", [("file", "f1", "", "read_data")]),
        ("DELETE", "/v1/files/f1", [("file", "f1", "", "delete_data")]),
        ("POST", "/v1/uploads/u1/parts", [("file", "*", "", "write_data")]),
        ("POST", "/v1/vector_stores/v1/search", [("vector_store", "v1", "", "read_data")]),
        ("DELETE", "/v1/vector_stores/v1/files/f", [("vector_store", "v1", "", "delete_data")]),
        ("GET", "/v1/fine_tuning/jobs/j", [("job", "j", "", "read_job")]),
        ("POST", "/v1/fine_tuning/jobs/j/cancel", [("job", "j", "", "cancel_job")]),
        ("POST", "/v1/fine_tuning/jobs/j/resume", [("job", "j", "", "submit_training_job")]),
        ("GET", "/v1/batches/b", [("job", "b", "", "read_job")]),
        ("POST", "/openai/deployments/m/audio/transcriptions?api-version=1", model("generate")),
        ("POST", "/openai/deployments/m/images/generations", model("generate")),
        ("GET", "/v1/assistants", [("assistant", "*", "", "list_data")]),
        ("POST", "/v1/assistants/a", [("assistant", "a", "", "write_data")]),
        ("GET", "/v1/threads", "no_route"),
        ("POST", "/v1/threads", [("thread", "*", "", "write_data")]),
        ("GET", "/v1/threads/t", [("thread", "t", "", "read_data")]),
        ("GET", "/v1/threads/t/messages", [("thread", "t", "", "list_data")]),
        ("DELETE", "/v1/threads/t/messages/m", [("thread", "t", "", "delete_data")]),
        ("POST", "/v1/threads/t/runs", [*model("generate", "*"), ("thread", "t", "", "write_data")]),
        ("POST", "/v1/threads/runs", [*model("generate", "*"), ("thread", "*", "", "write_data")]),
        (
            "POST",
            "/v1/threads/t/runs/r/submit_tool_outputs",
            [*model("generate", "*"), ("thread", "t", "", "write_data")],
        ),
        ("POST", "/v1/threads/t/runs/r/cancel", [("thread", "t", "", "cancel_job")]),
        ("GET", "/v1/threads/t/runs/r/steps/s", [("thread", "t", "", "read_data")]),
        ("GET", "/v1/videos/v/content", [("video", "v", "", "read_data")]),
        ("POST", "/v1/videos/v/remix", [*model("generate", "*"), ("video", "v", "", "read_data")]),
        ("DELETE", "/v1/containers/c/files/f", [("container", "c", "", "delete_data")]),
        ("POST", "/is_scaling_elastic_ep", [("server", "llm", "", "read_metadata")]),
        ("POST", "/finish_weight_update", [("server", "llm", "", "admin")]),
        ("GET", "/v1/organization/projects", "no_route"),
        ("POST", "/v1/realtime/client_secrets", "no_route"),
        ("GET", "/v1/realtime?model=m", model("generate")),
        ("GET", "/v1/realtime?model=m&x=1", model("generate")),
        ("GET", "/v1/realtime", "ambiguous_body"),
        ("GET", "/v1/realtime?model=m&model=secret", "ambiguous_body"),
        ("GET", "/v1/realtime?model=m&Model=secret", "ambiguous_body"),
        ("GET", "/v1/realtime?model=m&model%5B%5D=secret", "ambiguous_body"),
        ("GET", "/v1/realtime?model=m;model=secret", "ambiguous_body"),
        ("GET", "/v1/realtime?model=m%ff", "ambiguous_body"),
        ("POST", "/collective_rpc", [("server", "llm", "", "admin")]),
        ("POST", "/sleep", [("server", "llm", "", "admin")]),
        ("GET", "/sleep", "no_route"),
        ("GET", "/version", [("server", "llm", "", "read_metadata")]),
        ("GET", "/health", [("server", "llm", "", "health")]),
        ("GET", "/metrics", [("server", "llm", "", "read_metrics")]),
        ("GET", "/", "no_route"),
        ("POST", "/chat/completions", "no_route"),
        ("POST", "/v1/chat/completions/", "no_route"),
        ("POST", "/v1/Chat/completions", "no_route"),
        ("POST", "//v1/chat/completions", "ambiguous_path"),
        ("POST", "/v1/x/../chat/completions", "ambiguous_path"),
    ],
)
def test_other_calls(method, path, expected):
    assert meaning(ROUTES, facts(method, path)) == expected


def test_realtime_upgrades():
    request = facts("GET", "/v1/realtime?model=m", headers={"upgrade": "websocket"})
    assert meaning(ROUTES, request) == model("generate")


def test_training_reads_the_files_it_names():
    content = {"model": "base", "training_file": "f1", "validation_file": "f2"}
    assert meaning(ROUTES, post("/v1/fine_tuning/jobs", content)) == [
        ("model", "base", "", "submit_training_job"),
        ("file", "f1", "", "read_data"),
        ("file", "f2", "", "read_data"),
    ]
    assert meaning(ROUTES, post("/v1/fine_tuning/jobs", {"model": "base"})) == "ambiguous_body"
    assert meaning(ROUTES, post("/v1/fine_tuning/jobs", {**content, "validation_file": 7})) == "ambiguous_body"


def test_a_batch_may_name_any_model_and_reads_its_file():
    def batch(endpoint):
        return meaning(ROUTES, post("/v1/batches", {"endpoint": endpoint, "input_file_id": "f"}))

    assert batch("/v1/chat/completions") == [*model("generate", "*"), ("file", "f", "", "read_data")]
    assert batch("/v1/embeddings") == [*model("embed", "*"), ("file", "f", "", "read_data")]
    assert meaning(ROUTES, post("/v1/batches", {"endpoint": "/v1/x"})) == "ambiguous_body"


def test_lora_adapters_are_models():
    load = {"lora_name": "a", "lora_path": "/x"}
    assert meaning(ROUTES, post("/v1/load_lora_adapter", load)) == model("deploy_model", "a") + model(
        "register_model", "a"
    )
    assert meaning(ROUTES, post("/v1/unload_lora_adapter", {"lora_name": "a"})) == model("undeploy_model", "a")
    assert meaning(ROUTES, post("/v1/load_lora_adapter", {"lora_path": "/x"})) == "ambiguous_body"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, {"n": 1, "stream": False}),
        ({"max_tokens": 64}, {"max_tokens": 64, "n": 1, "stream": False}),
        ({"max_tokens": 64, "max_completion_tokens": 900}, {"max_tokens": 900, "n": 1, "stream": False}),
        ({"max_tokens": None}, {"n": 1, "stream": False}),
        ({"max_tokens": "64"}, {"n": 1, "stream": False}),
        ({"max_tokens": 64.0}, {"n": 1, "stream": False}),
        ({"max_tokens": -1}, {"n": 1, "stream": False}),
        ({"max_tokens": 0}, {"n": 1, "stream": False}),
        ({"max_tokens": True}, {"n": 1, "stream": False}),
        ({"max_tokens": 5, "max_output_tokens": "9000"}, {"n": 1, "stream": False}),
        ({"n": 4, "stream": True}, {"n": 4, "stream": True}),
        ({"n": 2, "best_of": 9}, {"n": 9, "stream": False}),
        ({"n": "4"}, {"stream": False}),
        ({"stream": "true"}, {"n": 1}),
        ({"input": "x"}, {"n": 1, "stream": False, "batch_size": 1}),
        ({"input": ["x", "y"]}, {"n": 1, "stream": False, "batch_size": 2}),
        ({"input": [1, 2, 3]}, {"n": 1, "stream": False, "batch_size": 1}),
        ({"input": [[1], [2, 3]]}, {"n": 1, "stream": False, "batch_size": 2}),
        ({"input": ["x", 1]}, {"n": 1, "stream": False}),
        ({"input": []}, {"n": 1, "stream": False}),
        ({"prompt": ["x", "y", "z"]}, {"n": 1, "stream": False, "batch_size": 3}),
        ({"input": "x", "prompt": ["x"] * 9}, {"n": 1, "stream": False}),
    ],
)
def test_limits_are_what_every_parser_reads_or_unknown(content, expected):
    target = ask(ROUTES, post("/v1/completions", {"model": "m", **content}))
    assert isinstance(target, Target)
    assert dict(target.attributes) == expected
