"""Keys that an issuer publishes, in a real sidecar: rotation under load, outages, restarts, and what operators see."""

import os
import re
import signal
import socket
import statistics
import threading
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from key_server import KeyServer
from metrics_page import get, metric
from running_service import CONFIGURATION, POLICIES, SCORER, write_configuration
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request, read_reply

from ext_authz.server.service import METHOD

SECONDS = 30 if os.environ.get("EXT_AUTHZ_LONG_TESTS") else 6
PERSON = "{role: scorer, members: ['spiffe://ml.example/ns/apps/sa/scorer', 'sub:alice']}"


@pytest.fixture
def issuer():
    server = KeyServer()
    yield server
    server.close()


@pytest.fixture
def start(tmp_path, issuer):
    started = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def make(source="", workers=1, transport="auto", more=""):
        entry = f"{{issuer: '{issuer.address}', audiences: [ml-platform], algorithms: [ES256], {source or f'jwks_uri: {issuer.uri!r}'}{more}}}"
        text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
        text = text.replace("  api_keys:", f"  jwt: [{entry}]\n  api_keys:")
        text = re.sub(r"\{role: scorer.*", PERSON, text)
        text += f"server: {{listen: ['unix:{tmp_path}/{{worker}}.sock'], workers: {workers}, transport: {transport}}}\n"
        text += f"admin: {{listen: '127.0.0.1:{port}'}}\n"
        write_configuration(tmp_path, configuration=text, policies=POLICIES)
        made = Sidecar(tmp_path / "ext-authz.yaml")
        made.admin = f"http://127.0.0.1:{port}"
        started.append(made)
        return made.ready(workers)

    yield make
    for each in started:
        each.kill()


class Caller:
    def __init__(self, folder, worker=0):
        self.channel = grpc.insecure_channel(f"unix:{folder}/{worker}.sock")
        self.call = self.channel.unary_unary(METHOD)
        self.seconds = 0.0

    def __call__(self, token):
        headers = {"authorization": f"Bearer {token}"}
        message = check_request("POST", "/v2/models/fraud/infer", headers=headers)
        began = time.perf_counter()
        reply = read_reply(self.call(message, timeout=30, wait_for_ready=True))
        self.seconds = time.perf_counter() - began
        return reply


