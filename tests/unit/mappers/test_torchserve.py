"""TorchServe."""

import pytest
from mapping_support import ask, facts, field, grpc, meaning, table

ROUTES = table("routes: [{name: ts, host: h, protocol: torchserve}]")
INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"


def model(action, name="m", version=""):
    return [("model", name, version, action)]


def registered(name):
    return model("register_model", name) + model("deploy_model", name)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/ping", [("server", "ts", "", "health")]),
        ("POST", "/predictions/m", model("infer")),
        ("DELETE", "/predictions/m", model("infer")),
        ("PUT", "/predictions/m/1.0", model("infer", version="1.0")),
        ("GET", "/predictions/m/1.0/any/thing", model("infer", version="1.0")),
        ("POST", "/explanations/m", model("explain")),
        ("GET", "/models/m/invoke", model("infer")),
        ("POST", "/invocations?model_name=m", model("infer", "m")),
        ("POST", "/wfpredict/w", [("workflow", "w", "", "infer")]),
        ("POST", "/v1/models/m:predict", model("infer")),
        ("POST", "/v1/models/m:junk:predict", "no_route"),
        ("POST", "/v1/models/m:predictfoo", "no_route"),
        ("POST", "/v2/models/m/infer", model("infer")),
        ("POST", "/v2/models/m:junk/infer", "no_route"),
        ("POST", "/v2/models/m/explain", model("explain")),
        ("GET", "/models", [("server", "ts", "", "list_models")]),
        ("POST", "/models?url=https://x/m.mar&model_name=m", registered("m")),
        ("POST", "/models?url=m.mar", registered("*")),
        ("POST", "/models?url=m.mar&model_name=", registered("*")),
        ("POST", "/models?url=m.mar&model_name=m&model_name=x", "ambiguous_body"),
        ("GET", "/models/m", model("read_metadata")),
        ("PUT", "/models/m?min_worker=3", model("update_model")),
        ("DELETE", "/models/m/2", model("undeploy_model", version="2")),
        ("PUT", "/models/m/2/set-default", model("update_model", version="2")),
        ("GET", "/m/predict", model("infer")),
        ("POST", "/m/1.0/predict", model("infer", version="1.0")),
        ("POST", "/predictions/predict", model("infer", "predict")),
        ("POST", "/ping/predict", "no_route"),
        ("POST", "/invocations/predict", "no_route"),
        ("POST", "/v1/models/predict", "no_route"),
        ("GET", "/v1/models/predict", "no_route"),
        ("POST", "/v2/m/predict", "no_route"),
        ("POST", "/wfpredict/predict", "no_route"),
        ("POST", "/workflows/x/predict", "no_route"),
        ("GET", "/workflows/predict", "no_route"),
        ("POST", "/m/predict/", "no_route"),
        ("POST", "/m/01/predict", "ambiguous_path"),
        ("POST", "/m%2Fpredict", "ambiguous_path"),
        ("OPTIONS", "/", [("server", "ts", "", "read_metadata")]),
        ("GET", "/", "no_route"),
        ("GET", "/api-description", [("server", "ts", "", "read_metadata")]),
        ("GET", "/v1/models/m", model("health")),
        ("GET", "/v1/models/m:junk", "no_route"),
        ("OPTIONS", "/models/m/2", model("read_metadata", version="2")),
        ("POST", "/predictions/m/", "no_route"),
        ("POST", "/predictions%2Fsecret", "ambiguous_path"),
    ],
)
def test_rest(method, path, expected):
    assert meaning(ROUTES, facts(method, path)) == expected


def test_a_registration_with_a_json_body_may_name_any_model():
    request = facts(
        "POST", "/models?model_name=m", body=b'{"model_name": "x"}', headers={"content-type": "application/json"}
    )
    assert meaning(ROUTES, request) == registered("*")


@pytest.mark.parametrize(
    ("path", "message", "expected"),
    [
        (f"{INFERENCE}Ping", b"", [("server", "ts", "", "health")]),
        (f"{INFERENCE}Predictions", field(1, "m") + field(2, "1"), model("infer", version="1")),
        (f"{INFERENCE}Predictions", b"", "ambiguous_body"),
        (f"{INFERENCE}Predictions", field(1, "m") + field(1, "x"), "ambiguous_body"),
        (f"{INFERENCE}StreamPredictions", field(1, "m"), model("infer")),
        (f"{INFERENCE}StreamPredictions2", b"", model("infer", "*")),
        (f"{MANAGEMENT}DescribeModel", field(1, "m"), model("read_metadata")),
        (f"{MANAGEMENT}ListModels", b"", [("server", "ts", "", "list_models")]),
        (f"{MANAGEMENT}RegisterModel", field(9, "url") + field(5, "m"), registered("m")),
        (f"{MANAGEMENT}RegisterModel", field(9, "url"), registered("*")),
        (f"{MANAGEMENT}ScaleWorker", field(1, "m"), model("update_model")),
        (f"{MANAGEMENT}SetDefault", field(1, "m") + field(2, "2"), model("update_model", version="2")),
        (f"{MANAGEMENT}UnregisterModel", field(1, "m"), model("undeploy_model")),
    ],
)
def test_grpc(path, message, expected):
    assert meaning(ROUTES, grpc(path, message)) == expected


BOUNDARY = "multipart/form-data; boundary=xyz"


def form(**fields):
    parts = "".join(
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    )
    return f"{parts}--xyz--\r\n".encode()


def invoked(path="/invocations", body=b"", kind=BOUNDARY, **more):
    return ask(ROUTES, facts("POST", path, "h", body=body, headers={"content-type": kind}, **more))


def invoked_model(*args, **more):
    return [(each.resource.id, each.action) for each in invoked(*args, **more).accesses]


def test_an_invocation_names_its_model_in_the_query_or_in_a_form():
    assert invoked_model("/invocations?model_name=m") == [("m", "infer")]
    assert invoked_model(body=form(model_name="m", data="x")) == [("m", "infer")]
    assert invoked_model("/invocations?model_name=m", body=form(model_name="m")) == [("m", "infer")]


def test_an_invocation_without_a_name_takes_the_servers_default():
    assert invoked_model() == [("*", "infer")]
    assert invoked_model(body=form(data="x")) == [("*", "infer")]
    assert invoked_model(body=b"model_name=m", kind="application/x-www-form-urlencoded") == [("*", "infer")]
    assert invoked_model("/invocations?model_name=") == [("*", "infer")]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/invocations?model_name=m", form(model_name="other")),
        ("/invocations?model_name=a&model_name=b", b""),
        ("/invocations?Model_Name=a", b""),
        ("/invocations", form(model_name="a") + form(model_name="b")),
        (
            "/invocations",
            form(model_name="a").replace(
                b"--xyz--\r\n", b'--xyz\r\nContent-Disposition: form-data; name="model_name"\r\n\r\nb\r\n--xyz--\r\n'
            ),
        ),
        ("/invocations", form(model_name="a")[:-4]),
        ("/invocations", form(Model_Name="a")),
    ],
)
def test_an_invocation_of_several_readings_is_ambiguous(path, body):
    assert invoked(path, body).reason == "ambiguous_body"
