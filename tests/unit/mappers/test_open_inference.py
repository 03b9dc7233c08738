"""The Open Inference Protocol, row by row, and what attackers do with it."""

import json
import re

import pytest
from mapping_support import ask, facts, field, frame, grpc, meaning, table, varint

from ext_authz.mappers.open_inference import ADAPTER, MAX_PARSED
from ext_authz.model import ACTIONS, Target

ROUTES = table("routes: [{name: srv, host: h, protocol: open-inference}]")
SERVICE = "/inference.GRPCInferenceService/"


def server(action):
    return [("server", "srv", "", action)]


def model(action, name="fraud", version=""):
    return [("model", name, version, action)]


REST = [
    ("GET", "/v2", server("read_metadata")),
    ("GET", "/v2/health/live", server("health")),
    ("GET", "/v2/health/ready", server("health")),
    ("GET", "/v2/docs", server("read_metadata")),
    ("GET", "/v2/docs/dataplane.json", server("read_metadata")),
    ("GET", "/v2/models", server("list_models")),
    ("GET", "/v2/models/stats", server("read_metrics")),
    ("GET", "/metrics", server("read_metrics")),
    ("GET", "/v2/trace/setting", server("read_metadata")),
    ("POST", "/v2/trace/setting", server("admin")),
    ("GET", "/v2/logging", server("read_metadata")),
    ("POST", "/v2/logging", server("admin")),
    ("POST", "/v2/repository/index", server("list_models")),
    ("POST", "/v2/repository/models/index", server("list_models")),
    ("POST", "/v2/repository/r/index", server("list_models")),
    ("GET", "/v2/systemsharedmemory/status", server("admin")),
    ("GET", "/v2/systemsharedmemory/region/r/status", server("admin")),
    ("POST", "/v2/systemsharedmemory/region/r/register", server("admin")),
    ("POST", "/v2/systemsharedmemory/unregister", server("admin")),
    ("POST", "/v2/cudasharedmemory/region/r/register", server("admin")),
    ("POST", "/v2/cudasharedmemory/region/r/unregister", server("admin")),
    ("GET", "/v2/cudasharedmemory/status", server("admin")),
    *(
        row
        for path, version in (("/v2/models/fraud", ""), ("/v2/models/fraud/versions/3", "3"))
        for row in (
            ("GET", path, model("read_metadata", version=version)),
            ("GET", f"{path}/ready", model("health", version=version)),
            ("POST", f"{path}/infer", model("infer", version=version)),
            ("POST", f"{path}/infer_stream", model("infer", version=version)),
            ("POST", f"{path}/generate", model("generate", version=version)),
            ("POST", f"{path}/generate_stream", model("generate", version=version)),
            ("GET", f"{path}/docs", model("read_metadata", version=version)),
            ("GET", f"{path}/docs/dataplane.json", model("read_metadata", version=version)),
            ("GET", f"{path}/config", model("read_metadata", version=version)),
            ("GET", f"{path}/stats", model("monitor_performance", version=version)),
            ("GET", f"{path}/trace/setting", model("read_metadata", version=version)),
            ("POST", f"{path}/trace/setting", model("admin", version=version)),
        )
    ),
    ("POST", "/v2/repository/models/fraud/load", model("deploy_model")),
    ("POST", "/v2/repository/models/fraud/unload", model("undeploy_model")),
    ("POST", "/v2/repository/r/models/fraud/load", model("deploy_model")),
    ("POST", "/v2/repository/r/models/fraud/unload", model("undeploy_model")),
    # Names that look like route words.
    ("GET", "/v2/models/stats/ready", model("health", "stats")),
    ("POST", "/v2/models/infer/infer", model("infer", "infer")),
    ("GET", "/v2/models/fr%61ud", model("read_metadata")),
    ("POST", "/v2/models/fraud/infer?model_name=secret", model("infer")),
    # What the servers' routers do not know, or read differently.
    ("GET", "/v2/", "no_route"),
    ("GET", "/v2/models/", "no_route"),
    ("GET", "/v2/models/fraud/", "no_route"),
    ("GET", "/v2/models/fraud/infer", "no_route"),
    ("HEAD", "/v2/models/fraud", "no_route"),
    ("PUT", "/v2/models/fraud/infer", "no_route"),
    ("POST", "/v2/models/stats", "no_route"),
    ("POST", "/v2/models/org/m/infer", "no_route"),
    ("POST", "/V2/models/fraud/infer", "no_route"),
    ("POST", "/v2/models/fraud/INFER", "no_route"),
    ("POST", "/v2/models/fraud/versions/infer", "no_route"),
    ("GET", "/v2/repository/models/fraud/load", "no_route"),
    ("POST", "/v2/models/fraud%2Finfer", "ambiguous_path"),
    ("POST", "/v2/models/fraud;x=1/infer", "ambiguous_path"),
    ("POST", "/v2/models//infer", "ambiguous_path"),
    ("POST", "/v2/models/x/../fraud/infer", "ambiguous_path"),
    ("POST", "/v2/models/fr%2561ud/infer", "ambiguous_path"),
]