def accepted(folder, issuer):
    caller = Caller(folder)
    wait_until(lambda: caller(issuer.token()).allowed, what="the issuer's keys")
    return caller


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_keys_that_rotate_every_second_refuse_no_valid_token_and_accept_no_retired_one(
    start, tmp_path, issuer, transport
):
    issuer.max_age = 600
    sidecar = start(transport=transport)
    accepted(tmp_path, issuer)
    wrong, done, counts = [], threading.Event(), [0, 0]

    def call_on():
        caller = Caller(tmp_path)
        while not done.is_set():
            for key in range(len(issuer.keys)):
                # Read before the call: a key that is retired while the call runs may be judged either way.
                kid, token = issuer.keys[key][0], issuer.token(key)
                reply = caller(token)
                counts[0] += 1
                if not reply.allowed and kid in [name for name, _ in issuer.keys]:
                    wrong.append((kid, reply.reason, caller.seconds))

    threads = [threading.Thread(target=call_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    caller = Caller(tmp_path)
    end = time.monotonic() + SECONDS
    retired = []
    while time.monotonic() < end:
        retired.append(issuer.keys[-1])
        issuer.rotate()
        time.sleep(1)
        # The newest key is in use, so the sets that hold the retired ones are gone.
        for key in retired[-3:-1]:
            counts[1] += 1
            if caller(issuer.token(key)).allowed:
                wrong.append((key[0], "accepted"))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert counts[0] > 50
    assert counts[1] > 5
    assert len(issuer.requests) < 3 * SECONDS + 10
    sidecar.stop()


MADE_UP = ("nobody's", ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize("mode", ["down", "500", "html", "10 MB", "slow"])
def test_an_outage_slows_no_check_and_refuses_no_valid_token_and_the_metrics_say_so(start, tmp_path, issuer, mode):
    sidecar = start()
    caller = accepted(tmp_path, issuer)
    before = [seconds(caller, issuer) for _ in range(200)]
    name = f'issuer="{issuer.address}"'
    failed = f'ext_authz_jwks_fetches_total{{{name},result="failed"}}'
    if mode == "down":
        issuer.close()
    else:
        issuer.mode = mode
    others, done = [], threading.Event()

    def guess():
        guesser = Caller(tmp_path)
        while not done.is_set():
            reply = guesser(issuer.token((f"made-up-{len(others)}", MADE_UP[1])))
            others.append((reply.allowed, guesser.seconds))

    thread = threading.Thread(target=guess)
    thread.start()
    during, end = [], time.monotonic() + (SECONDS * 2 if SECONDS > 6 else 3)
    while time.monotonic() < end:
        during.append(seconds(caller, issuer))
        time.sleep(0.002)
    done.set()
    thread.join()
    # The slow answer is given up after its ten seconds.
    wait_until(lambda: metric(sidecar, failed), 20, "the failure in the metrics")
    assert statistics.median(during) < 4 * statistics.median(before) + 0.005
    assert not any(allowed for allowed, _ in others)
    assert sum(waited > 0.1 for _, waited in others) < 20, "an outage makes few made-up keys wait"
    assert metric(sidecar, f"ext_authz_jwks_usable{{{name}}}") == 1
    assert metric(sidecar, f"ext_authz_jwks_age_seconds{{{name}}}") > 2
    assert get(f"{sidecar.admin}/readyz")[0] == 200
    sidecar.stop()


def seconds(caller, issuer):
    assert caller(issuer.token()).allowed
    return caller.seconds


def test_a_start_without_keys_holds_back_no_certificate_and_says_who_is_waited_for(start, tmp_path, issuer):
    issuer.mode = "500"
    sidecar = start()
    caller = Caller(tmp_path)
    certificate = check_request("POST", "/v2/models/fraud/infer", principal=SCORER)
    assert sidecar.check(certificate, f"unix:{tmp_path}/0.sock", timeout=30).allowed
    reply = caller(issuer.token())
    assert (reply.http_status, reply.reason) == (401, "invalid_token")
    event = sidecar.events()[-1]
    assert event["detail"] == "the keys of its issuer have not been fetched yet"
    wait_until(lambda: issuer.address in get(f"{sidecar.admin}/readyz")[1], what="who is waited for")
    assert get(f"{sidecar.admin}/readyz")[0] == 503
    assert metric(sidecar, f'ext_authz_jwks_usable{{issuer="{issuer.address}"}}') == 0
    issuer.mode = "good"
    wait_until(lambda: caller(issuer.token()).allowed, what="the keys")
    wait_until(lambda: get(f"{sidecar.admin}/readyz")[0] == 200, what="readiness")
    sidecar.stop()


def test_a_restart_during_an_outage_goes_on_with_the_last_good_keys(start, tmp_path, issuer):
    sidecar = start()
    accepted(tmp_path, issuer)
    wait_until((tmp_path / "run" / "keys.json").exists, what="the kept keys")
    sidecar.stop()
    issuer.mode = "500"
    sidecar = start()
    assert Caller(tmp_path)(issuer.token()).allowed
    wait_until(lambda: get(f"{sidecar.admin}/readyz")[0] == 200, what="readiness")
    sidecar.stop()


def test_a_worker_that_is_started_again_has_the_keys_before_its_first_check(start, tmp_path, issuer):
    sidecar = start()
    accepted(tmp_path, issuer)
    issuer.mode = "500"
    for what in ("server.control", "server.worker"):
        (process,) = sidecar.children(what)
        os.kill(process, signal.SIGKILL)
        wait_until(lambda: sidecar.children(what) not in ([], [process]), what=f"a new {what}")  # noqa: B023
        replies = [Caller(tmp_path)(issuer.token()) for _ in range(3)]
        assert all(reply.allowed for reply in replies)
    sidecar.stop()


def test_discovery_finds_the_keys_and_every_worker_has_them(start, tmp_path, issuer):
    sidecar = start(source="discovery: true", workers=2)
    accepted(tmp_path, issuer)
    other = Caller(tmp_path, 1)
    wait_until(lambda: other(issuer.token()).allowed, what="the other worker's keys")
    issuer.rotate(keep=1)
    for worker in (0, 1):
        assert Caller(tmp_path, worker)(issuer.token()).allowed
    sidecar.stop()


def test_an_issuer_that_a_reload_adds_is_followed_too(start, tmp_path, issuer):
    sidecar = start()
    accepted(tmp_path, issuer)
    second = KeyServer()
    try:
        file = tmp_path / "ext-authz.yaml"
        entry = f"{{issuer: '{second.address}', audiences: [ml-platform], algorithms: [ES256], jwks_uri: '{second.uri}', subject_prefix: 'b-'}}"
        text = (
            file.read_text()
            .replace("  jwt: [", f"  jwt: [{entry}, ")
            .replace("'sub:alice'", "'sub:alice', 'sub:b-alice'")
        )
        file.write_text(text)
        caller = Caller(tmp_path)
        wait_until(lambda: caller(second.token()).allowed, what="the second issuer's keys")
        assert caller(issuer.token()).allowed
    finally:
        second.close()
    sidecar.stop()
