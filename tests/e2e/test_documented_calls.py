"""Protocols whose servers and clients are heavy: the calls that their documentation gives, through a real Envoy.

Where a client library is light it is the one that calls (boto3 for Bedrock), or its recorded requests are sent (Kubeflow
Pipelines); LitServe is a real server. An allowed call must reach the upstream as it was, a denied one must not.
"""

import contextlib
import json
import sys
from pathlib import Path

import grpc
import httpx
import pytest
from traffic_edge import fake_server, healthy, traffic_edge

from ext_authz.demo.processes import Processes, free_ports
from ext_authz.envoy_config.settings import Upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
TESTS = Path(__file__).parents[1]
PROTOCOLS = ("kserve-v1", "tensorflow-serving", "torchserve", "feast", "bentoml", "seldon", "kubeflow-pipelines", "litserve",
             "llama-cpp", "tgi", "gemini", "bedrock")  # fmt: skip
ROUTES = "routes:\n" + "".join(
    f"  - {{name: {name}, host: {name}.internal, protocol: {name}, encoded_slash: {str(name == 'bedrock').lower()}}}\n"
    for name in PROTOCOLS
)
POLICIES = """\
policies:
  - id: mine
    subjects: [{role: user}]
    resources: [{type: model, id: [mine, litserve, llama-cpp, tgi, "name/mine"]}, {type: workflow, id: mine}]
    actions: [infer, generate, embed, explain, tokenize, read_metadata, health]
  - id: features
    subjects: [{role: user}]
    resources: [{type: [feature_view, feature_service, data_source], id: mine}]
    actions: [read_data, write_data]
  - id: pipelines
    subjects: [{role: user}]
    resources: [{type: [job, experiment, pipeline], id: [mine, run1]}, {type: server}]
    actions: [read_job, read_data, cancel_job, health]
"""
ALLOWED, DENIED = ("allow", "allowed"), ("deny", "no_policy")
MAPPED = ("decision", "reason", "resource_type", "resource_id", "action")
JSON = {"content-type": "application/json"}
# The curl lines of the servers' own documentation: host, method, path, headers, body; what must be said of it.
CALLS = [
    ("kserve-v1", "GET", "/v1/models/mine", {}, b"", (*ALLOWED, "model", "mine", "health")),
    ("kserve-v1", "POST", "/v1/models/mine:predict", JSON, b'{"instances": [[6.8, 2.8, 4.8, 1.4]]}', (*ALLOWED, "model", "mine", "infer")),
    ("kserve-v1", "POST", "/v1/models/other:explain", JSON, b'{"instances": [[1]]}', (*DENIED, "model", "other", "explain")),
    ("tensorflow-serving", "POST", "/v1/models/mine:predict", JSON, b'{"instances": [1.0, 2.0, 5.0]}', (*ALLOWED, "model", "mine", "infer")),
    ("tensorflow-serving", "POST", "/v1/models/mine/labels/stable:classify", JSON, b'{"examples": [{"x": 1.0}]}', (*ALLOWED, "model", "mine", "infer")),
    ("tensorflow-serving", "GET", "/v1/models/other/metadata", {}, b"", (*DENIED, "model", "other", "read_metadata")),
    ("torchserve", "POST", "/predictions/mine", {"content-type": "application/x-www-form-urlencoded"}, b"\xff\xd8 a picture", (*ALLOWED, "model", "mine", "infer")),
    ("torchserve", "PUT", "/predictions/mine/1.0", {}, b"\xff\xd8 a picture", (*ALLOWED, "model", "mine", "infer")),
    ("torchserve", "OPTIONS", "/models/mine", {}, b"", (*ALLOWED, "model", "mine", "read_metadata")),
    ("torchserve", "POST", "/models?url=https://example.org/other.mar&model_name=other&initial_workers=1", {}, b"", (*DENIED, "model", "other", "register_model")),
    ("torchserve", "PUT", "/models/mine?min_worker=3", {}, b"", (*DENIED, "model", "mine", "update_model")),
    ("feast", "POST", "/get-online-features", JSON, b'{"features": ["mine:conv_rate", "mine:acc_rate"], "entities": {"driver_id": [1001, 1002]}}', (*ALLOWED, "feature_view", "mine", "read_data")),
    ("feast", "POST", "/get-online-features", JSON, b'{"features": ["mine:a", "other:b"], "entities": {"driver_id": [1]}}', (*DENIED, "feature_view", "other", "read_data")),
    ("feast", "POST", "/push", JSON, b'{"push_source_name": "mine", "df": {"driver_id": [1001], "conv_rate": [1.0]}, "to": "online"}', (*ALLOWED, "data_source", "mine", "write_data")),
    ("bentoml", "POST", "/mine", JSON, b'{"text": "a long text"}', (*ALLOWED, "model", "mine", "infer")),
    ("bentoml", "POST", "/other/submit", JSON, b'{"prompt": "x"}', (*DENIED, "model", "other", "infer")),
    ("seldon", "POST", "/v2/models/mine/infer", {**JSON, "seldon-model": "mine"}, b'{"inputs": [{"name": "predict", "shape": [1, 4], "datatype": "FP32", "data": [[1, 2, 3, 4]]}]}', (*ALLOWED, "model", "mine", "infer")),
    ("seldon", "POST", "/v2/models/other/infer", JSON, b'{"inputs": []}', (*DENIED, "model", "other", "infer")),
    ("llama-cpp", "POST", "/completion", JSON, b'{"prompt": "Building a website can be done in 10 simple steps:","n_predict": 128}', (*ALLOWED, "model", "llama-cpp", "generate")),
    ("llama-cpp", "POST", "/slots/0?action=erase", JSON, b"{}", (*DENIED, "server", "llama-cpp", "admin")),
    ("tgi", "POST", "/generate", JSON, b'{"inputs":"What is Deep Learning?","parameters":{"max_new_tokens":20}}', (*ALLOWED, "model", "tgi", "generate")),
    ("tgi", "POST", "/generate", JSON, b'{"inputs":"x","parameters":{"adapter_id":"other"}}', (*DENIED, "adapter", "tgi/other", "generate")),
    ("gemini", "POST", "/v1beta/models/mine:generateContent", {**JSON, "x-goog-api-key": "x"}, b'{"contents": [{"parts": [{"text": "How does AI work?"}]}]}', (*ALLOWED, "model", "mine", "generate")),
    ("gemini", "POST", "/v1beta/models/other:embedContent", JSON, b'{"content": {"parts": [{"text": "x"}]}}', (*DENIED, "model", "other", "embed")),
]  # fmt: skip


