"""The demo's routes and catalog say what the demo needs."""

from pathlib import Path

import pytest
from mapping_support import ask, facts, field, grpc, meaning

from ext_authz.documents import load
from ext_authz.mappers.routes import load_resources
from ext_authz.model import Target

FILE = Path(__file__).parents[3] / "policies/resources/demo.yaml"


@pytest.fixture(scope="module")
def routes():
    return load_resources([(load(FILE.read_text(), FILE.name), FILE.name)])


def test_it_has_no_warnings(routes):
    assert routes.lint() == ()


def test_the_lake(routes):
    assert meaning(routes, facts("GET", "/healthz", "lake.internal")) == "public"
    read = ask(routes, facts("GET", "/datasets/customer-pii/2024/a.parquet", "lake.internal"))
    assert isinstance(read, Target)
    assert read.accesses[0].resource.attributes["sensitivity"] == "high"
    assert read.accesses[0].action == "read_data"
    assert meaning(routes, facts("PUT", "/datasets/clicks/x", "lake.internal")) == [
        ("dataset", "clicks", "", "write_data")
    ]
    assert meaning(routes, facts("DELETE", "/datasets/clicks/x", "lake.internal")) == "no_route"


def test_the_models(routes):
    call = grpc("/inference.GRPCInferenceService/ModelInfer", field(1, "churn"), "models.internal")
    target = ask(routes, call)
    assert isinstance(target, Target)
    assert dict(target.accesses[0].resource.attributes) == {"stage": "staging", "environment": "prod"}
    assert meaning(
        routes, facts("POST", "/v2/repository/models/fraud/load", "models.internal", protocol="HTTP/1.1")
    ) == [("model", "fraud", "", "deploy_model")]
