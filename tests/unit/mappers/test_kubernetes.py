"""Kubernetes and Kubeflow Pipelines."""

import pytest
from mapping_support import facts, meaning, table

ROUTES = table(
    "routes: [{name: k8s, host: h, protocol: kubernetes}, {name: kfp, host: p, protocol: kubeflow-pipelines}]"
)
JOBS = "/apis/kubeflow.org/v1/namespaces/team-a/pytorchjobs"
SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/team-a/inferenceservices"


def job(action, name):
    return [("job", name, "", action)]


def model(action, name):
    return [("model", name, "", action)]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", JOBS, job("submit_training_job", "team-a/*")),
        ("GET", JOBS, job("read_job", "team-a/*")),
        ("GET", f"{JOBS}?watch=true&fieldSelector=metadata.name%3Dx", job("read_job", "team-a/*")),
        ("DELETE", JOBS, job("cancel_job", "team-a/*")),
        ("GET", f"{JOBS}/x", job("read_job", "team-a/x")),
        ("PUT", f"{JOBS}/x", job("submit_training_job", "team-a/x")),
        ("PATCH", f"{JOBS}/x/status", job("submit_training_job", "team-a/x")),
        ("PUT", f"{JOBS}/x/scale", job("submit_training_job", "team-a/x")),
        ("DELETE", f"{JOBS}/x", job("cancel_job", "team-a/x")),
        ("GET", "/apis/kubeflow.org/v1/pytorchjobs", job("read_job", "*")),
        ("GET", "/apis/batch/v1/namespaces/n/jobs/x", job("read_job", "n/x")),
        ("POST", "/apis/trainer.kubeflow.org/v1alpha1/namespaces/n/trainjobs", job("submit_training_job", "n/*")),
        ("GET", "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/torch", job("read_job", "torch")),
        ("POST", "/apis/argoproj.io/v1alpha1/namespaces/n/workflows", job("submit_training_job", "n/*")),
        ("POST", "/apis/ray.io/v1/namespaces/n/rayjobs", job("submit_training_job", "n/*")),
        ("POST", "/apis/ray.io/v1/namespaces/n/rayservices", model("deploy_model", "n/*")),
        ("POST", SERVICES, model("deploy_model", "team-a/*")),
        ("GET", SERVICES, model("list_models", "team-a/*")),
        ("GET", f"{SERVICES}/fraud", model("read_metadata", "team-a/fraud")),
        ("PATCH", f"{SERVICES}/fraud", model("deploy_model", "team-a/fraud")),
        ("DELETE", f"{SERVICES}/fraud", model("undeploy_model", "team-a/fraud")),
        ("GET", f"{SERVICES}/fraud/status", model("read_metadata", "team-a/fraud")),
        ("GET", "/readyz", [("server", "k8s", "", "health")]),
        ("GET", "/apis/kubeflow.org/v1", [("server", "k8s", "", "read_metadata")]),
        ("GET", f"{JOBS}/x/log", "no_route"),
        ("POST", f"{JOBS}/x", "no_route"),
        ("GET", "/api/v1/namespaces/n/secrets", "no_route"),
        ("GET", "/api/v1/namespaces/n/pods/x/exec", "no_route"),
        ("GET", "/apis/kubeflow.org/v1/watch/namespaces/n/pytorchjobs", "no_route"),
        ("GET", "/apis/other.org/v1/namespaces/n/pytorchjobs", "no_route"),
        ("GET", f"{JOBS}/x%2Fstatus", "ambiguous_path"),
        ("GET", f"{JOBS}/../inferenceservices", "ambiguous_path"),
    ],
)
def test_kubernetes(method, path, expected):
    assert meaning(ROUTES, facts(method, path)) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "runs", job("submit_training_job", "*")),
        ("GET", "runs", job("read_job", "*")),
        ("GET", "runs/r", job("read_job", "r")),
        ("DELETE", "runs/r", job("cancel_job", "r")),
        ("POST", "runs/r:archive", job("cancel_job", "r")),
        ("POST", "runs/r:terminate", job("cancel_job", "r")),
        ("POST", "runs/r:retry", job("submit_training_job", "r")),
        ("POST", "runs/r:Retry", "no_route"),
        ("POST", "runs/r:invented", "no_route"),
        ("GET", "runs/r/nodes/n/artifacts/a:read", job("read_data", "r")),
        ("POST", "recurringruns/r:enable", job("submit_training_job", "r")),
        ("POST", "recurringruns/r:disable", job("cancel_job", "r")),
        ("GET", "experiments/e", [("experiment", "e", "", "read_data")]),
        ("POST", "pipelines/upload", [("pipeline", "*", "", "write_data")]),
        ("GET", "pipelines/p/versions/v", [("pipeline", "p", "v", "read_data")]),
        ("DELETE", "pipelines/p", [("pipeline", "p", "", "delete_data")]),
        ("POST", "visualizations/n", [("server", "kfp", "", "admin")]),
        ("GET", "healthz", [("server", "kfp", "", "health")]),
    ],
)
def test_kubeflow_pipelines(method, path, expected):
    assert meaning(ROUTES, facts(method, f"/apis/v2beta1/{path}", "p")) == expected
