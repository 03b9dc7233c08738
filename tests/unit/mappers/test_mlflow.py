"""MLflow."""

import json

import pytest
from mapping_support import ask, facts, meaning, table

ROUTES = table("routes: [{name: mlf, host: h, protocol: mlflow}]")
JSON = {"content-type": "application/json"}
API = "/api/2.0/mlflow/"
SERVER = [("server", "mlf", "", "admin")]


def send(method, path, content=None, **headers):
    body = b"" if content is None else content if isinstance(content, bytes) else json.dumps(content).encode()
    return meaning(ROUTES, facts(method, path, body=body, headers={**(JSON if body else {}), **headers}))


def model(action, name="m", version=""):
    return [("model", name, version, action)]


@pytest.mark.parametrize(
    ("method", "path", "content", "expected"),
    [
        ("POST", "experiments/create", {"name": "e"}, [("experiment", "name:e", "", "write_data")]),
        ("GET", "experiments/get?experiment_id=7", None, [("experiment", "7", "", "read_metadata")]),
        ("GET", "experiments/get-by-name?experiment_name=7", None, [("experiment", "name:7", "", "read_metadata")]),
        ("POST", "experiments/search", {}, [("experiment", "*", "", "list_data")]),
        ("POST", "experiments/update", {"experiment_id": "7", "new_name": "e"}, [("experiment", "7", "", "write_data"), ("experiment", "name:e", "", "write_data")]),
        ("POST", "experiments/update", {"experiment_id": "7"}, [("experiment", "7", "", "write_data")]),
        ("POST", "experiments/delete", {"experiment_id": "7"}, [("experiment", "7", "", "delete_data")]),
        ("POST", "runs/create", {"experiment_id": "7"}, [("experiment", "7", "", "write_data")]),
        ("POST", "runs/search", {"experiment_ids": ["7", "8", "7"]}, [("experiment", "7", "", "list_data"), ("experiment", "8", "", "list_data")]),
        ("POST", "runs/search", {}, [("experiment", "*", "", "list_data")]),
        ("GET", "runs/get?run_id=r", None, [("run", "r", "", "read_data")]),
        ("GET", "runs/get?run_uuid=r", None, [("run", "r", "", "read_data")]),
        ("GET", "runs/get?run_uuid=r&run_id=r", None, [("run", "r", "", "read_data")]),
        ("POST", "runs/log-batch", {"run_id": "r", "metrics": []}, [("run", "r", "", "write_data")]),
        ("POST", "runs/delete", {"run_id": "r"}, [("run", "r", "", "delete_data")]),
        ("GET", "metrics/get-history-bulk?run_id=a&run_id=b", None, [("run", "*", "", "read_data")]),
        ("GET", "artifacts/list?run_id=r&path=p", None, [("run", "r", "", "list_data")]),
        ("POST", "registered-models/create", {"name": "m"}, model("register_model")),
        ("GET", "registered-models/get?name=m", None, model("read_metadata")),
        ("GET", "registered-models/get?name=org%2Fm", None, model("read_metadata", "org/m")),
        ("GET", "registered-models/search", None, model("list_models", "*")),
        ("PATCH", "registered-models/update", {"name": "m"}, model("update_model")),
        ("POST", "registered-models/rename", {"name": "m", "new_name": "n"}, model("update_model") + model("register_model", "n")),
        ("DELETE", "registered-models/delete", {"name": "m"}, model("delete_model")),
        ("POST", "registered-models/alias", {"name": "m", "alias": "prod", "version": "3"}, model("deploy_model", version="3")),
        ("GET", "registered-models/alias?name=m&alias=prod", None, model("read_metadata")),
        ("DELETE", "registered-models/alias", {"name": "m", "alias": "prod"}, model("undeploy_model")),
        ("POST", "model-versions/transition-stage", {"name": "m", "version": "3", "stage": "Production"}, model("deploy_model", version="3")),
        ("GET", "model-versions/get?name=m&version=3", None, model("read_metadata", version="3")),
        ("GET", "model-versions/get-download-uri?name=m&version=3", None, model("read_data", version="3")),
        ("POST", "upload-artifact?run_uuid=r&path=p", b"data", [("run", "*", "", "write_data")]),
        ("GET", "logged-models/m-1", None, [("logged_model", "m-1", "", "read_metadata")]),
        ("GET", "logged-models/m-1/artifacts/files", None, [("logged_model", "m-1", "", "read_data")]),
        ("GET", "traces/tr-1", None, [("trace", "tr-1", "", "read_data")]),
        ("GET", "traces/get?trace_id=tr-1", None, [("trace", "tr-1", "", "read_data")]),
        ("POST", "traces/delete-traces", {"experiment_id": "7"}, [("trace", "*", "", "delete_data")]),
        ("POST", "datasets/d-1/records", {}, [("dataset", "d-1", "", "write_data")]),
        ("GET", "gateway/secrets/list", None, SERVER),
        ("POST", "webhooks", {"url": "https://evil"}, SERVER),
        ("PATCH", "webhooks/w", {}, SERVER),
        ("POST", "gateway-proxy", {}, SERVER),
        ("GET", "server-info", None, [("server", "mlf", "", "read_metadata")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["/api/2.0/", "/api/3.0/", "/ajax-api/2.0/", "/ajax-api/3.0/"])
def test_tracking_and_registry_mean_the_same_below_every_prefix(prefix, method, path, content, expected):
    assert send(method, f"{prefix}mlflow/{path}", content) == expected


@pytest.mark.parametrize(
    ("method", "path", "content", "expected"),
    [
        ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=1/r", None, [("artifact", "*", "", "list_data")]),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/x", None, [("artifact", "1/r/artifacts/x", "", "read_data")]),
        ("PUT", "/ajax-api/3.0/mlflow-artifacts/artifacts/1/x", b"x", [("artifact", "1/x", "", "write_data")]),
        ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/1", None, [("artifact", "1", "", "delete_data")]),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/x", {}, [("artifact", "1/x", "", "write_data")]),
        ("GET", "/get-artifact?run_uuid=r&path=p", None, [("run", "r", "", "read_data")]),
        ("GET", "/model-versions/get-artifact?name=m&version=1&path=p", None, model("read_data", version="1")),
        ("GET", "/graphql?query=x", None, SERVER),
        ("POST", "/graphql", {}, SERVER),
        ("POST", "/v1/traces", b"x", [("trace", "*", "", "write_data")]),
        ("POST", "/gateway/chat/mlflow/invocations", {}, model("generate", "chat")),
        ("POST", "/gateway/mlflow/v1/chat/completions", {"model": "chat"}, model("generate", "chat")),
        ("POST", "/invocations", {"instances": [1, 2]}, model("infer", "mlf")),
        ("GET", "/ping", None, [("server", "mlf", "", "health")]),
        ("GET", "/version", None, [("server", "mlf", "", "read_metadata")]),
        ("GET", "/", None, [("server", "mlf", "", "read_metadata")]),
        ("GET", "/api/4.0/mlflow/runs/get?run_id=r", None, "no_route"),
        ("GET", "/api/2.0/mlflow/users/get", None, "no_route"),
        ("HEAD", "/get-artifact?run_uuid=r&path=p", None, "no_route"),
        ("GET", "//api/2.0/mlflow/runs/get?run_id=r", None, "ambiguous_path"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/../2", None, "ambiguous_path"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/%252e%252e/2", None, "ambiguous_path"),
    ],
)  # fmt: skip
def test_artifacts_and_the_rest(method, path, content, expected):
    assert send(method, path, content) == expected


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "runs/get", None),
        ("GET", "runs/get", {"run_id": "r"}),
        ("GET", "runs/get?run_id=r", {"run_id": "secret"}),
        ("GET", "runs/get?run_id=r&run_id=secret", None),
        ("GET", "runs/get?run_id=r&run_uuid=secret", None),
        ("GET", "runs/get?run_id=&run_uuid=", None),
        ("POST", "runs/update", None),
        ("POST", "runs/update", {"run_id": "r", "run_uuid": "secret"}),
        ("POST", "runs/update", {"run_id": "r", "runId": "secret"}),
        ("POST", "runs/update", {"runId": "secret"}),
        ("POST", "runs/update", {"run_id": ["r"]}),
        ("POST", "runs/update", b'{"run_id": "r", "run_id": "secret"}'),
        ("POST", "runs/update", json.dumps('{"run_id": "r"}').encode()),
        ("POST", "runs/update?run_id=secret", {"run_id": "r"}),
        ("DELETE", "registered-models/delete?name=secret", {"name": "m"}),
        ("DELETE", "registered-models/delete?name=m", None),
        ("POST", "registered-models/rename", {"name": "m", "newName": "n"}),
        ("POST", "runs/search", {"experiment_ids": "7"}),
        ("POST", "runs/search", {"experiment_ids": [7]}),
        ("POST", "runs/search", {"experiment_ids": ["7"], "experimentIds": ["8"]}),
        ("GET", "model-versions/get?name=m", None),
        ("GET", "model-versions/get?name=m&version=1_0", None),
        ("GET", "model-versions/get?name=m&version=01", None),
        ("GET", "model-versions/get?name=m&version=%D9%A1", None),
        ("GET", "model-versions/get?name=m&version=+1", None),
        ("POST", "registered-models/alias", {"name": "m", "alias": "a", "version": 3}),
    ],
)
def test_what_the_server_could_read_as_another_name_is_refused(method, path, content):
    assert send(method, API + path, content) == "ambiguous_body"


def test_a_version_that_comes_from_a_run_needs_the_run_readable_and_shows_its_source():
    content = {"name": "m", "source": "runs:/r/model", "run_id": "r", "model_id": ""}
    request = facts("POST", f"{API}model-versions/create", body=json.dumps(content).encode(), headers=JSON)
    assert meaning(ROUTES, request) == [*model("register_model"), ("run", "r", "", "read_data")]
    assert ask(ROUTES, request).attributes == {"source": "runs:/r/model"}


def test_a_header_that_picks_another_workspace_is_refused_everywhere():
    workspace = {"x-mlflow-workspace": "other"}
    assert "x-mlflow-workspace" in ROUTES.header_names
    assert send("GET", f"{API}runs/get?run_id=r", **workspace) == "ambiguous_body"
    assert send("GET", f"{API}registered-models/search", **workspace) == "ambiguous_body"
    assert send("GET", "/api/2.0/mlflow-artifacts/artifacts/1/x", **workspace) == "ambiguous_body"
    assert send("GET", f"{API}webhooks", **workspace) == "ambiguous_body"