class World:
    def __init__(self, edge, fake, reached):
        self.edge, self.fake, self.reached = edge, fake, reached

    def bearer(self):
        return {"authorization": f"Bearer {self.edge.token('user')}"}

    def mapped(self):
        said = self.edge.last()
        return tuple(said[name] for name in MAPPED)

    def send(self, host, method, path, headers, body):
        """Send as given; return the answer and what the upstream was asked."""
        self.fake.asked.clear()
        with httpx.Client(verify=self.edge.context(), trust_env=False, timeout=20) as client:
            sent = {"accept": "*/*", "user-agent": "curl/8.5.0", **headers, **self.bearer()}
            url = self.edge.url(f"{host}.internal") + path
            return client.request(method, url, headers=sent, content=body), list(self.fake.asked)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    directory = tmp_path_factory.mktemp("documented")
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(Processes(directory / "server-logs"))
        [port] = free_ports(1)
        command = [sys.executable, str(TESTS / "support" / "llm_server.py"), str(port), "predict"]
        lit = processes.start("litserve", command, directory=directory)
        fake = stack.enter_context(fake_server(lambda asked: (200, {"content-type": "application/json"}, b"{}")))
        calls = []
        upstream = stack.enter_context(_tensorflow_serving(calls))
        upstreams = tuple(
            Upstream(
                name=name,
                hosts=(f"{name}.internal",),
                http=(f"127.0.0.1:{port}" if name == "litserve" else fake.address,),
                grpc=(upstream,) if name == "tensorflow-serving" else (),
                body_paths=("/",),
                grpc_services=("tensorflow.serving.PredictionService",) if name == "tensorflow-serving" else (),
            )
            for name in PROTOCOLS
        )
        edge = stack.enter_context(traffic_edge(directory / "edge", ROUTES, POLICIES, upstreams))
        lit.wait_until(lambda: healthy(port), 60)
        yield World(edge, fake, calls)


