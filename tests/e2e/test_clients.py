"""Each protocol by its real client library, through a real Envoy, before a real server where one is light enough.

Real servers: MLServer, LitServe (OpenAI), moto (S3, SageMaker). The others are answered from here, and what the client
really sent is what gets mapped. Each client must understand our denial in its own words.
"""

import contextlib
import gc
import json
import ssl
import sys
from pathlib import Path

import pytest
from traffic_edge import fake_server, healthy, traffic_edge

from ext_authz.demo import model_server
from ext_authz.demo.processes import Processes, free_ports
from ext_authz.envoy_config.settings import MODEL_SERVER, Upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
SUPPORT = Path(__file__).parents[1] / "support"

ROUTES = """\
routes:
  - {name: models, host: models.internal, protocol: open-inference}
  - {name: lit, host: lit.internal, protocol: openai}
  - {name: llm, host: llm.internal, protocol: openai, encoded_slash: true}
  - {name: claude, host: claude.internal, protocol: anthropic}
  - {name: ollama, host: ollama.internal, protocol: ollama}
  - {name: mlflow, host: mlflow.internal, protocol: mlflow}
  - {name: s3, host: s3.amazonaws.com, protocol: s3}
  - {name: sagemaker, host: sagemaker.internal, protocol: sagemaker}
  - {name: kube, host: kube.internal, protocol: kubernetes}
  - {name: ray, host: ray.internal, protocol: ray}
"""
POLICIES = """\
policies:
  - id: small_models
    subjects: [{role: user}]
    resources: [{type: model, id: ["small", "org/*", "fraud"]}]
    actions: [infer, generate, embed, tokenize, read_metadata, register_model, update_model]
  - id: short_answers
    effect: deny
    subjects: [{role: user}]
    resources: [{type: model, id: small}]
    actions: [generate]
    conditions: [{cel: "has(request.max_tokens) && request.max_tokens > 1000"}]
  - id: lists
    subjects: [{role: user}]
    resources: [{type: server}, {type: model}]
    actions: [list_models]
  - id: experiments
    subjects: [{role: user}]
    resources: [{type: experiment, id: "7"}, {type: run, id: run7}]
    actions: [write_data, read_data, read_metadata, list_data]
  - id: lake
    subjects: [{role: user}]
    resources: [{type: object, id: "open/*"}, {type: bucket, id: open}]
    actions: [read_data, write_data, delete_data, list_data]
  - id: trains
    subjects: [{role: user}]
    resources: [{type: job, id: ["ml/*", raysubmit_1]}, {type: training_cluster, id: ray}, {type: server, id: ray}]
    actions: [submit_training_job, read_job, read_metadata]
  - id: endpoint
    subjects: [{role: user}]
    resources: [{type: endpoint, id: churn}]
    actions: [infer]
"""
BODIES = ("/",)
MAPPED = ("decision", "reason", "resource_type", "resource_id", "action")


class World:
    def __init__(self, edge, fakes):
        self.edge, self.fakes = edge, fakes

    def mapped(self):
        """Return what the sidecar said of the newest request: decision, reason, type, id, action."""
        said = self.edge.last()
        return tuple(said[name] for name in MAPPED)

    def bearer(self, role="user"):
        return {"authorization": f"Bearer {self.edge.token(role)}"}

    def answers(self, name, *bodies, status=200, content_type="application/json"):
        waiting = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]

        def answer(asked):
            data = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            return status, {"content-type": content_type}, data

        self.fakes[name].answer = answer
        self.fakes[name].asked.clear()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    from moto.server import ThreadedMotoServer

    directory = tmp_path_factory.mktemp("clients")
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(Processes(directory / "server-logs"))
        http_port, grpc_port, metrics_port, lit_port = free_ports(4)
        models = model_server.start(processes, directory / "models", http_port, grpc_port, metrics_port)
        lit = processes.start(
            "litserve", [sys.executable, str(SUPPORT / "llm_server.py"), str(lit_port)], directory=directory
        )
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        stack.callback(moto.stop)
        fakes = {
            name: stack.enter_context(fake_server(lambda asked: (404, {}, b"{}")))
            for name in ("llm", "claude", "ollama", "mlflow", "sagemaker", "kube", "ray")
        }
        upstreams = (
            Upstream(
                name="models", hosts=("models.internal",), http=(f"127.0.0.1:{http_port}",), grpc=(f"127.0.0.1:{grpc_port}",),
                body_paths=MODEL_SERVER.body_paths, grpc_services=MODEL_SERVER.grpc_services, grpc_streams=MODEL_SERVER.grpc_streams,
            ),
            Upstream(name="lit", hosts=("lit.internal",), http=(f"127.0.0.1:{lit_port}",), body_paths=BODIES),
            Upstream(name="s3", hosts=("s3.amazonaws.com",), http=("{}:{}".format(*moto.get_host_and_port()),), body_paths=BODIES),
            *(Upstream(name=name, hosts=(f"{name}.internal",), http=(fake.address,), body_paths=BODIES) for name, fake in fakes.items()),
        )  # fmt: skip
        edge = stack.enter_context(traffic_edge(directory / "edge", ROUTES, POLICIES, upstreams))
        model_server.wait(models, http_port)
        lit.wait_until(lambda: healthy(lit_port), 60)
        yield World(edge, fakes)


