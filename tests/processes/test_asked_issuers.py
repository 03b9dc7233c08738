"""Issuers that are asked and proofs that count once, in a real sidecar of two workers: shared, restarted, observed."""

import json
import os
import re
import signal
import socket

import credentials as made
import grpc
import pytest
from issuer_server import IssuerServer
from metrics_page import metric
from proofs import presented, thumbprint
from running_service import SCORER, write_configuration
from served import POLICIES
from served_asking import OPAQUE, configuration
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request, read_reply

from ext_authz.server.service import METHOD


@pytest.fixture
def issuer():
    server = IssuerServer()
    yield server
    server.close()


@pytest.fixture(params=["grpcio", "native"])
def sidecar(request, tmp_path, issuer):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = configuration(issuer, more=", dpop: if_present, time_limit: 500ms")
    text = re.sub(
        r"server: .*",
        f"server: {{listen: ['unix:{tmp_path}/{{worker}}.sock'], workers: 2, transport: {request.param}}}\n"
        f"admin: {{listen: '127.0.0.1:{port}'}}",
        text,
    )
    write_configuration(tmp_path, configuration=text, policies=POLICIES)
    one = Sidecar(tmp_path / "ext-authz.yaml")
    one.admin = f"http://127.0.0.1:{port}"
    yield one.ready(2)
    one.kill()


def check(sidecar, worker, headers=(), **more):
    message = check_request("POST", "/v2/models/fraud/infer", headers=headers, **more)
    with grpc.insecure_channel(f"unix:{sidecar.folder}/{worker}.sock") as channel:
        return read_reply(channel.unary_unary(METHOD)(message, timeout=20, wait_for_ready=True))


def bearer(text):
    return {"authorization": f"Bearer {text}"}


def test_all_workers_share_an_answer_and_a_proof_and_live_through_outages(sidecar, issuer):
    text = issuer.grant("opaque-1")
    assert check(sidecar, 0, bearer(text)).allowed
    assert check(sidecar, 1, bearer(text)).allowed
    assert issuer.asked == [text]

    bound = issuer.grant("opaque-2", cnf={"jkt": thumbprint(made.ec_key(7))})
    headers = presented(bound)
    assert check(sidecar, 0, headers).allowed
    assert check(sidecar, 1, headers).reason == "token_not_bound"
    for pid in sidecar.children("server.worker"):
        os.kill(pid, signal.SIGKILL)
    # The table outlives the workers, and what the issuer said is in the control process.
    assert wait_reply(sidecar, 1, headers) == "token_not_bound"
    assert wait_reply(sidecar, 0, bearer(text)) == "allowed"
    assert issuer.asked == [text, bound]
    assert check(sidecar, 0, presented(bound)).allowed

    name = f'issuer="{OPAQUE}"'
    wait_until(lambda: metric(sidecar, f'ext_authz_token_questions_total{{{name},result="active"}}') == 2)
    issuer.mode = "slow"
    for number in range(7):
        reply = check(sidecar, 0, bearer(f"unknown-{number}"))
        assert (reply.http_status, reply.reason) == (401, "invalid_token")
    assert check(sidecar, 0, principal=SCORER).allowed
    assert check(sidecar, 1, bearer(text)).allowed
    wait_until(lambda: metric(sidecar, f"ext_authz_token_issuer_left_alone{{{name}}}") == 1)
    assert metric(sidecar, f'ext_authz_token_questions_total{{{name},result="failed"}}') >= 5

    for pid in sidecar.children("server.control"):
        os.kill(pid, signal.SIGKILL)
    issuer.mode = "good"
    assert check(sidecar, 0, bearer(text)).allowed
    fresh = issuer.grant("opaque-3")
    wait_until(lambda: check(sidecar, 1, bearer(fresh)).allowed, 30, "the control process")
    trail = json.dumps(sidecar.events())
    assert "opaque-" not in trail
    assert "unknown-" not in trail
    assert "opaque-" not in sidecar.stderr()
    assert sidecar.stop() == 0


def wait_reply(sidecar, worker, headers):
    found = []

    def served():
        try:
            found.append(check(sidecar, worker, headers))
        except grpc.RpcError:
            return False
        return True

    wait_until(served, 30, "the worker")
    return found[-1].reason
