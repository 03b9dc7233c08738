"""What happens to calls when the sidecar is gone, hangs, loses a worker or is given new policies."""

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import httpx
import pytest
from envoy_process import LAKE, MODEL_INFER, MODELS, POLICIES, infer, running

from ext_authz.demo.envoy import _admin

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]
TRANSPORTS = pytest.mark.parametrize("transport", ["grpcio", "native"])
SCORE = "/v2/models/fraud/infer"
ENVOYS_TIMEOUT = 0.25
PATIENT = "5s"
"""Where a test is not about slowness, a busy machine must not look like an outage."""


def score(edge, *, http2=False):
    started = time.monotonic()
    answer = edge.request("POST", MODELS, SCORE, http2=http2, content=b"{}")
    return answer.status_code, time.monotonic() - started


def eventually(holds, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


@TRANSPORTS
def test_a_sidecar_that_hangs_or_is_gone_denies_and_one_that_is_back_decides(transport, tmp_path):
    with running(tmp_path, transport) as (edge, _):
        eventually(lambda: score(edge)[0] == 200)  # 250 ms are not much where everything has just started
        edge.clear()

        edge.sidecar.signal(signal.SIGSTOP)
        for http2 in (False, True):
            status, seconds = score(edge, http2=http2)
            assert status == 503
            assert seconds < ENVOYS_TIMEOUT + 1.5
        call = edge.call(MODEL_INFER, infer("fraud"))
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        assert edge.http.seen == edge.grpc.seen == []
        edge.sidecar.signal(signal.SIGCONT)
        eventually(lambda: score(edge)[0] == 200)

        edge.clear()
        assert edge.sidecar.stop() == 0
        for http2 in (False, True):
            status, seconds = score(edge, http2=http2)
            assert status in (403, 503)
            assert seconds < 1.5
        assert edge.call(MODEL_INFER, infer("fraud")).code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.PERMISSION_DENIED,
        )
        assert edge.request("GET", LAKE, "/healthz").status_code in (403, 503)
        assert edge.http.seen == edge.grpc.seen == []


@TRANSPORTS
def test_a_check_may_take_all_of_its_time(transport, tmp_path):
    with running(tmp_path, transport, timeout=PATIENT) as (edge, _):
        eventually(lambda: score(edge)[0] == 200)
        edge.sidecar.signal(signal.SIGSTOP)
        wakes = threading.Timer(0.5, edge.sidecar.signal, [signal.SIGCONT])
        wakes.start()
        status, seconds = score(edge)
        wakes.join()
        assert status == 200
        assert seconds > 0.1, "it was asked while the sidecar stood still"


def children(pid: int) -> dict[str, int]:
    """Return the processes that `pid` started, by the module they run."""
    found = {}
    for task in Path("/proc").glob("[0-9]*"):
        try:
            status = (task / "stat").read_text().rpartition(")")[2].split()
            words = (task / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(status[1]) == pid and b"-m" in words:
            module = words[words.index(b"-m") + 1].decode()
            found[f"{module} {words[-2].decode()}"] = int(task.name)
    return found


def running_workers(edge) -> dict[str, int]:
    return {name: pid for name, pid in children(edge.sidecar.process.pid).items() if ".worker " in name}


def asked(edge) -> dict[str, int]:
    """Return how many checks each worker's socket was asked."""
    statuses = json.loads(_admin(edge.envoy.admin, "/clusters?format=json"))["cluster_statuses"]
    hosts = next(each["host_statuses"] for each in statuses if each["name"] == "authz")
    return {
        host["address"]["pipe"]["path"]: next(
            int(stat["value"]) for stat in host["stats"] if stat["name"] == "rq_total"
        )
        for host in hosts
        if "rq_total" in {stat["name"]: stat.get("value", "0") for stat in host["stats"] if "value" in stat}
    }


@TRANSPORTS
def test_two_workers_share_the_checks_and_the_loss_of_one_is_not_noticed(transport, tmp_path):
    with running(tmp_path, transport, workers=2, timeout=PATIENT) as (edge, _), edge.client() as client:

        def many(count: int) -> Counter[int]:
            return Counter(
                client.post(SCORE, headers={"host": MODELS}, content=b"{}").status_code for _ in range(count)
            )

        assert many(40) == {200: 40}, edge.failures()
        shares = asked(edge)
        assert len(shares) == 2
        assert all(share >= 5 for share in shares.values()), shares

        workers = running_workers(edge)
        assert len(workers) == 2
        os.kill(min(workers.values()), signal.SIGKILL)
        outcome = many(100)
        assert outcome[200] >= 95, outcome
        assert set(outcome) <= {200, 503}
        eventually(lambda: many(10) == {200: 10})
        eventually(lambda: len(now := running_workers(edge)) == 2 and now != workers)


class Traffic:
    """One caller that never stops asking; what it was answered, in order."""

    def __init__(self, edge):
        self.statuses: list[int] = []
        self._edge = edge
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with self._edge.client(http2=True) as client:
            while not self._end.is_set():
                try:
                    answer = client.post(SCORE, headers={"host": MODELS}, content=b"{}")
                    self.statuses.append(answer.status_code)
                except httpx.HTTPError:
                    self.statuses.append(0)
                time.sleep(0.002)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()


DENIAL = """\
  - id: nobody_infers
    effect: deny
    actions: [infer]
"""


@TRANSPORTS
def test_new_policies_hold_within_seconds_and_bad_ones_change_nothing(transport, tmp_path):
    with running(tmp_path, transport, timeout=PATIENT) as (edge, _), Traffic(edge) as traffic:
        eventually(lambda: len(traffic.statuses) > 20)

        edge.files.policies.write_text(POLICIES + "  - id: broken\n    actions: [\n")
        os.kill(edge.sidecar.process.pid, signal.SIGHUP)
        before = len(traffic.statuses)
        eventually(lambda: "policies.yaml" in edge.sidecar.tail())
        eventually(lambda: len(traffic.statuses) > before + 50)
        assert set(traffic.statuses) == {200}

        edge.files.policies.write_text(POLICIES + DENIAL)
        eventually(lambda: traffic.statuses[-1] == 403)

        edge.files.policies.write_text(POLICIES)
        os.kill(edge.sidecar.process.pid, signal.SIGHUP)
        eventually(lambda: traffic.statuses[-1] == 200)

        # Every single answer was one of the two; the change was one step each way.
        assert set(traffic.statuses) == {200, 403}, edge.failures()
        changes = sum(a != b for a, b in zip(traffic.statuses, traffic.statuses[1:], strict=False))
        assert changes == 2


@TRANSPORTS
def test_a_bearer_token_is_passed_on_where_that_is_configured_and_an_api_key_never(transport, tmp_path):
    with running(tmp_path, transport, forward=True) as (edge, _):
        token = edge.files.token()
        answer = edge.request("GET", LAKE, "/datasets/clicks/rows", token)
        assert answer.status_code == 200
        assert edge.http.only().all("authorization") == [token["authorization"]]
        edge.clear()
        assert edge.request("POST", MODELS, SCORE, {"x-api-key": "not-a-key"}, content=b"{}").status_code == 401
        assert edge.http.seen == []
        public = {**token, "x-api-key": "not-a-key"}
        assert edge.request("GET", LAKE, "/healthz", public).status_code == 200
        assert edge.http.only().names().isdisjoint({"authorization", "x-api-key"})