@pytest.fixture
def world(running):
    with running.edge.afresh():
        yield running


# --- openai, before LitServe and before recorded answers


@pytest.fixture
def openai_at(world):
    import httpx2
    import openai

    with contextlib.ExitStack() as stack:

        def make(host, role="user"):
            http = stack.enter_context(httpx2.Client(verify=world.edge.context(), trust_env=False))
            return openai.OpenAI(
                base_url=world.edge.url(host) + "/v1",
                api_key=world.edge.token(role),
                http_client=http,
                max_retries=0,
                timeout=20,
            )

        yield make


HELLO = [{"role": "user", "content": "hello"}]


def test_openai_chats_with_litserve(world, openai_at):
    answer = openai_at("lit.internal").chat.completions.create(model="small", messages=HELLO, max_tokens=5)
    assert answer.choices[0].message.content == "this is small"
    assert world.mapped() == ("allow", "allowed", "model", "small", "generate")


def test_openai_streams_from_litserve(world, openai_at):
    parts = list(openai_at("lit.internal").chat.completions.create(model="small", messages=HELLO, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == "this is small"
    assert world.mapped() == ("allow", "allowed", "model", "small", "generate")


def test_openai_embeds_with_litserve(world, openai_at):
    answer = openai_at("lit.internal").embeddings.create(model="small", input=["a", "b"], encoding_format="float")
    assert answer.data[0].embedding
    assert world.mapped() == ("allow", "allowed", "model", "small", "embed")


def test_openai_raises_permission_denied_with_our_sentence(world, openai_at):
    import openai

    with pytest.raises(openai.PermissionDeniedError) as caught:
        openai_at("lit.internal").chat.completions.create(model="large", messages=HELLO)
    assert caught.value.body == {
        "message": "You may not do this.",
        "type": "permission_error",
        "param": None,
        "code": "no_policy",
    }
    assert caught.value.code == "no_policy"
    assert caught.value.response.headers["x-authz-decision-id"]
    assert world.mapped() == ("deny", "no_policy", "model", "large", "generate")


def test_openai_raises_permission_denied_on_a_stream_too(openai_at):
    import openai

    with pytest.raises(openai.PermissionDeniedError):
        openai_at("lit.internal").chat.completions.create(model="large", messages=HELLO, stream=True)


def test_openai_raises_authentication_error_for_a_bad_token(world):
    import httpx2
    import openai

    with httpx2.Client(verify=world.edge.context(), trust_env=False) as http:
        client = openai.OpenAI(
            base_url=world.edge.url("lit.internal") + "/v1", api_key="nonsense", http_client=http, max_retries=0
        )
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model="small", messages=HELLO)
    assert caught.value.type == "authentication_error"


def test_a_limit_on_max_tokens_is_one_condition(world, openai_at):
    import openai

    chat = openai_at("lit.internal").chat.completions
    assert chat.create(model="small", messages=HELLO, max_completion_tokens=1000)
    with pytest.raises(openai.PermissionDeniedError) as caught:
        chat.create(model="small", messages=HELLO, max_completion_tokens=1001)
    assert caught.value.code == "denied_by_policy"


def test_openai_lists_retrieves_and_responds(world, openai_at):
    client = openai_at("llm.internal")
    world.answers(
        "llm",
        {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 1, "owned_by": "x"}
                for name in ("small", "large", "org/tiny")
            ],
        },
    )
    assert [each.id for each in client.models.list()] == ["small", "org/tiny"]
    world.edge.forget()
    world.answers(
        "llm",
        {
            "id": "r1",
            "object": "response",
            "created_at": 1,
            "model": "small",
            "output": [],
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "tools": [],
        },
    )
    assert client.responses.create(model="small", input="hello").id == "r1"
    assert world.mapped() == ("allow", "allowed", "model", "small", "generate")
    assert world.fakes["llm"].asked[-1].json["model"] == "small"


