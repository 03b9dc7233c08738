"""The Anthropic Messages API."""

import json

import pytest
from mapping_support import ask, facts, meaning, table

from ext_authz.model import Target

ROUTES = table("routes: [{name: a, host: h, protocol: anthropic}]")


def post(path, content):
    return facts("POST", path, body=json.dumps(content).encode(), headers={"content-type": "application/json"})


def model(action, name="m"):
    return [("model", name, "", action)]


def test_the_model_may_come_after_the_prompt():
    content = {"max_tokens": 64, "messages": [{"role": "user", "content": "x" * 900}], "model": "m"}
    target = ask(ROUTES, post("/v1/messages", content))
    assert isinstance(target, Target)
    assert meaning(ROUTES, post("/v1/messages", content)) == model("generate")
    assert target.attributes["max_tokens"] == 64
    assert meaning(ROUTES, post("/v1/messages/count_tokens", content)) == model("tokenize")
    assert meaning(ROUTES, post("/v1/complete", content)) == model("generate")
    assert meaning(ROUTES, post("/v1/messages", {"messages": []})) == "ambiguous_body"


def test_every_request_of_a_batch_counts():
    def batch(*params):
        return post("/v1/messages/batches", {"requests": [{"custom_id": "x", "params": each} for each in params]})

    assert meaning(ROUTES, batch({"model": "m"}, {"model": "n"}, {"model": "m"})) == model("generate") + model(
        "generate", "n"
    )
    target = ask(ROUTES, batch({"model": "m"}, {"model": "m"}))
    assert isinstance(target, Target)
    assert target.attributes["batch_size"] == 2
    for bad in (batch(), batch({"model": "m"}, {}), batch({"model": "m", "Model": "n"}), batch("m"), batch(None)):
        assert meaning(ROUTES, bad) == "ambiguous_body"
    assert meaning(ROUTES, batch(*({"model": f"m{i}"} for i in range(65)))) == "ambiguous_body"
    assert meaning(ROUTES, post("/v1/messages/batches", {"requests": {"params": {"model": "m"}}})) == "ambiguous_body"
    assert meaning(ROUTES, post("/v1/messages/batches", {"requests": [{"params": {"model": "m"}, "Params": {}}]})) == (
        "ambiguous_body"
    )


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/messages/batches", [("job", "*", "", "read_job")]),
        ("GET", "/v1/messages/batches/b", [("job", "b", "", "read_job")]),
        ("GET", "/v1/messages/batches/b/results", [("job", "b", "", "read_data")]),
        ("POST", "/v1/messages/batches/b/cancel", [("job", "b", "", "cancel_job")]),
        ("DELETE", "/v1/messages/batches/b", [("job", "b", "", "delete_data")]),
        ("GET", "/v1/models", [("server", "a", "", "list_models")]),
        ("GET", "/v1/models/m", model("read_metadata")),
        ("GET", "/v1/files", [("file", "*", "", "list_data")]),
        ("POST", "/v1/files", [("file", "*", "", "write_data")]),
        ("GET", "/v1/files/f", [("file", "f", "", "read_data")]),
        ("GET", "/v1/files/f/content", [("file", "f", "", "read_data")]),
        ("DELETE", "/v1/files/f", [("file", "f", "", "delete_data")]),
        ("GET", "/v1/messages", "no_route"),
    ],
)
def test_other_calls(method, path, expected):
    assert meaning(ROUTES, facts(method, path)) == expected
