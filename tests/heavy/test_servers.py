"""Real MLflow, KServe and Triton behind a real Envoy, called by their real clients."""

import contextlib
import gc
import ssl
from pathlib import Path

import httpx
import pytest
from heavy import library_path, python_of
from traffic_edge import traffic_edge

from ext_authz.demo.processes import Processes, free_ports
from ext_authz.envoy_config.settings import MODEL_SERVER, Upstream

pytestmark = pytest.mark.timeout(300)
SUPPORT = Path(__file__).parents[1] / "support"
POLICIES = """\
policies:
  - {id: fraud, subjects: [{role: user}], resources: [{type: model, id: [fraud, mine]}], actions: [infer, generate, read_metadata, health, register_model, update_model]}
  - {id: lists, subjects: [{role: user}], resources: [{type: "*"}], actions: [list_models, list_data]}
  - {id: work, subjects: [{role: user}], resources: [{type: experiment, id: ["name:mine", "1"]}, {type: run}], actions: [write_data, read_data, read_metadata]}
"""


def up(port, path):
    with httpx.Client(trust_env=False, timeout=5) as client:
        try:
            return client.get(f"http://127.0.0.1:{port}{path}").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    with Processes(tmp_path_factory.mktemp("logs")) as processes:
        yield processes


def edge_before(directory, host, protocol, http, grpc=None):
    upstream = Upstream(
        name="up", hosts=(host,), http=(f"127.0.0.1:{http}",), grpc=(f"127.0.0.1:{grpc}",) if grpc else (), body_paths=("/",),
        grpc_services=MODEL_SERVER.grpc_services if grpc else (), grpc_streams=MODEL_SERVER.grpc_streams if grpc else (),
    )  # fmt: skip
    return traffic_edge(directory, f"routes: [{{name: up, host: {host}, protocol: {protocol}}}]", POLICIES, (upstream,))


def test_mlflow_by_its_client(started, tmp_path, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import RestException
    from mlflow.utils import request_utils

    [port] = free_ports(1)
    command = [
        str(python_of("mlflow")),
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/m.db",
        "--artifacts-destination",
        str(tmp_path / "artifacts"),
    ]
    command += ["--allowed-hosts", "*"]
    child = started.start("mlflow", command, directory=tmp_path)
    child.wait_until(lambda: up(port, "/health"), 120)
    direct = MlflowClient(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}")
    direct.create_registered_model("secret")
    with edge_before(tmp_path / "edge", "mlflow.internal", "mlflow", port) as edge, edge.resolving():
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", edge.token("user"))
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", edge.ca)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        client = MlflowClient(edge.url("mlflow.internal"), edge.url("mlflow.internal"))
        assert client.create_experiment("mine") == "1"
        run = client.create_run("1")
        client.log_metric(run.info.run_id, "loss", 0.5)
        assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}
        client.create_registered_model("mine")
        assert [each.name for each in client.search_registered_models()] == ["mine"]
        assert {each.name for each in direct.search_registered_models()} == {"mine", "secret"}
        assert {each.name for each in client.search_experiments()} == {"mine"}
        for denied in (
            lambda: client.get_registered_model("secret"),
            lambda: client.delete_registered_model("mine"),
            lambda: client.create_experiment("other"),
        ):
            with pytest.raises(RestException) as caught:
                denied()
            assert caught.value.error_code == "PERMISSION_DENIED"
    request_utils._cached_get_request_session.cache_clear()
    gc.collect()


def test_kserve_over_v1_and_v2(started, tmp_path):
    http_port, grpc_port = free_ports(2)
    child = started.start(
        "kserve",
        [str(python_of("kserve")), str(SUPPORT / "kserve_server.py"), str(http_port), str(grpc_port)],
        directory=tmp_path,
    )
    child.wait_until(lambda: up(http_port, "/v1/models/secret"), 120)
    with edge_before(tmp_path / "edge", "v1.internal", "kserve-v1", http_port) as edge, edge.resolving():  # noqa: SIM117
        with httpx.Client(
            verify=edge.context(),
            trust_env=False,
            timeout=20,
            headers={"authorization": f"Bearer {edge.token('user')}"},
        ) as client:
            url = edge.url("v1.internal")
            assert client.post(f"{url}/v1/models/fraud:predict", json={"instances": [1]}).json() == {
                "predictions": ["fraud"]
            }
            denied = client.post(f"{url}/v1/models/secret:predict", json={"instances": [1]})
            assert (denied.status_code, denied.json()) == (403, {"error": "You may not do this."})
            assert client.get(f"{url}/v1/models").json() == {"models": ["fraud"]}
            # Known to reach the model behind: KServe decodes before it routes, and unloads for anybody.
            assert client.post(f"{url}/v1/models/secret%3Apredict", json={"instances": [1]}).status_code in (400, 403)
            assert client.post(f"{url}/v2/repository/models/fraud/unload").status_code == 403
            assert client.get(f"{url}/v1/models/fraud").json()["ready"] in (True, "True")


def test_triton_by_tritonclient(started, tmp_path):
    import gevent.ssl
    import numpy as np
    import tritonclient.grpc as by_grpc
    import tritonclient.http as by_http
    from tritonclient.utils import InferenceServerException

    python = python_of("triton")
    ports = free_ports(3)
    command = [
        "/usr/bin/env",
        f"LD_LIBRARY_PATH={library_path(python)}",
        str(python),
        str(SUPPORT / "triton_server.py"),
        *map(str, ports),
    ]
    started.start("triton", command, directory=tmp_path).wait_until(
        lambda: up(ports[0], "/v2/models/secret/ready"), 120
    )

    def context(edge):
        made = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.load_verify_locations(edge.ca)
        return made

    with edge_before(tmp_path / "edge", "triton.internal", "open-inference", ports[0], ports[1]) as edge:
        bearer = {"authorization": f"Bearer {edge.token('user')}"}
        headers = {"host": "triton.internal", **bearer}
        with contextlib.closing(
            by_http.InferenceServerClient(
                f"127.0.0.1:{edge.port}", ssl=True, ssl_context_factory=lambda **_: context(edge)
            )
        ) as client:
            tensor = by_http.InferInput("x", [1, 1], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
            assert client.infer("fraud", [tensor], headers=headers).as_numpy("who").tolist() == [[b"fraud"]]
            with pytest.raises(InferenceServerException, match="You may not do this"):
                client.infer("secret", [tensor], headers=headers)
            with pytest.raises(InferenceServerException):
                client.get_inference_statistics("fraud", headers=headers)
        options = [("grpc.default_authority", "triton.internal"), ("grpc.ssl_target_name_override", "triton.internal")]
        with contextlib.closing(
            by_grpc.InferenceServerClient(
                f"127.0.0.1:{edge.port}", ssl=True, root_certificates=edge.ca, channel_args=options
            )
        ) as client:
            tensor = by_grpc.InferInput("x", [1, 1], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
            assert client.infer("fraud", [tensor], headers=bearer).as_numpy("who").tolist() == [[b"fraud"]]
            with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                client.infer("secret", [tensor], headers=bearer)
            with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                client.unload_model("fraud", headers=bearer)