@pytest.mark.parametrize(
    ("method", "path", "expected"), REST, ids=lambda value: value if isinstance(value, str) else ""
)
def test_rest(method, path, expected):
    assert meaning(ROUTES, facts(method, path, protocol="HTTP/1.1")) == expected


NAMED = field(1, "fraud") + field(2, "3")
GRPC = [
    *((f"{SERVICE}{call}", b"", server("health")) for call in ("ServerLive", "ServerReady")),
    (f"{SERVICE}ServerMetadata", b"", server("read_metadata")),
    (f"{SERVICE}ModelReady", NAMED, model("health", version="3")),
    (f"{SERVICE}ModelMetadata", NAMED, model("read_metadata", version="3")),
    (f"{SERVICE}ModelConfig", NAMED, model("read_metadata", version="3")),
    (f"{SERVICE}ModelStatistics", NAMED, model("monitor_performance", version="3")),
    (f"{SERVICE}ModelStatistics", b"", server("read_metrics")),
    (f"{SERVICE}ModelStatistics", field(2, "3"), "ambiguous_body"),
    (f"{SERVICE}ModelInfer", NAMED, model("infer", version="3")),
    (f"{SERVICE}ModelInfer", field(1, "org/fraud"), model("infer", "org/fraud")),
    (f"{SERVICE}ModelInfer", b"", "ambiguous_body"),
    (f"{SERVICE}ModelReady", b"", "ambiguous_body"),
    (f"{SERVICE}ModelStreamInfer", b"", model("infer", "*")),
    (f"{SERVICE}RepositoryIndex", b"", server("list_models")),
    (f"{SERVICE}RepositoryModelLoad", field(1, "repo") + field(2, "fraud"), model("deploy_model")),
    (
        f"{SERVICE}RepositoryModelLoad",
        field(2, "fraud") + field(3, field(1, "config")),
        model("deploy_model") + model("register_model"),
    ),
    (f"{SERVICE}RepositoryModelLoad", field(1, "fraud"), "ambiguous_body"),
    (f"{SERVICE}RepositoryModelUnload", field(2, "fraud"), model("undeploy_model")),
    (
        f"{SERVICE}RepositoryModelUnload",
        field(2, "fraud") + field(3, field(1, "unload_dependents")),
        model("undeploy_model") + model("undeploy_model", "*"),
    ),
    ("/inference.model_repository.ModelRepositoryService/RepositoryIndex", b"", server("list_models")),
    (
        "/inference.model_repository.ModelRepositoryService/RepositoryModelLoad",
        field(2, "fraud"),
        model("deploy_model"),
    ),
    ("/org.pytorch.serve.grpc.openinference.GRPCInferenceService/ModelInfer", field(1, "fraud"), model("infer")),
    (f"{SERVICE}TraceSetting", field(2, "fraud"), model("admin")),
    (f"{SERVICE}TraceSetting", b"", server("admin")),
    (f"{SERVICE}LogSettings", b"", server("admin")),
    *(
        (f"{SERVICE}{kind}SharedMemory{verb}", field(1, "region"), server("admin"))
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    ),
    ("/grpc.health.v1.Health/Check", field(1, "any"), server("health")),
    ("/grpc.health.v1.Health/List", b"", server("health")),
    ("/grpc.health.v1.Health/Watch", b"", server("health")),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"", server("read_metadata")),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b"", server("read_metadata")),
    ("/grpc.channelz.v1.Channelz/GetServers", b"", server("admin")),
    (f"{SERVICE}modelinfer", NAMED, "no_route"),
    (f"{SERVICE}ModelInfer/", NAMED, "no_route"),
    (f"{SERVICE}Nothing", NAMED, "no_route"),
    ("/x.GRPCInferenceService/ModelInfer", NAMED, "no_route"),
    ("//inference.GRPCInferenceService/ModelInfer", NAMED, "ambiguous_path"),
    ("inference.GRPCInferenceService/ModelInfer", NAMED, "ambiguous_path"),
]


