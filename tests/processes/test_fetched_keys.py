"""Keys that an issuer publishes, in a real sidecar: rotation under load, outages, restarts, and what operators see."""

import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest
from key_server import KeyServer
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


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def metric(sidecar, name):
    """Return the metric's value; None while it is not there."""
    found = re.search(rf"^{re.escape(name)}[{{ ].*?([0-9.e+-]+)$", get(f"{sidecar.admin}/metrics")[1], re.M)
    return float(found[1]) if found else None


class Caller:
    def __init__(self, folder, worker=0):
        self.channel = grpc.insecure_channel(f"unix:{folder}/{worker}.sock")
        self.call = self.channel.unary_unary(METHOD)
        self.seconds = 0.0

    def __call__(self, token):
        headers = {"authorization": f"Bearer {token}"}
        message = check_request("POST", "/v2/models/fraud/infer", headers=headers)
        began = time.perf_counter()
        reply = read_reply(self.call(message, timeout=5, wait_for_ready=True))
        self.seconds = time.perf_counter() - began
        return reply


def accepted(folder, issuer):
    caller = Caller(folder)
    wait_until(lambda: caller(issuer.token()).allowed, what="the issuer's keys")
    return caller


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_keys_that_rotate_every_second_refuse_no_valid_token_and_accept_no_retired_one(start, tmp_path, issuer, transport):
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
    assert counts[0] > 50 and counts[1] > 5
    assert len(issuer.requests) < 3 * SECONDS + 10
    sidecar.stop()


def test_smoke(start, tmp_path, issuer):
    sidecar = start()
    accepted(tmp_path, issuer)
    print(get(f"{sidecar.admin}/metrics")[1])