@contextlib.contextmanager
def _tensorflow_serving(calls):
    """Stand in for the server: take every gRPC call as bytes and answer an empty message."""
    from concurrent.futures import ThreadPoolExecutor

    class Any(grpc.GenericRpcHandler):
        def service(self, details):
            def answer(request, context):
                calls.append((details.method, request))
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=(Any(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def world(running):
    with running.edge.afresh():
        yield running


@pytest.mark.parametrize("call", CALLS, ids=[f"{each[0]} {each[1]} {each[2]}" for each in CALLS])
def test_a_documented_call(world, call):
    *sent, expected = call
    answer, asked = world.send(*sent)
    assert world.mapped() == expected
    if expected[0] == "allow":
        assert answer.status_code == 200
        [reached] = asked
        assert [reached.method, reached.path, reached.body] == [sent[1], sent[2], sent[4]]
    else:
        assert answer.status_code == 403
        assert "You may not do this." in answer.text
        assert not asked


RECORDED = [
    (*ALLOWED, "server", "kubeflow-pipelines", "health"),
    (*DENIED, "experiment", "*", "list_data"),
    (*ALLOWED, "experiment", "mine", "read_data"),
    (*DENIED, "job", "*", "submit_training_job"),
    (*ALLOWED, "job", "run1", "read_job"),
    (*ALLOWED, "job", "run1", "cancel_job"),
    (*DENIED, "job", "daily", "cancel_job"),
    (*DENIED, "pipeline", "*", "list_data"),
    (*DENIED, "pipeline", "*", "read_data"),
    (*DENIED, "pipeline", "p1", "delete_data"),
    (*DENIED, "pipeline", "*", "write_data"),
]


def test_what_the_client_of_kubeflow_pipelines_sends(world):
    requests = json.loads((TESTS / "recorded" / "kfp-server-api-2.17.3.json").read_text())
    for each, expected in zip(requests, RECORDED, strict=True):
        answer, asked = world.send(
            "kubeflow-pipelines", each["method"], each["path"], each["headers"], each["body"].encode("latin-1")
        )
        assert world.mapped() == expected, each["path"]
        assert (answer.status_code, len(asked)) == ((200, 1) if expected[0] == "allow" else (403, 0))


def test_a_real_litserve_predicts(world):
    answer, _ = world.send("litserve", "POST", "/predict", JSON, b'{"input": 4.0}')
    assert answer.json() == {"output": 16.0}
    assert world.mapped() == (*ALLOWED, "model", "litserve", "infer")
    answer, _ = world.send("litserve", "GET", "/info", {}, b"")
    assert answer.status_code == 403
    assert world.mapped() == (*DENIED, "server", "litserve", "read_metadata")
    answer, _ = world.send("litserve", "GET", "/health", {}, b"")
    assert answer.text == "ok"


def test_boto3_converses_with_bedrock(world):
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import ClientError

    client = boto3.client(
        "bedrock-runtime",
        endpoint_url=world.edge.url("bedrock.internal"),
        region_name="us-east-1",
        verify=world.edge.ca,
        config=Config(signature_version=UNSIGNED, retries={"max_attempts": 1}, proxies={}),
    )
    client.meta.events.register("before-send", lambda request, **_: request.headers.update(world.bearer()))
    answer = {"output": {"message": {"role": "assistant", "content": [{"text": "hi"}]}}, "stopReason": "end_turn"}
    world.fake.answer = lambda asked: (200, {"content-type": "application/json"}, json.dumps(answer).encode())
    hello = [{"role": "user", "content": [{"text": "hello"}]}]
    try:
        found = client.converse(modelId="mine", messages=hello)
        assert found["output"]["message"]["content"][0]["text"] == "hi"
        assert world.mapped() == (*ALLOWED, "model", "mine", "generate")
        with pytest.raises(ClientError) as caught:
            client.converse(modelId="other", messages=hello)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert world.mapped() == (*DENIED, "model", "other", "generate")
    finally:
        world.fake.answer = lambda asked: (200, {"content-type": "application/json"}, b"{}")


def test_a_tensorflow_serving_call_by_grpc(world):
    def predict(model):
        # PredictRequest{model_spec{name}}, as the generated stubs write it.
        message = bytes([0x0A, len(model) + 2, 0x0A, len(model)]) + model.encode()
        options = [("grpc.default_authority", "tensorflow-serving.internal"),
                   ("grpc.ssl_target_name_override", "tensorflow-serving.internal")]  # fmt: skip
        credentials = grpc.ssl_channel_credentials(Path(world.edge.ca).read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{world.edge.port}", credentials, options) as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            return call(message, metadata=tuple(world.bearer().items()), timeout=20)

    assert predict("mine") == b""
    assert world.mapped() == (*ALLOWED, "model", "mine", "infer")
    assert world.reached == [("/tensorflow.serving.PredictionService/Predict", b"\x0a\x06\x0a\x04mine")]
    with pytest.raises(grpc.RpcError) as caught:
        predict("other")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "You may not do this."
    assert world.mapped() == (*DENIED, "model", "other", "infer")
    assert len(world.reached) == 1
