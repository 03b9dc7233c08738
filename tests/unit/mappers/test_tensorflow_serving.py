"""TensorFlow Serving."""

import pytest
from mapping_support import facts, field, grpc, meaning, table

ROUTES = table("routes: [{name: tfs, host: h, protocol: tensorflow-serving}]")
SERVICE = "/tensorflow.serving."


def model(action, name="m", version=""):
    return [("model", name, version, action)]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/models", [("server", "tfs", "", "list_models")]),
        ("GET", "/monitoring/prometheus/metrics", [("server", "tfs", "", "read_metrics")]),
        *(
            row
            for path, version in (("", ""), ("/versions/3", "3"), ("/labels/stable", "label:stable"))
            for row in (
                ("POST", f"/v1/models/m{path}:predict", model("infer", version=version)),
                ("POST", f"/v1/models/m{path}:classify", model("infer", version=version)),
                ("POST", f"/v1/models/m{path}:regress", model("infer", version=version)),
                ("GET", f"/v1/models/m{path}", model("health", version=version)),
                ("GET", f"/v1/models/m{path}/metadata", model("read_metadata", version=version)),
            )
        ),
        ("POST", "/v1/models/m:predict?x=1", "no_route"),
        ("GET", "/v1/models/a?x", "no_route"),
        ("POST", "/v1/models/a:predict:predict", "no_route"),
        ("POST", "/v1/models/m:PREDICT", "no_route"),
        ("POST", "/V1/models/m:predict", "no_route"),
        ("POST", "/v1/models/m/versions/03:predict", "ambiguous_path"),
        ("POST", "/v1/models/m", "no_route"),
    ],
)
def test_rest(method, path, expected):
    assert meaning(ROUTES, facts(method, path)) == expected


def spec(name="m", version=None, label=None, extra=b""):
    data = field(1, name)
    if version is not None:
        data += field(2, field(1, version))
    if label is not None:
        data += field(4, label)
    return field(1, data + extra)


@pytest.mark.parametrize(
    ("call", "action"),
    [
        ("PredictionService/Predict", "infer"),
        ("PredictionService/Classify", "infer"),
        ("PredictionService/Regress", "infer"),
        ("PredictionService/GetModelMetadata", "read_metadata"),
        ("SessionService/SessionRun", "infer"),
        ("ModelService/GetModelStatus", "health"),
    ],
)
def test_one_model_spec_decides(call, action):
    def of(message):
        return meaning(ROUTES, grpc(SERVICE + call, message))

    assert of(spec()) == model(action)
    assert of(field(2, b"x" * 99) + spec(version=7)) == model(action, version="7")
    assert of(spec(label="stable")) == model(action, version="label:stable")
    assert of(field(1, field(1, "m") + field(2, b""))) == model(action, version="0")
    for bad in (
        b"",
        field(1, b""),
        spec() + spec("secret"),
        spec() + field(1, field(4, "stable")),
        spec(extra=field(1, "secret")),
        spec(version=1, label="stable"),
        spec(version=1, extra=field(2, field(1, 2))),
        spec(version=(1 << 64) - 1),
        field(1, field(1, "m") + field(2, field(1, 1) + field(1, 2))),
        field(1, field(1, "m") + field(2, 5)),
        spec(extra=b"\x0b\x0c"),
        spec("m\x00"),
    ):
        assert of(bad) == "ambiguous_body"


def test_every_task_of_a_multi_inference_counts():
    call = SERVICE + "PredictionService/MultiInference"
    message = field(1, spec("a")) + field(1, spec("b", version=2) + field(2, "x")) + field(1, spec("a"))
    assert meaning(ROUTES, grpc(call, message)) == model("infer", "a") + model("infer", "b", "2")
    assert meaning(ROUTES, grpc(call, b"")) == "ambiguous_body"
    assert meaning(ROUTES, grpc(call, field(1, spec("a")) + field(1, b""))) == "ambiguous_body"
    assert meaning(ROUTES, grpc(call, field(1, spec("a")) * 65)) == "ambiguous_body"


def test_a_reload_deploys_what_it_lists_and_may_unload_the_rest():
    call = SERVICE + "ModelService/HandleReloadConfigRequest"
    listed = field(1, field(1, "a") + field(2, "/x")) + field(1, field(1, "b"))
    assert meaning(ROUTES, grpc(call, field(1, field(1, listed)))) == [
        ("model", "a", "", "deploy_model"),
        ("model", "a", "", "register_model"),
        ("model", "b", "", "deploy_model"),
        ("model", "b", "", "register_model"),
        ("model", "*", "", "undeploy_model"),
    ]
    assert meaning(ROUTES, grpc(call, field(1, field(1, b"")))) == model("undeploy_model", "*")
    for bad in (
        b"",
        field(1, field(2, "x")),
        field(1, field(1, listed) + field(2, "x")),
        field(1, field(1, field(1, b""))),
    ):
        assert meaning(ROUTES, grpc(call, bad)) == "ambiguous_body"


def test_a_stream_may_name_any_model():
    assert meaning(ROUTES, grpc(SERVICE + "PredictionService/PredictStreamed", b"")) == model("infer", "*")
