"""Traces through a real Envoy as docs/operations.md configures it: whose child a check is, and who decides on sampling."""

import contextlib
import re
from pathlib import Path

import pytest
import yaml
from echo_upstream import grpc_echo, http_echo
from envoy_process import MODELS, Edge, files, settings
from http_receiver import Reply, receiving
from sidecar_process import wait_until

from ext_authz.demo import envoy
from ext_authz.demo.processes import Processes
from ext_authz.demo.run import start_sidecar

pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DOCS = Path(__file__).parents[2] / "docs/operations.md"
SCORE = "/v2/models/fraud/infer"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def documented() -> tuple[dict, dict]:
    """Return what the page says of the connection manager and of the cluster."""
    section = DOCS.read_text().partition("## Traces")[2].partition("\n## ")[0]
    manager, cluster = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    return yaml.safe_load(manager), yaml.safe_load(cluster)


def traced(text: str, port: int, percent: int, *, strangers: bool) -> str:
    """Return a generated configuration with what is documented, the collector elsewhere and another share sampled."""
    bootstrap = yaml.safe_load(text)
    manager, cluster = documented()
    sampler = manager["tracing"]["provider"]["typed_config"]["sampler"]["typed_config"]["wrapped_sampler"]
    sampler["typed_config"]["sampling_percentage"]["numerator"] = percent
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"]["port_value"] = port
    bootstrap["static_resources"]["clusters"].append(cluster)
    for listener in bootstrap["static_resources"]["listeners"]:
        for chain in listener["filter_chains"]:
            found = chain["filters"][0]["typed_config"]
            found |= manager
            if strangers:
                found["early_header_mutation_extensions"][0]["typed_config"]["mutations"].append(
                    {"remove": "traceparent"}
                )
    return yaml.safe_dump(bootstrap, sort_keys=False)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a world whose Envoy and sidecar send their spans to one receiver."""

    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(receiving(lambda _: Reply()))
        made = stack.enter_context(files(tmp_path))
        http, grpc_ = stack.enter_context(http_echo()), stack.enter_context(grpc_echo())
        processes = stack.enter_context(Processes(tmp_path / "logs"))

        def starting(transport: str, percent: int, *, strangers: bool = False) -> tuple[Edge, "Spans"]:
            made.configure(transport)
            made.config.write_text(
                made.config.read_text() + f"tracing: {{url: '{receiver.url}/v1/traces', service_name: sidecar}}\n"
            )
            plain = envoy.generate
            monkeypatch.setattr(
                envoy, "generate", lambda each: traced(plain(each), receiver.port, percent, strangers=strangers)
            )
            sidecar = start_sidecar(processes, made.config, [made.sockets / "0.sock"])
            running = envoy.start(processes, tmp_path, settings(made, http, grpc_, "envoy", timeout="1s"))
            return Edge(running, made, http, grpc_, sidecar), Spans(receiver)

        yield starting


class Spans:
    """What arrived, by the service that sent it."""

    def __init__(self, receiver) -> None:
        self._receiver = receiver

    def of(self, service: str) -> list:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return [
            span
            for posted in list(self._receiver.requests)
            for group in ExportTraceServiceRequest.FromString(posted.body).resource_spans
            for scope in group.scope_spans
            for span in scope.spans
            if any(
                each.key == "service.name" and each.value.string_value == service for each in group.resource.attributes
            )
        ]

    def wait(self, checks: int) -> list:
        """Return the sidecar's spans once there are so many, and Envoy's that they are children of."""
        wait_until(lambda: len(self.of("sidecar")) >= checks, 30, "the sidecar's spans")
        parents = {span.parent_span_id for span in self.of("sidecar")}
        wait_until(lambda: parents <= {span.span_id for span in self.of("envoy")}, 30, "Envoy's spans")
        return self.of("sidecar")


def score(edge: Edge, *, sampled: str = "") -> None:
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-{sampled}"} if sampled else {}
    assert edge.request("POST", MODELS, SCORE, headers, content=b"{}").status_code == 200


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_a_check_is_a_child_of_envoys_call_and_sampling_follows_the_caller(start, transport):
    edge, spans = start(transport, 0)  # of itself Envoy traces nothing
    score(edge)
    score(edge, sampled="00")
    score(edge, sampled="01")
    (check,) = spans.wait(1)
    assert check.trace_id.hex() == TRACE
    by_id = {span.span_id: span for span in spans.of("envoy")}
    call = by_id[check.parent_span_id]
    assert "egress" in call.name, "Envoy's call to the sidecar, not the request itself"
    request = by_id[call.parent_span_id]
    assert request.parent_span_id.hex() == CALLER
    assert {span.trace_id.hex() for span in (call, request)} == {TRACE}
    assert call.start_time_unix_nano <= check.start_time_unix_nano <= check.end_time_unix_nano
    recorded = {each["decision_id"]: each for each in edge.files.events() if "decision_id" in each}
    told = {each.key: each.value.string_value for each in check.attributes}
    assert recorded[told["authz.decision_id"]]["reason"] == told["authz.reason"] == "allowed"
    edge.sidecar.process.terminate()  # which sends what it still has
    edge.sidecar.process.wait(30)
    assert len(spans.of("sidecar")) == 1, "a request that is not sampled, or has no parent, leaves no span"


def test_of_strangers_nobody_decides_but_envoy(start):
    edge, spans = start("grpcio", 100, strangers=True)
    score(edge, sampled="00")
    score(edge, sampled="01")
    score(edge)
    checks = spans.wait(3)
    assert len({span.trace_id for span in checks}) == 3
    assert TRACE not in {span.trace_id.hex() for span in checks}
    assert edge.http.seen
    assert all(TRACE not in value for seen in edge.http.seen for value in seen.all("traceparent"))
