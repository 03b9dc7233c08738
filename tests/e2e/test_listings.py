"""Filtered listings through a real Envoy, its Lua filter and real servers: MLServer, and answers of the other APIs."""

import contextlib
import json

import grpc
import httpx
import pytest
from traffic_edge import MAX_BYTES, fake_server, traffic_edge

from ext_authz.demo import model_server
from ext_authz.demo.processes import Processes, free_ports
from ext_authz.envoy_config.settings import MODEL_SERVER, Upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROUTES = """\
routes:
  - {name: models, host: models.internal, protocol: open-inference}
  - {name: llm, host: llm.internal, protocol: openai}
  - {name: claude, host: claude.internal, protocol: anthropic}
  - {name: ollama, host: ollama.internal, protocol: ollama}
  - {name: v1, host: v1.internal, protocol: kserve-v1}
  - {name: mlflow, host: mlflow.internal, protocol: mlflow}
  - {name: torch, host: torch.internal, protocol: torchserve}
  - {name: kube, host: kube.internal, protocol: kubernetes}
  - {name: ray, host: ray.internal, protocol: ray}
"""
POLICIES = """\
policies:
  - {id: lists, subjects: [{any: true}], resources: [{type: "*"}], actions: [list_models]}
  - {id: fraud_team, subjects: [{role: fraud}], resources: [{type: model, id: [fraud, "fraud-*", llama3, ml/fraud, fraud-runtime]}], actions: [infer, generate]}
  - {id: all, subjects: [{role: admin}], resources: [{type: model}], actions: ["*"]}
  - {id: nobody_sees_fraud_board, effect: deny, actions: [infer, generate, read_metadata], resources: [{type: model, id: fraud-board}]}
"""
HTTP_HOSTS = ("llm", "claude", "ollama", "v1", "mlflow", "torch", "kube", "ray")
SENTINEL = "churn"


KUBE = "/apis/serving.kserve.io/v1beta1/namespaces/ml/inferenceservices"


def isvc(name, namespace="ml"):
    where = {} if namespace is None else {"namespace": namespace}
    return {
        "kind": "InferenceService",
        "metadata": {"name": name, **where, "labels": {"name": "churn"}},
        "spec": {"a": 1},
    }


def row(name):
    return {"cells": [name, "True"], "object": {"kind": "PartialObjectMetadata", "metadata": isvc(name)["metadata"]}}


