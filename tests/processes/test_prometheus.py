"""A real Prometheus scrapes a real sidecar over TLS and keeps the traces of its checks as exemplars."""

import json
import socket
import subprocess
import urllib.parse
import urllib.request

import debian
import grpc
import pytest
from http_receiver import Reply, receiving
from running_service import CONFIGURATION, SCORER, write_configuration
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request

from ext_authz.demo.pki import Authority
from ext_authz.server.service import METHOD

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
SCRAPE = """\
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: ext-authz
  scheme: https
  tls_config: {{ca_file: {folder}/pki/ca.pem}}
  static_configs: [{{targets: ["{target}"]}}]
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_prometheus_finds_the_traces_of_checks_by_how_long_they_took(tmp_path):
    program = debian.needed("prometheus")
    Authority(tmp_path / "pki").server("admin")
    with receiving(lambda _: Reply()) as receiver:
        text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
        text += f"server: {{listen: ['unix:{tmp_path}/{{worker}}.sock'], workers: 2}}\n"
        text += "admin: {listen: '127.0.0.1:0', tls: {certificate: pki/admin.pem, private_key: pki/admin.key}}\n"
        text += f"tracing: {{url: '{receiver.url}/v1/traces'}}\n"
        sidecar = Sidecar(write_configuration(tmp_path, configuration=text)).ready(2)
        try:
            for worker in (0, 1):
                with grpc.insecure_channel(f"unix:{tmp_path}/{worker}.sock") as channel:
                    ask = channel.unary_unary(METHOD)
                    message = check_request("POST", "/v2/models/fraud/infer", principal=SCORER)
                    metadata = [("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")]
                    ask(message, timeout=5, wait_for_ready=True, metadata=metadata)
            target = next(line.split()[2] for line in sidecar.lines if "(admin)" in line)
            (tmp_path / "prometheus.yml").write_text(SCRAPE.format(folder=tmp_path, target=target))
            port = free_port()
            command = [
                program.path,
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ]
            with (tmp_path / "prometheus.log").open("wb") as log:
                running = subprocess.Popen(command, stdout=log, stderr=log, env=program.environment)
            try:
                wait_until(lambda: exemplars(port), 60, "an exemplar")
                found = exemplars(port)
            finally:
                running.kill()
                running.wait()
            assert {each["labels"]["trace_id"] for each in found} == {TRACE}
            assert all(0 < float(each["value"]) < 60 for each in found)
        finally:
            sidecar.stop()


def exemplars(port: int) -> list[dict]:
    asked = {"query": "ext_authz_check_duration_seconds_bucket", "start": "0", "end": "4102444800"}
    url = f"http://127.0.0.1:{port}/api/v1/query_exemplars?{urllib.parse.urlencode(asked)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return [one for series in json.load(answer)["data"] for one in series["exemplars"]]
    except OSError:
        return []
