"""Spans of checks, through a real sidecar to a receiver that reads them with OpenTelemetry's own messages."""

import grpc
import pytest
from http_receiver import Reply, receiving
from running_service import CONFIGURATION, DEPLOYER, SCORER, write_configuration
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request, read_reply

from ext_authz.server.service import METHOD

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
CALLER = "00-11111111111111111111111111111111-2222222222222222-01"
pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


@pytest.fixture(params=["grpcio", "native"])
def transport(request):
    return request.param


def start(folder, transport, url):
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
    text += f"server: {{listen: ['unix:{folder}/{{worker}}.sock'], transport: {transport}}}\n"
    text += f"admin: {{listen: 'unix:{folder}/admin.sock'}}\n"
    text += f"tracing: {{url: '{url}/v1/traces', service_name: pdp, headers: {{x-tenant: t}}}}\n"
    return Sidecar(write_configuration(folder, configuration=text)).ready()


def spans(receiver):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found = []
    for each in list(receiver.requests):
        for group in ExportTraceServiceRequest.FromString(each.body).resource_spans:
            assert {one.key: one.value.string_value for one in group.resource.attributes}["service.name"] == "pdp"
            found += [span for scope in group.scope_spans for span in scope.spans]
    return found


def attributes(span):
    return {each.key: each.value.string_value for each in span.attributes}


def ask(folder, message, *traceparents):
    metadata = [("traceparent", each) for each in traceparents]
    with grpc.insecure_channel(f"unix:{folder}/0.sock") as channel:
        return read_reply(channel.unary_unary(METHOD)(message, timeout=5, wait_for_ready=True, metadata=metadata))


def infer(principal=SCORER, **options):
    return check_request("POST", "/v2/models/fraud/infer", principal=principal, **options)


def load():
    headers = {"content-type": "application/json", "content-length": "2"}
    return check_request("POST", "/v2/repository/models/m/load", principal=DEPLOYER, headers=headers, body=b"{}")


def test_a_check_is_a_child_of_envoys_span_and_not_of_the_callers(tmp_path, transport):
    with receiving(lambda _: Reply()) as receiver:
        sidecar = start(tmp_path, transport, receiver.url)
        try:
            assert ask(tmp_path, infer(headers={"traceparent": CALLER}), PARENT).allowed
            assert ask(tmp_path, infer(headers={"traceparent": CALLER})).allowed  # Envoy does not trace this one
            assert ask(tmp_path, infer(), PARENT[:-1] + "0").allowed  # not sampled
            assert ask(tmp_path, infer(), "00-" + "0" * 32 + f"-{SPAN}-01").allowed
            assert not ask(tmp_path, infer(principal=DEPLOYER), PARENT).allowed
            assert ask(tmp_path, load(), PARENT).allowed  # waits for the disk
            wait_until(lambda: len(spans(receiver)) >= 3, what="the spans")
            sidecar.stop()
        finally:
            sidecar.kill()
        found = spans(receiver)
        assert len(found) == 3
        assert {each.trace_id.hex() for each in found} == {TRACE}
        assert {each.parent_span_id.hex() for each in found} == {SPAN}
        assert len({each.span_id for each in found}) == 3
        assert all(each.start_time_unix_nano <= each.end_time_unix_nano for each in found)
        by_reason = sorted((attributes(each)["authz.reason"], attributes(each)["authz.decision"]) for each in found)
        assert by_reason == [("allowed", "allow"), ("allowed", "allow"), ("no_policy", "deny")]
        assert [each.links[0].trace_id.hex() for each in found if each.links] == ["1" * 32]
        recorded = {each["decision_id"]: each for each in sidecar.events() if each["schema"] == "ext_authz.decision/1"}
        for each in found:
            told = attributes(each)
            assert recorded[told["authz.decision_id"]]["policy_revision"] == told["authz.policy.revision"]
            assert recorded[told["authz.decision_id"]]["reason"] == told["authz.reason"]
        assert all(each.headers["x-tenant"] == "t" for each in receiver.requests)


def test_a_collector_that_is_down_holds_up_no_check_and_no_end(tmp_path, transport):
    sidecar = start(tmp_path, transport, "http://127.0.0.1:9")
    try:
        for _ in range(20):
            assert ask(tmp_path, infer(), PARENT).allowed
        assert sidecar.stop() == 0
    finally:
        sidecar.kill()
    decisions = [each for each in sidecar.events() if each["schema"] == "ext_authz.decision/1"]
    assert len(decisions) == 20