@pytest.mark.parametrize(
    ("path", "message", "expected"), GRPC, ids=lambda value: value if isinstance(value, str) else ""
)
def test_grpc(path, message, expected):
    assert meaning(ROUTES, grpc(path, message)) == expected


@pytest.mark.parametrize("row", ADAPTER.rows, ids=lambda row: f"{row.method} {row.template}")
def test_every_row_is_found_by_its_own_template(row):
    path = re.sub(r"\{(\w+)\}", r"\1-x", row.template)
    found = ADAPTER.find(
        facts("POST" if row.method == "gRPC" else row.method, path, headers={"content-type": "application/grpc"}),
        path[1:].split("/"),
    )
    assert found is not None
    assert found.row is row
    assert all(value == f"{name}-x" for name, value in found.captured.items())


def test_every_action_is_one_of_the_contract():
    assert {action for _, action in ADAPTER.yields} <= ACTIONS


@pytest.mark.parametrize(
    "kind", ["application/grpc-web", "application/json", "application/proto", "application/connect+proto", None]
)
def test_a_grpc_method_in_another_framing_is_no_route(kind):
    headers = {} if kind is None else {"content-type": kind}
    request = facts("POST", f"{SERVICE}ModelInfer", body=frame(field(1, "fraud")), headers=headers)
    assert meaning(ROUTES, request) == "no_route"
    assert (
        meaning(ROUTES, facts("GET", f"{SERVICE}ServerLive", headers={"content-type": "application/grpc"}))
        == "no_route"
    )


@pytest.mark.parametrize(
    "message",
    [
        field(1, "fraud") + field(1, "secret"),
        field(1, "fraud") + b"\x8a\x80\x00\x06secret",
        field(1, "fraud") + b"\x8a\x80\x80\x80\x10\x06secret",
        b"\x0b" + field(1, "secret") + b"\x0c" + field(1, "fraud"),
        field(1, "fraud") + b"\x08\x01",
        field(1, "fraud") + field(2, "1") + field(2, "2"),
        field(1, "fraud") + field(2, "01"),
        field(1, "fraud") + field(2, "+1"),
        field(1, "fraud") + field(2, " 1"),
        field(1, "fraud\x00"),
        field(1, "fraud\n"),
        field(1, " fraud"),
        field(1, b"fr\xff"),
    ],
)
def test_a_message_that_parsers_read_differently_is_refused(message):
    assert meaning(ROUTES, grpc(f"{SERVICE}ModelInfer", message)) == "ambiguous_body"


@pytest.mark.parametrize(
    "request_",
    [
        grpc(f"{SERVICE}ModelInfer", NAMED, partial="true"),
        grpc(f"{SERVICE}ModelInfer", NAMED, size=3),
        grpc(f"{SERVICE}ModelInfer", NAMED, headers={"content-length": "9999"}),
        grpc(f"{SERVICE}ModelInfer", NAMED, headers={"content-encoding": "gzip"}),
        facts("POST", f"{SERVICE}ModelInfer", headers={"content-type": "application/grpc"}),
        facts("POST", f"{SERVICE}ModelInfer", body=frame(NAMED, 1), headers={"content-type": "application/grpc", "grpc-encoding": "gzip"}),
        facts("POST", f"{SERVICE}ModelInfer", body=frame(NAMED) + frame(field(1, "secret")), headers={"content-type": "application/grpc"}),
        facts("POST", f"{SERVICE}ModelInfer", body=frame(NAMED) + b"x", headers={"content-type": "application/grpc"}),
    ],
)  # fmt: skip
def test_a_message_that_is_not_all_there_is_refused(request_):
    assert meaning(ROUTES, request_) == "ambiguous_body"


def test_a_message_that_fills_the_buffer_is_refused():
    request = grpc(f"{SERVICE}ModelInfer", NAMED)
    size = len(request.body.data)
    assert meaning(table("routes: [{host: h, protocol: open-inference}]", size + 1), request) == model(
        "infer", version="3"
    )
    assert meaning(table("routes: [{host: h, protocol: open-inference}]", size), request) == "ambiguous_body"


def test_calls_on_the_server_need_no_body():
    request = facts("POST", f"{SERVICE}ServerLive", headers={"content-type": "application/grpc"})
    assert meaning(ROUTES, request) == server("health")


def infer(content, path="/v2/models/fraud/infer", **more):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return facts("POST", path, body=body, **more)