def test_openai_sends_a_form_whose_model_is_read(world, openai_at):
    import openai

    world.answers("llm", {"text": "heard"})
    heard = openai_at("llm.internal").audio.transcriptions.create(model="small", file=("a.wav", b"RIFF0000"))
    assert heard.text == "heard"
    assert world.mapped() == ("allow", "allowed", "model", "small", "generate")
    with pytest.raises(openai.PermissionDeniedError):
        openai_at("llm.internal").audio.transcriptions.create(model="large", file=("a.wav", b"RIFF0000"))
    assert world.mapped()[3] == "large"


def test_envoy_refuses_the_encoded_slash_that_openai_sends_for_a_name_with_one(world, openai_at):
    import openai

    # Our configuration's REJECT_REQUEST; `encoded_slash` needs a listener with KEEP_UNCHANGED (docs/mapping.md).
    with pytest.raises(openai.BadRequestError):
        openai_at("llm.internal").models.retrieve("org/tiny")


def test_an_openai_batch_may_name_any_model(world, openai_at):
    import openai

    with pytest.raises(openai.PermissionDeniedError):
        openai_at("llm.internal").batches.create(
            input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert world.mapped()[2:4] in (("model", "*"), ("file", "file-1"))


# --- anthropic


@pytest.fixture
def claude(world):
    import anthropic
    import httpx2

    with httpx2.Client(verify=world.edge.context(), trust_env=False) as http:
        yield anthropic.Anthropic(
            base_url=world.edge.url("claude.internal"),
            auth_token=world.edge.token("user"),
            http_client=http,
            max_retries=0,
            timeout=20,
        )


def test_anthropic_sends_a_message(world, claude):
    world.answers(
        "claude",
        {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "small",
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        },
    )
    assert claude.messages.create(model="small", max_tokens=9, messages=HELLO).content[0].text == "hi"
    assert world.mapped() == ("allow", "allowed", "model", "small", "generate")


def test_anthropic_raises_permission_denied_with_our_sentence(world, claude):
    import anthropic

    with pytest.raises(anthropic.PermissionDeniedError) as caught:
        claude.messages.create(model="large", max_tokens=9, messages=HELLO)
    assert caught.value.body["error"] == {"type": "permission_error", "message": "You may not do this."}
    assert world.mapped() == ("deny", "no_policy", "model", "large", "generate")


def test_anthropic_counts_tokens_and_every_model_of_a_batch_counts(world, claude):
    import anthropic

    world.answers("claude", {"input_tokens": 3})
    assert claude.messages.count_tokens(model="small", messages=HELLO).input_tokens == 3
    assert world.mapped() == ("allow", "allowed", "model", "small", "tokenize")
    ask = [
        {"custom_id": name, "params": {"model": name, "max_tokens": 9, "messages": HELLO}}
        for name in ("small", "large")
    ]
    with pytest.raises(anthropic.PermissionDeniedError):
        claude.messages.batches.create(requests=ask)
    assert world.mapped() == ("deny", "no_policy", "model", "large", "generate")


def test_anthropic_lists_what_it_may_use(world, claude):
    listed = [
        {"id": name, "type": "model", "display_name": name, "created_at": "2026-01-01T00:00:00Z"}
        for name in ("large", "small")
    ]
    world.answers("claude", {"data": listed, "has_more": False, "first_id": "large", "last_id": "small"})
    assert [each.id for each in claude.models.list()] == ["small"]


# --- ollama


@pytest.fixture
def ollama_client(world):
    import ollama

    client = ollama.Client(
        host=world.edge.url("ollama.internal"),
        headers=world.bearer(),
        verify=world.edge.context(),
        trust_env=False,
        timeout=20,
    )
    yield client
    client._client.close()


def test_ollama_chats_embeds_and_pulls(world, ollama_client):
    world.answers("ollama", {"model": "small", "message": {"role": "assistant", "content": "hi"}, "done": True})
    assert ollama_client.chat(model="small", messages=HELLO).message.content == "hi"
    assert world.mapped() == ("allow", "allowed", "model", "small", "generate")
    world.answers("ollama", {"model": "small", "embeddings": [[0.5]]})
    assert ollama_client.embed(model="SMALL:latest", input="a").embeddings == [[0.5]]
    assert world.mapped() == ("allow", "allowed", "model", "small", "embed")
    world.answers("ollama", {"status": "success"})
    assert ollama_client.pull("small").status == "success"
    assert world.mapped() == ("allow", "allowed", "model", "small", "register_model")


def test_ollama_streams(world, ollama_client):
    lines = b"".join(
        json.dumps({"model": "small", "response": word, "done": word == "b"}).encode() + b"\n" for word in "ab"
    )
    world.answers("ollama", lines, content_type="application/x-ndjson")
    assert [part.response for part in ollama_client.generate(model="small", prompt="x", stream=True)] == ["a", "b"]


def test_ollama_raises_our_sentence(world, ollama_client):
    import ollama

    with pytest.raises(ollama.ResponseError) as caught:
        ollama_client.chat(model="large", messages=HELLO)
    assert (caught.value.status_code, caught.value.error) == (403, "You may not do this.")
    with pytest.raises(ollama.ResponseError):
        ollama_client.delete("small")
    assert world.mapped() == ("deny", "no_policy", "model", "small", "delete_model")


# --- mlflow


@pytest.fixture
def tracking(world, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.utils import request_utils

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", world.edge.token("user"))
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", world.edge.ca)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "*")
    url = world.edge.url("mlflow.internal")
    yield MlflowClient(tracking_uri=url, registry_uri=url)
    # mlflow keeps its sessions for good.
    request_utils._cached_get_request_session.cache_clear()
    gc.collect()


def test_mlflow_reads_and_writes_what_it_may(world, tracking):
    world.answers(
        "mlflow",
        {
            "run": {
                "info": {
                    "run_id": "run7",
                    "run_uuid": "run7",
                    "experiment_id": "7",
                    "status": "RUNNING",
                    "lifecycle_stage": "active",
                },
                "data": {},
            }
        },
    )
    assert tracking.create_run("7").info.run_id == "run7"
    assert world.mapped() == ("allow", "allowed", "experiment", "7", "write_data")
    world.answers("mlflow", {})
    tracking.log_metric("run7", "loss", 0.5)
    assert world.mapped() == ("allow", "allowed", "run", "run7", "write_data")
    world.answers("mlflow", {"registered_model": {"name": "small"}})
    assert tracking.get_registered_model("small").name == "small"
    assert world.mapped() == ("allow", "allowed", "model", "small", "read_metadata")


def test_mlflow_sees_of_the_registry_what_it_may_use(world, tracking):
    world.answers("mlflow", {"registered_models": [{"name": "large"}, {"name": "small"}]})
    assert [each.name for each in tracking.search_registered_models()] == ["small"]
    world.answers("mlflow", {"model_versions": [{"name": name, "version": "1"} for name in ("large", "small")]})
    assert [each.name for each in tracking.search_model_versions()] == ["small"]


def test_mlflow_raises_our_sentence_with_its_own_error_code(world, tracking):
    from mlflow.exceptions import RestException

    world.answers("mlflow", {"registered_model": {"name": "small"}})  # which the client asks for before it deletes
    for call in (
        lambda: tracking.get_registered_model("large"),
        lambda: tracking.delete_registered_model("small"),
        lambda: tracking.create_run("8"),
        lambda: tracking.set_registered_model_alias("small", "champion", "3"),
    ):
        with pytest.raises(RestException) as caught:
            call()
        assert caught.value.error_code == "PERMISSION_DENIED"
        assert "You may not do this." in str(caught.value)


# --- boto3: S3 (moto answers) and SageMaker


@pytest.fixture
def aws(world):
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    def make(service):
        settings = Config(
            signature_version=UNSIGNED, retries={"max_attempts": 1}, proxies={}, s3={"addressing_style": "path"}
        )
        client = boto3.client(
            service,
            endpoint_url=world.edge.url("s3.amazonaws.com" if service == "s3" else "sagemaker.internal"),
            region_name="us-east-1",
            verify=world.edge.ca,
            config=settings,
        )
        client.meta.events.register("before-send", lambda request, **_: request.headers.update(world.bearer()))
        return client

    return make


def test_boto3_writes_lists_reads_and_deletes_what_it_may(world, aws):
    import boto3

    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    direct = boto3.client("s3", endpoint_url=_direct(world), region_name="us-east-1", **keys)
    direct.create_bucket(Bucket="open")
    direct.create_bucket(Bucket="secret")
    direct.put_object(Bucket="secret", Key="k", Body=b"s")
    client = aws("s3")
    client.put_object(Bucket="open", Key="a/b.txt", Body=b"data")
    assert world.mapped() == ("allow", "allowed", "object", "open/a/b.txt", "write_data")
    # Whose request it is, the store has to be told by other means than the caller's signature, which ends here.
    direct.put_object_acl(Bucket="open", Key="a/b.txt", ACL="public-read")
    assert client.get_object(Bucket="open", Key="a/b.txt")["Body"].read() == b"data"
    assert [each["Key"] for each in client.list_objects_v2(Bucket="open")["Contents"]] == ["a/b.txt"]
    client.delete_objects(Bucket="open", Delete={"Objects": [{"Key": "a/b.txt"}]})
    assert "Contents" not in direct.list_objects_v2(Bucket="open")
    world.edge.forget()
    client.put_object(Bucket="open", Key="x", Body=b"")
    assert world.mapped()[3] == "open/x"
    client.delete_objects(Bucket="open", Delete={"Objects": [{"Key": "x"}]})
    assert world.mapped() == ("allow", "allowed", "object", "open/x", "delete_data"), "the key, not the whole bucket"


def test_boto3_raises_access_denied_with_our_sentence(world, aws):
    from botocore.exceptions import ClientError

    client = aws("s3")
    for call in (
        lambda: client.get_object(Bucket="secret", Key="k"),
        lambda: client.list_objects_v2(Bucket="secret"),
        lambda: client.copy_object(Bucket="open", Key="k", CopySource="secret/k"),
        lambda: client.delete_objects(Bucket="secret", Delete={"Objects": [{"Key": "k"}]}),
        lambda: client.delete_bucket(Bucket="open"),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"]["Code"] == "AccessDenied"
        assert caught.value.response["Error"]["Message"] == "You may not do this."


def _direct(world):
    upstream = world.edge.files.directory / "envoy.yaml"
    text = upstream.read_text()
    port = text.split('cluster_name: "s3"')[1].split("port_value: ")[1].split(" ")[0]
    return f"http://127.0.0.1:{port}"


def test_boto3_invokes_an_endpoint(world, aws):
    from botocore.exceptions import ClientError

    client = aws("sagemaker-runtime")
    world.answers("sagemaker", {"predictions": [1]})
    answer = client.invoke_endpoint(EndpointName="churn", Body=b"{}", ContentType="application/json")
    assert json.loads(answer["Body"].read()) == {"predictions": [1]}
    assert world.mapped() == ("allow", "allowed", "endpoint", "churn", "infer")
    with pytest.raises(ClientError) as caught:
        client.invoke_endpoint(EndpointName="fraud", Body=b"{}", ContentType="application/json")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    with pytest.raises(ClientError):
        client.invoke_endpoint(EndpointName="churn", TargetModel="large.tar.gz", Body=b"{}")
    assert world.mapped()[2:4] == ("model", "large.tar.gz")


# --- tritonclient, before MLServer


def _gevent_context(world):
    import gevent.ssl

    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.edge.ca)
    return context


def test_tritonclient_over_http(world):
    import numpy as np
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    headers = {"host": "models.internal", **world.bearer()}
    client = triton.InferenceServerClient(
        f"127.0.0.1:{world.edge.port}", ssl=True, ssl_context_factory=lambda **_: _gevent_context(world)
    )
    try:
        tensor = triton.InferInput("input-0", [1, 4], "FP64")
        tensor.set_data_from_numpy(np.zeros((1, 4)), binary_data=False)
        out = [triton.InferRequestedOutput("predict", binary_data=False)]
        result = client.infer("fraud", [tensor], outputs=out, headers=headers, request_compression_algorithm="gzip")
        assert result.as_numpy("predict") is not None
        assert world.mapped() == ("allow", "allowed", "model", "fraud", "infer")
        with pytest.raises(InferenceServerException) as caught:
            client.infer("churn", [tensor], outputs=out, headers=headers)
        assert caught.value.message() == "You may not do this."
        assert caught.value.status() == "403"
        with pytest.raises(InferenceServerException):
            client.unload_model("fraud", headers=headers)
    finally:
        client.close()


def test_tritonclient_over_grpc(world):
    import numpy as np
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(
        f"127.0.0.1:{world.edge.port}", ssl=True, root_certificates=world.edge.ca,
        channel_args=[("grpc.default_authority", "models.internal"), ("grpc.ssl_target_name_override", "models.internal")],
    )  # fmt: skip
    try:
        tensor = triton.InferInput("input-0", [1, 4], "FP64")
        tensor.set_data_from_numpy(np.zeros((1, 4)))
        assert client.infer("fraud", [tensor], headers=world.bearer()).get_response().model_name == "fraud"
        assert world.mapped() == ("allow", "allowed", "model", "fraud", "infer")
        with pytest.raises(InferenceServerException) as caught:
            client.infer("churn", [tensor], headers=world.bearer())
        assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
        assert caught.value.message() == "You may not do this."
        with pytest.raises(InferenceServerException) as caught:
            client.infer("fraud", [tensor])
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        with pytest.raises(InferenceServerException) as caught:
            client.infer("fraud", [tensor], headers=world.bearer(), compression_algorithm="gzip")
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT", "the name is inside what is compressed"
    finally:
        client.close()


# --- recorded: what the real client libraries of Kubernetes and Ray send (too heavy to install for this)

RECORDED = Path(__file__).parents[1] / "recorded"
ALLOWED, DENIED = ("allow", "allowed"), ("deny", "no_policy")
CALLS = {
    ("kubernetes-client-37.0.2", "kube"): [
        (*ALLOWED, "job", "ml/*", "submit_training_job"),
        (*ALLOWED, "job", "ml/train", "read_job"),
        (*ALLOWED, "job", "ml/*", "read_job"),
        (*DENIED, "job", "ml/train", "cancel_job"),
        (*DENIED, "model", "ml/fraud", "deploy_model"),
        (*ALLOWED, "model", "*", "list_models"),
        (*ALLOWED, "job", "ml/*", "submit_training_job"),
    ],
    ("ray-job-client-2.60.0", "ray"): [
        (*ALLOWED, "server", "ray", "read_metadata"),
        (*ALLOWED, "server", "ray", "read_metadata"),
        (*ALLOWED, "training_cluster", "ray", "submit_training_job"),
        (*ALLOWED, "job", "raysubmit_1", "read_job"),
        (*ALLOWED, "job", "raysubmit_1", "read_job"),
        (*DENIED, "job", "raysubmit_1", "cancel_job"),
        (*DENIED, "job", "raysubmit_1", "delete_data"),
        (*DENIED, "job", "*", "read_job"),
    ],
}


@pytest.mark.parametrize(("recorded", "host"), CALLS)
def test_recorded_clients(world, recorded, host):
    import httpx

    world.answers(host, {"items": []} if host == "kube" else {"models": []})
    requests = json.loads((RECORDED / f"{recorded}.json").read_text())
    wanted = CALLS[recorded, host]
    assert len(requests) == len(wanted)
    with httpx.Client(verify=world.edge.context(), trust_env=False) as client:
        for each, expected in zip(requests, wanted, strict=True):
            headers = {**each["headers"], **world.bearer()}
            client.request(
                each["method"],
                world.edge.url(f"{host}.internal") + each["path"],
                headers=headers,
                content=each["body"].encode("latin-1"),
            )
            assert world.mapped() == expected, each["path"]