class World:
    def __init__(self, edge, fake):
        self.edge, self.fake = edge, fake

    def get(self, host, path, role="fraud", method="GET", **rest):
        headers = {"authorization": f"Bearer {self.edge.token(role)}", **rest.pop("headers", {})}
        with self.edge.resolving(), httpx.Client(verify=self.edge.context(), trust_env=False, timeout=20) as client:
            return client.request(method, self.edge.url(host) + path, headers=headers, **rest)

    def answers(self, body, status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.fake.answer = lambda asked: (
            status,
            {name.replace("_", "-"): value for name, value in headers.items()},
            data,
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("listings")
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(Processes(directory / "model-logs"))
        http_port, grpc_port, metrics_port = free_ports(3)
        models = model_server.start(processes, directory / "models", http_port, grpc_port, metrics_port)
        fake = stack.enter_context(fake_server(lambda asked: (404, {}, b"{}")))
        upstreams = (
            Upstream(
                name="models",
                hosts=("models.internal",),
                http=(f"127.0.0.1:{http_port}",),
                grpc=(f"127.0.0.1:{grpc_port}",),
                body_paths=MODEL_SERVER.body_paths,
                grpc_services=MODEL_SERVER.grpc_services,
                grpc_streams=MODEL_SERVER.grpc_streams,
            ),
            *(Upstream(name=name, hosts=(f"{name}.internal",), http=(fake.address,)) for name in HTTP_HOSTS),
        )
        edge = stack.enter_context(traffic_edge(directory / "edge", ROUTES, POLICIES, upstreams))
        model_server.wait(models, http_port)
        yield World(edge, fake)


def test_a_real_mlserver_lists_to_each_caller_what_it_may_use(world):
    mine = world.get("models.internal", "/v2/repository/index", method="POST", json={})
    assert mine.status_code == 200
    assert [each["name"] for each in mine.json()] == ["fraud"]
    assert mine.headers["cache-control"] == "no-store"
    assert int(mine.headers["content-length"]) == len(mine.content)
    everything = world.get("models.internal", "/v2/repository/index", "admin", "POST", json={})
    assert sorted(each["name"] for each in everything.json()) == ["churn", "fraud"]
    assert world.get("models.internal", "/v2/repository/index", "stranger", "POST", json={}).json() == []


def test_a_real_mlserver_lists_by_grpc_what_each_caller_may_use(world):
    from tritonclient.grpc import service_pb2

    def names(role):
        credentials = grpc.ssl_channel_credentials(world.edge.files.authority.certificate.read_bytes())
        options = [("grpc.default_authority", "models.internal"), ("grpc.ssl_target_name_override", "models.internal")]
        with grpc.secure_channel(f"127.0.0.1:{world.edge.port}", credentials, options) as channel:
            index = channel.unary_unary(
                "/inference.GRPCInferenceService/RepositoryIndex",
                request_serializer=service_pb2.RepositoryIndexRequest.SerializeToString,
                response_deserializer=service_pb2.RepositoryIndexResponse.FromString,
            )
            token = (("authorization", f"Bearer {world.edge.token(role)}"),)
            return sorted(
                each.name for each in index(service_pb2.RepositoryIndexRequest(), metadata=token, timeout=20).models
            )

    assert names("fraud") == ["fraud"]
    assert names("admin") == ["churn", "fraud"]
    assert names("stranger") == []


@pytest.mark.parametrize(
    ("host", "path", "body", "kept"),
    [
        ("llm", "/v1/models", {"object": "list", "data": [{"id": "fraud-1", "object": "model"}, {"id": "churn"}, {"id": "fraud-board"}]}, {"object": "list", "data": [{"id": "fraud-1", "object": "model"}]}),
        ("claude", "/v1/models?limit=9", {"data": [{"type": "model", "id": "churn"}, {"type": "model", "id": "fraud"}], "first_id": "churn", "last_id": "fraud", "has_more": False}, {"data": [{"type": "model", "id": "fraud"}], "first_id": None, "last_id": "fraud", "has_more": False}),
        ("ollama", "/api/tags", {"models": [{"name": "llama3:latest", "model": "llama3:latest", "details": {"family": "llama"}}, {"name": "llama3:70b"}, {"name": "churn:latest", "model": "churn:latest"}, {"name": "registry.ollama.ai/library/LLaMA3"}, {"name": "other/llama3"}, {"name": "library/ml/fraud"}, {"name": "ml/fraud"}, {"name": "library/library/llama3"}, {"name": "registry.ollama.ai/llama3"}]}, {"models": [{"name": "llama3:latest", "model": "llama3:latest", "details": {"family": "llama"}}, {"name": "registry.ollama.ai/library/LLaMA3"}, {"name": "ml/fraud"}]}),
        ("v1", "/v1/models", {"models": ["churn", "fraud"]}, {"models": ["fraud"]}),
        ("mlflow", "/api/2.0/mlflow/registered-models/search?max_results=5", {"registered_models": [{"name": "churn", "latest_versions": [{"name": "churn"}]}, {"name": "fraud"}], "next_page_token": "abc"}, {"registered_models": [{"name": "fraud"}], "next_page_token": "abc"}),
        ("mlflow", "/api/2.0/mlflow/model-versions/search", {"model_versions": [{"name": "churn", "version": "1"}, {"name": "fraud", "version": "3"}]}, {"model_versions": [{"name": "fraud", "version": "3"}]}),
        ("mlflow", "/api/2.0/mlflow/registered-models/search", {}, {}),
        ("torch", "/models", {"nextPageToken": "3", "models": [{"modelName": "fraud", "modelUrl": "f.mar"}, {"modelName": "churn", "modelUrl": "c.mar"}]}, {"nextPageToken": "3", "models": [{"modelName": "fraud", "modelUrl": "f.mar"}]}),
        ("ollama", "/api/ps", {"models": None}, {"models": None}),
        ("kube", KUBE, {"kind": "InferenceServiceList", "metadata": {"resourceVersion": "7", "continue": ""}, "items": [isvc("fraud"), isvc("churn"), isvc("fraud", "other"), isvc("fraud", None)]}, {"kind": "InferenceServiceList", "metadata": {"resourceVersion": "7", "continue": ""}, "items": [isvc("fraud"), isvc("fraud", None)]}),
        ("kube", KUBE, {"kind": "Table", "metadata": {"resourceVersion": "7"}, "columnDefinitions": [{"name": "Name", "type": "string"}], "rows": [row("churn"), row("fraud")]}, {"kind": "Table", "metadata": {"resourceVersion": "7"}, "columnDefinitions": [{"name": "Name", "type": "string"}], "rows": [row("fraud")]}),
        ("ray", "/api/serve/applications/", {"controller_info": {"actor_name": "c"}, "proxies": {"n": {"status": "HEALTHY"}}, "deploy_mode": "MULTI_APP", "applications": {"churn": {"name": "churn", "deployments": {}}, "fraud": {"name": "fraud", "deployments": {"d": {"name": "d"}}}}, "target_groups": [{"route_prefix": "/churn", "targets": []}]}, {"controller_info": {"actor_name": "c"}, "proxies": {"n": {"status": "HEALTHY"}}, "deploy_mode": "MULTI_APP", "applications": {"fraud": {"name": "fraud", "deployments": {"d": {"name": "d"}}}}, "target_groups": []}),
    ],
)  # fmt: skip
def test_the_answers_of_the_other_apis_are_filtered_in_their_shapes(world, host, path, body, kept):
    world.answers(body)
    found = world.get(f"{host}.internal", path)
    assert found.status_code == 200, found.text
    assert found.json() == kept


def test_what_is_kept_is_kept_byte_for_byte_and_names_are_compared_decoded(world):
    world.answers(b'{"data": [ {"id":"fr\\u0061ud" , "big": 12345678901234567890.0e1}, {"id":"ch\\u0075rn"}]}')
    assert (
        world.get("llm.internal", "/v1/models").content
        == b'{"data":[{"id":"fr\\u0061ud" , "big": 12345678901234567890.0e1}]}'
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b'"churn"',
        b'{"data":[{"id":"fraud"},{"id":"churn"}]',
        b'{"data":[{"id":"fraud"}]} {"data":[{"id":"churn"}]}',
        b'{"data":[{"id":"fraud","id":"churn"}]}',
        b'{"data":[{"id":"fraud"}],"data":[{"id":"churn"}]}',
        b'{"data":[{"id":"fraud"}],"models":[{"name":"churn"}]}',
        b'{"data":[{"id":"fraud"}],"others":[{"id":"churn"}]}',
        b'{"data":{"churn":1}}',
        b'{"churn":{"id":"churn"}}',
        b'{"data":[{"nick":"churn"}]}',
        b'{"data":[{"id":["churn"]}]}',
        b'{"data":[["churn"]]}',
        b'{"data":[{"id":"fraud\\ud800churn"}]}',
        b'\xef\xbb\xbf{"data":[{"id":"churn"}]}',
        '{"data":[{"id":"churn"}]}'.encode("utf-16"),
        b'{"data":[{"id":"churn"}],}',
        b"{" + b'"a":{' * 60 + b'"churn":1' + b"}" * 61,
        b'{"data":[' + b"[" * 200_000,
    ],
)
def test_an_answer_of_another_shape_is_held_back_whole(world, body):
    world.answers(body)
    found = world.get("llm.internal", "/v1/models")
    assert found.status_code == 502
    assert found.json() == {"error": "the listing could not be filtered"}
    assert SENTINEL not in found.text


@pytest.mark.parametrize(
    ("host", "path", "body"),
    [
        ("kube", KUBE, {"metadata": {"continue": "Y2h1cm4"}, "items": []}),
        ("kube", KUBE, {"metadata": {"managedFields": [{"name": "churn"}]}, "items": []}),
        ("kube", KUBE, {"items": [{"metadata": {"namespace": "ml"}, "name": "churn"}]}),
        ("kube", KUBE, {"items": [{"kind": "churn"}]}),
        ("kube", KUBE, {"items": [], "rows": [row("churn")]}),
        ("kube", KUBE, {"rows": [{"cells": ["churn"]}]}),
        ("kube", KUBE, {"others": [isvc("churn")]}),
        ("kube", KUBE, b'{"items":[{"metadata":{"name":"fraud","namespace":"ml"},"metadata":{"name":"churn"}}]}'),
        ("ray", "/api/serve/applications/", {"applications": [{"name": "churn"}]}),
        ("ray", "/api/serve/applications/", {"applications": {}, "others": {"churn": {}}}),
        ("llm", "/v1/models", {"items": [isvc("churn")]}),
        ("llm", "/v1/models", {"applications": {"churn": {}}}),
    ],
)
def test_a_shape_of_another_server_or_with_names_elsewhere_is_held_back(world, host, path, body):
    world.answers(body)
    found = world.get(f"{host}.internal", path)
    assert found.status_code == 502
    assert SENTINEL not in found.text


def test_a_head_of_a_listing_does_not_tell_how_long_the_whole_list_is(world):
    world.answers({"models": [{"name": "churn"}]}, etag='"all"')
    found = world.get("ollama.internal", "/api/tags", method="HEAD")
    assert found.status_code == 200
    assert world.fake.asked[-1].method == "HEAD"
    assert int(found.headers.get("content-length", 0)) == 0
    assert "etag" not in found.headers


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"content_encoding": "gzip"}),
        (200, {"content_type": "text/html"}),
        (200, {"content_type": "application/x-ndjson"}),
    ],
)
def test_what_cannot_be_read_is_held_back_whole(world, status, headers):
    world.answers({"data": [{"id": "churn"}]}, status, **headers)
    found = world.get("llm.internal", "/v1/models")
    assert found.status_code == 502
    assert SENTINEL not in found.text