def limits(request):
    target = ask(ROUTES, request)
    assert isinstance(target, Target)
    return dict(target.attributes)


def tensor(shape, data=None, **more):
    return {"name": "x", "datatype": "FP32", "shape": shape, **({} if data is None else {"data": data}), **more}


def test_the_rest_body_never_decides_the_model_and_need_not_be_there():
    assert meaning(ROUTES, facts("POST", "/v2/models/fraud/infer")) == model("infer")
    assert meaning(ROUTES, infer(b"not json at all")) == model("infer")
    assert meaning(ROUTES, infer({"inputs": []}, partial="true")) == model("infer")
    assert meaning(ROUTES, infer({"inputs": []}, headers={"content-encoding": "gzip"})) == model("infer")


def test_a_body_that_names_another_model_is_refused():
    assert meaning(ROUTES, infer({"model_name": "fraud", "inputs": []})) == model("infer")
    assert meaning(ROUTES, infer({"model_name": "secret", "inputs": []})) == "ambiguous_body"
    assert meaning(ROUTES, infer({"Model_Name": "secret", "inputs": []})) == "ambiguous_body"
    assert meaning(ROUTES, infer({"model_name": ["fraud"], "inputs": []})) == "ambiguous_body"


@pytest.mark.parametrize("header", ["seldon-model", "mm-model-id", "mm-vmodel-id"])
def test_a_header_that_gateways_route_by_must_name_the_same_model(header):
    assert header in ROUTES.header_names
    for request, own in (
        (lambda value: facts("POST", "/v2/models/fraud/infer", headers={header: value}), "fraud"),
        (lambda value: grpc(f"{SERVICE}ModelInfer", NAMED, headers={header: value}), "fraud"),
    ):
        assert isinstance(ask(ROUTES, request(own)), Target)
        for other in ("secret", "fraud.pipeline", "", ("fraud", "secret"), ("fraud", "fraud")):
            assert meaning(ROUTES, request(other)) == "ambiguous_body"
    assert meaning(ROUTES, facts("GET", "/v2", headers={header: "secret"})) == "ambiguous_body"
    assert meaning(ROUTES, grpc(f"{SERVICE}ModelStreamInfer", b"", headers={header: "secret"})) == model("infer", "*")


@pytest.mark.parametrize(
    ("inputs", "size"),
    [
        ([tensor([8, 4], [0.5] * 32)], 8),
        ([tensor([8, 2], [[1, 2]] * 8)], 8),
        ([tensor([2, 2, 2], [[[1, 2], [3, 4]], [[5, 6], [7, 8]]])], 2),
        ([tensor([1, 4], [1] * 4), tensor([64], [1] * 64)], 64),
        ([tensor([3], ["a", "b", "c"], datatype="BYTES")], 3),
        ([tensor([8, 4])], 8),
        # What the shape says is not what a codec would take.
        ([tensor([1], ["a"] * 1000, datatype="BYTES")], None),
        ([tensor([1], [["a"] * 1000], datatype="BYTES")], None),
        ([tensor([1], datatype="BYTES")], None),
        ([tensor([1, 4], [1] * 400)], None),
        ([tensor([-1, 4], [1] * 400)], None),
        ([tensor([0, 4], [])], None),
        ([tensor([True, 4], [1] * 4)], None),
        ([tensor(["1", 4], [1] * 4)], None),
        ([tensor([1.0, 4], [1] * 4)], None),
        ([tensor([], [1])], None),
        ([tensor([1] * 100, [1])], None),
        ([tensor([2], [1, [2, 3]])], None),
        ([tensor([2], [1, 2], Shape=[1])], None),
        ([tensor([2], "ab")], None),
        ([tensor([4], [1] * 4), {"name": "y"}], None),
        ([tensor([4], [1] * 4), 7], None),
        ([], None),
        ("x", None),
        ([tensor([1], [1])] * 65, None),
    ],
)
def test_batch_size_is_the_largest_first_dimension_and_unknown_where_data_say_otherwise(inputs, size):
    assert limits(infer({"inputs": inputs})) == ({} if size is None else {"batch_size": size})


def test_duplicate_keys_leave_the_batch_size_unknown():
    small, big = json.dumps([tensor([1], [1])]), json.dumps([tensor([900], [1] * 900)])
    assert limits(infer(f'{{"inputs": {small}, "inputs": {big}}}'.encode())) == {}


