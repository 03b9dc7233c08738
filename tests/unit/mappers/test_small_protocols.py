"""Ray, Seldon and BentoML."""

import pytest
from mapping_support import facts, field, grpc, meaning, table

ROUTES = table(
    "routes: [{name: ray, host: r, protocol: ray}, {name: seldon, host: s, protocol: seldon}, "
    "{name: bento, host: b, protocol: bentoml}]"
)
CLUSTER = [("training_cluster", "ray", "", "submit_training_job")]


def model(action, name="m"):
    return [("model", name, "", action)]


def job(action, name="j"):
    return [("job", name, "", action)]


@pytest.mark.parametrize("base", ["/api/jobs", "/api/job_agent/jobs"])
@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "", CLUSTER),
        ("POST", "/", CLUSTER),
        ("GET", "/", job("read_job", "*")),
        ("GET", "/j", job("read_job")),
        ("DELETE", "/j", job("delete_data")),
        ("POST", "/j/stop", job("cancel_job")),
        ("GET", "/j/logs", job("read_job")),
        ("POST", "/j", "no_route"),
    ],
)
def test_ray_jobs(base, method, path, expected):
    assert meaning(ROUTES, facts(method, base + path, "r")) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("PUT", "/api/packages/gcs/p.zip", [("package", "gcs/p.zip", "", "write_data")]),
        ("GET", "/api/packages/gcs/p.zip", [("package", "gcs/p.zip", "", "read_data")]),
        ("PUT", "/api/serve/applications/", model("deploy_model", "*") + model("register_model", "*") + model("undeploy_model", "*")),
        ("DELETE", "/api/serve/applications/", model("undeploy_model", "*")),
        ("GET", "/api/serve/applications/", [("server", "ray", "", "list_models")]),
        ("GET", "/worker/traceback?pid=1", [("server", "ray", "", "admin")]),
        ("GET", "/logical/kill_actor", [("server", "ray", "", "admin")]),
        ("POST", "/api/task_events", [("server", "ray", "", "admin")]),
        ("GET", "/api/v0/logs/file", job("read_job", "*")),
        ("GET", "/api/v0/tasks", [("server", "ray", "", "read_metadata")]),
        ("GET", "/api/unknown", "no_route"),
    ],
)  # fmt: skip
def test_the_rest_of_ray(method, path, expected):
    assert meaning(ROUTES, facts(method, path, "r")) == expected


def test_a_jobs_logs_are_followed_over_a_websocket_only_where_the_route_says_so():
    request = facts("GET", "/api/jobs/j/logs/tail", "r", headers={"upgrade": "websocket"})
    assert meaning(ROUTES, request) == "no_route"
    allowed = table("routes: [{host: r, protocol: ray, upgrade: [websocket]}]")
    assert meaning(allowed, request) == job("read_job")


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/v2/models/m/infer", {}, model("infer")),
        ("/v2/models/m/infer", {"seldon-model": "m"}, model("infer")),
        ("/v2/models/m/infer", {"seldon-model": "secret"}, "ambiguous_body"),
        ("/v2/models/m/infer", {"seldon-model": ("m", "secret")}, "ambiguous_body"),
        ("/v2/models/m/infer", {"seldon-route": ":m_1:"}, "ambiguous_body"),
        ("/v2/models/p.pipeline/infer", {}, "ambiguous_body"),
        ("/v2/pipelines/p/infer", {}, [("pipeline", "p", "", "infer")]),
        ("/v2/pipelines/p/infer", {"seldon-model": "p.pipeline"}, [("pipeline", "p", "", "infer")]),
        ("/v2/pipelines/p/infer", {"seldon-model": "p"}, "ambiguous_body"),
        ("/v2/pipelines/p/infer", {"seldon-model": "secret"}, "ambiguous_body"),
    ],
)
def test_seldon(path, headers, expected):
    assert headers.keys() <= ROUTES.header_names
    assert meaning(ROUTES, facts("POST", path, "s", headers=headers)) == expected


def test_seldons_scheduler_is_administration():
    request = grpc("/seldon.mlops.scheduler.Scheduler/LoadModel", b"", "s")
    assert meaning(ROUTES, request) == [("server", "seldon", "", "admin")]
    request = grpc("/inference.GRPCInferenceService/ModelInfer", field(1, "p.pipeline"), "s")
    assert meaning(ROUTES, request) == "ambiguous_body"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/m", model("infer")),
        ("POST", "/m/submit", model("infer")),
        ("PUT", "/m/cancel?task_id=t", model("cancel_job")),
        ("GET", "/m/status?task_id=t", model("read_job")),
        ("GET", "/m/get?task_id=t", model("read_job")),
        ("GET", "/livez", [("server", "bento", "", "health")]),
        ("GET", "/docs.json", [("server", "bento", "", "read_metadata")]),
        ("GET", "/metrics", [("server", "bento", "", "read_metrics")]),
        ("POST", "/a/b", "no_route"),
    ],
)
def test_bentoml(method, path, expected):
    assert meaning(ROUTES, facts(method, path, "b")) == expected


def test_bentoml_grpc():
    assert meaning(ROUTES, grpc("/bentoml.grpc.v1.BentoService/Call", field(1, "m"), "b")) == model("infer")
    assert meaning(ROUTES, grpc("/bentoml.grpc.v1.BentoService/Call", b"", "b")) == "ambiguous_body"