def test_a_larger_answer_than_the_filter_reads_is_held_back(world):
    world.answers({"data": [{"id": "fraud-" + "x" * 1000}] * (2 * MAX_BYTES // 1000) + [{"id": "churn"}]})
    found = world.get("llm.internal", "/v1/models")
    assert found.status_code >= 500
    assert SENTINEL not in found.text


def test_an_answer_of_a_thousand_models_is_filtered(world):
    world.answers({"data": [{"id": f"{'fraud' if n % 10 == 0 else 'churn'}-{n}", "n": n} for n in range(5000)]})
    found = world.get("llm.internal", "/v1/models")
    assert found.status_code == 200, found.text
    assert len(found.json()["data"]) == 500


def test_upstreams_are_asked_for_plain_answers_that_no_cache_of_another_caller_can_stand_for(world):
    world.answers({"data": []}, etag='"all"', last_modified="Mon, 01 Jan 2026 00:00:00 GMT")
    asked_with = {"accept-encoding": "gzip", "if-none-match": '"all"', "range": "bytes=0-10"}
    found = world.get("llm.internal", "/v1/models", headers=asked_with)
    asked = world.fake.asked[-1]
    assert not {"accept-encoding", "if-none-match", "range"} & asked.headers.keys()
    assert "etag" not in found.headers
    assert "last-modified" not in found.headers


def test_the_upstream_learns_what_the_caller_may_see_and_cannot_be_told_otherwise(world):
    world.answers({"data": []})
    world.get("llm.internal", "/v1/models", headers={"x-authz-visible": "*"})
    assert world.fake.asked[-1].headers["x-authz-visible"] == "fraud,fraud-*,!fraud-board,llama3,ml/fraud"


def test_an_error_of_the_upstream_and_a_denial_are_left_as_they_are(world):
    world.answers({"error": {"message": "no"}}, 500)
    assert world.get("llm.internal", "/v1/models").json() == {"error": {"message": "no"}}
    denied = world.get("llm.internal", "/v1/models/churn")
    assert denied.status_code == 403
    assert denied.json()["error"]["code"] == "no_policy"


def test_an_answer_that_lists_nothing_is_left_as_it_is(world):
    world.answers(b'{"data":[{"id":"churn"}],"data":[]}')
    assert world.get("llm.internal", "/v1/models/fraud", "admin").content == b'{"data":[{"id":"churn"}],"data":[]}'