def test_binary_tensors_behind_the_json_are_not_parsed():
    head = json.dumps({"inputs": [tensor([16, 4], parameters={"binary_data_size": 256})]}).encode()
    header = {"inference-header-content-length": str(len(head))}
    assert "inference-header-content-length" in ROUTES.header_names
    assert limits(infer(head + b"\x00\xff" * 128, headers=header)) == {"batch_size": 16}
    for value in ("-1", "x", "", "9" * 30, (str(len(head)), str(len(head)))):
        assert limits(infer(head + b"\x00", headers={"inference-header-content-length": value})) == {}


def test_a_large_tensor_is_not_parsed():
    assert limits(infer({"inputs": [tensor([1], [1])], "pad": "x" * MAX_PARSED})) == {}


def test_streams_say_so():
    assert limits(facts("POST", "/v2/models/m/generate_stream")) == {"stream": True}
    assert limits(facts("POST", "/v2/models/m/infer_stream")) == {"stream": True}
    assert limits(grpc(f"{SERVICE}ModelStreamInfer", b"")) == {"stream": True}


def test_batch_size_of_a_message_is_its_tensors_first_dimension():
    def message(*shapes, datatype="FP32", extra=b""):
        tensors = b"".join(
            field(5, field(1, "x") + field(2, datatype) + field(3, b"".join(map(varint, shape))) + extra)
            for shape in shapes
        )
        return grpc(f"{SERVICE}ModelInfer", field(1, "fraud") + tensors + field(7, b"\x00" * 64))

    assert limits(message([8, 4], [16, 1])) == {"batch_size": 16}
    assert limits(message([8, 4], datatype="BYTES")) == {}
    assert limits(message([8, 4], extra=field(3, varint(900)))) == {}
    assert limits(message([(1 << 64) - 1, 4])) == {}
    assert limits(message([0, 4])) == {}
    assert limits(message([])) == {}
    assert limits(message()) == {}
    assert limits(message(*[[1]] * 65)) == {}


LOAD = "/v2/repository/models/fraud/load"
UNLOAD = "/v2/repository/models/fraud/unload"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (LOAD, b"{}", model("deploy_model")),
        (LOAD, b'{"parameters": {}}', model("deploy_model")),
        (LOAD, b'{"parameters": {"config": "{}"}}', model("deploy_model") + model("register_model")),
        (LOAD, b'{"parameters": "x"}', model("deploy_model") + model("register_model")),
        (LOAD, b'{"Parameters": {"config": "{}"}}', "ambiguous_body"),
        (LOAD, b'{"parameters": {}, "parameters": {"config": "{}"}}', "ambiguous_body"),
        (LOAD, b"config", "ambiguous_body"),
        (UNLOAD, b"{}", model("undeploy_model")),
        (
            UNLOAD,
            b'{"parameters": {"unload_dependents": true}}',
            model("undeploy_model") + model("undeploy_model", "*"),
        ),
    ],
)
def test_a_repository_call_with_parameters_needs_more(path, body, expected):
    assert meaning(ROUTES, facts("POST", path, body=body)) == expected


def test_a_repository_call_whose_body_we_were_not_shown_counts_as_one_with_parameters():
    assert meaning(ROUTES, facts("POST", LOAD)) == model("deploy_model") + model("register_model")
    assert meaning(ROUTES, facts("POST", UNLOAD)) == model("undeploy_model") + model("undeploy_model", "*")
    assert meaning(ROUTES, facts("POST", LOAD, headers={"content-length": "0"})) == model("deploy_model")
    assert meaning(ROUTES, facts("POST", LOAD, body=b"{}", partial="true")) == "ambiguous_body"


def test_a_hugging_face_name_passes_where_allowed_unless_a_decoding_server_reads_another_call():
    routes = table("routes: [{name: srv, host: h, protocol: open-inference, encoded_slash: true}]")
    assert meaning(routes, facts("POST", "/v2/models/org%2Fm/infer")) == model("infer", "org/m")
    assert meaning(routes, facts("GET", "/v2/models/org%2Fm/versions/1")) == model("read_metadata", "org/m", "1")
    for path in (
        "/v2/models/fraud%2Fready",
        "/v2/models/fraud%2Fversions%2F1",
        "/v2/models/fraud%2Fversions%2F1/ready",
    ):
        assert meaning(routes, facts("GET", path)) == "ambiguous_path"
    assert meaning(routes, facts("GET", "/v2/models/m/versions/1%2F2")) == "ambiguous_path"
    assert meaning(routes, facts("GET", "/v2/models%2Fm")) == "ambiguous_path"
