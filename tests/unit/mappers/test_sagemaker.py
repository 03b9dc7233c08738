"""SageMaker."""

import json

import pytest
from mapping_support import ask, facts, meaning, table

ROUTES = table("routes: [{name: sm, host: h, protocol: sagemaker}]")
HEADER = "x-amzn-sagemaker-"


def model(action, name="m"):
    return [("model", name, "", action)]


def endpoint(version=""):
    return [("endpoint", "e", version, "infer")]


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        ("GET", "/ping", {}, [("server", "sm", "", "health")]),
        ("POST", "/invocations", {}, model("infer", "sm")),
        ("POST", "/invocations", {"target-model": "m.tar.gz"}, model("infer", "m.tar.gz")),
        ("POST", "/invocations", {"target-model": ("a", "b")}, "ambiguous_body"),
        ("POST", "/invocations", {"target-model": ""}, "ambiguous_body"),
        ("POST", "/invocations", {"target-model": "a", "inference-component": "b"}, model("infer", "a") + model("infer", "b")),
        ("GET", "/models", {}, [("server", "sm", "", "list_models")]),
        ("GET", "/models/m", {}, model("read_metadata")),
        ("DELETE", "/models/m", {}, model("undeploy_model")),
        ("POST", "/models/m/invoke", {}, model("infer")),
        ("POST", "/models/m/invoke", {"target-model": "m"}, model("infer")),
        ("POST", "/models/m/invoke", {"target-model": "secret"}, "ambiguous_body"),
        ("POST", "/endpoints/e/invocations", {}, endpoint()),
        ("POST", "/endpoints/e/invocations-response-stream", {"target-variant": "blue"}, endpoint("blue")),
        ("POST", "/endpoints/e/invocations", {"target-model": "m"}, endpoint() + model("infer")),
        ("POST", "/endpoints/e/invocations", {"target-container-hostname": "c"}, endpoint() + model("infer", "c")),
        ("POST", "/endpoints/e/invocations", {"inference-component": "i"}, endpoint() + model("infer", "i")),
        ("POST", "/endpoints/e/async-invocations", {"inputlocation": "s3://b/k"}, [*endpoint(), ("object", "b/k", "", "read_data")]),
        ("POST", "/endpoints/e/async-invocations", {}, "ambiguous_body"),
        ("POST", "/endpoints/e/async-invocations", {"inputlocation": "https://b/k"}, "ambiguous_body"),
        ("POST", "/endpoints/e/async-invocations", {"inputlocation": "s3://b/../k"}, "ambiguous_body"),
        ("POST", "/endpoints/e/async-invocations", {"inputlocation": "s3://b/%6b"}, "ambiguous_body"),
        ("POST", "/endpoints/e/async-invocations", {"inputlocation": "s3://b/k?versionId=1"}, "ambiguous_body"),
        ("POST", "/endpoints/e/async-invocations", {"inputlocation": "s3://b"}, "ambiguous_body"),
        ("GET", "/invocations", {}, "no_route"),
    ],
)  # fmt: skip
def test_sagemaker(method, path, headers, expected):
    named = {HEADER + name: value for name, value in headers.items()}
    assert named.keys() <= ROUTES.header_names
    assert meaning(ROUTES, facts(method, path, headers=named)) == expected


def test_loading_a_model_registers_code_too():
    body = json.dumps({"model_name": "m", "url": "/opt/ml/models/m"}).encode()
    request = facts("POST", "/models", body=body, headers={"content-type": "application/json"})
    assert meaning(ROUTES, request) == model("deploy_model") + model("register_model")
    assert meaning(ROUTES, facts("POST", "/models")) == "ambiguous_body"


def test_the_rows_of_an_invocation_can_be_limited():
    body = json.dumps({"instances": [[1], [2], [3]]}).encode()
    assert ask(ROUTES, facts("POST", "/invocations", body=body)).attributes == {"batch_size": 3}
