"""KServe V1."""

import json

import pytest
from mapping_support import ask, facts, meaning, table

from ext_authz.model import Target

ROUTES = table("routes: [{name: ks, host: h, protocol: kserve-v1}]")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", [("server", "ks", "", "health")]),
        ("GET", "/metrics", [("server", "ks", "", "read_metrics")]),
        ("GET", "/v1/models", [("server", "ks", "", "list_models")]),
        ("GET", "/v1/models/m", [("model", "m", "", "health")]),
        ("POST", "/v1/models/m:predict", [("model", "m", "", "infer")]),
        ("POST", "/v1/models/m:explain", [("model", "m", "", "explain")]),
        ("POST", "/v1/models/m%3Apredict", [("model", "m", "", "infer")]),
        ("POST", "/v1/models/a:predict:predict", [("model", "a:predict", "", "infer")]),
        ("POST", "/v1/models/a:explain:predict", [("model", "a:explain", "", "infer")]),
        ("GET", "/v1/timeseries/models", [("server", "ks", "", "list_models")]),
        ("POST", "/v1/timeseries/forecast", "ambiguous_body"),
        ("POST", "/v1/models/m:PREDICT", "no_route"),
        ("POST", "/v1/models/m:predictx", "no_route"),
        ("POST", "/v1/models/:predict", "no_route"),
        ("POST", "/v1/models/m", "no_route"),
        ("POST", "/v1/models/m:predict/", "no_route"),
        ("GET", "/v1/models/m:predict", "no_route"),
        ("POST", "/v1/models/a%2Fb:predict", "ambiguous_path"),
    ],
)
def test_calls(method, path, expected):
    assert meaning(ROUTES, facts(method, path)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"instances": [[1], [2], [3]]}, {"batch_size": 3}),
        ({"instances": []}, {}),
        ({"instances": {"a": 1}}, {}),
        ({"instances": [1], "inputs": [1] * 900}, {}),
        ([1], {}),
    ],
)
def test_batch_size_is_the_number_of_instances(content, expected):
    target = ask(ROUTES, facts("POST", "/v1/models/m:predict", body=json.dumps(content).encode()))
    assert isinstance(target, Target)
    assert dict(target.attributes) == expected
