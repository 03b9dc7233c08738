"""A real sidecar killed at random moments: what callers were told, the trail and the sink's copy stay one, and it verifies.

`KILL_ROUNDS=200 pytest tests/processes/test_killed_trails.py` kills more often.
"""

import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import grpc
import orjson
import pytest
from projects import project
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request, read_reply

from ext_authz.audit.anchors import read_anchors
from ext_authz.audit.reader import Trail
from ext_authz.audit.report import Report
from ext_authz.audit.signing import FileSigner
from ext_authz.audit.verify import Verifier
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.server.service import METHOD

ROUNDS = int(os.environ.get("KILL_ROUNDS", "4"))
SEED = int(os.environ.get("KILL_SEED", "20261123"))

CONFIG = """\
server: {{listen: ["unix:{folder}/0.sock"], workers: 1, drain: 2s}}
admin: {{listen: "unix:{folder}/admin.sock"}}
identity: {{unsafe_anonymous: true}}
policies: {{files: [policies.yaml]}}
audit:
  sinks: [{{type: file, path: copy.jsonl}}]
  spool: {{segment_bytes: 64KiB}}
resources:
  routes: [{{host: models.internal, path: "/{{id}}", resource: {{type: dataset, id: "{{id}}"}}, action: read_data}}]
"""
POLICIES = """\
policies:
  - {id: plain, subjects: [{any: true}], resources: [{type: dataset, id: plain}], actions: ["*"]}
  - {id: durable, subjects: [{any: true}], resources: [{type: dataset, id: durable}], actions: ["*"],
     conditions: [{audit_logged: true}]}
"""


class Callers:
    """Ask without pause, also while nobody answers; `told` are the decision ids that were received."""

    def __init__(self, address: str, count: int = 3) -> None:
        self.address = address
        self.told: list[tuple[str, bool]] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(number,), daemon=True) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def ask(self, number: int) -> None:
        paths = ["/plain", "/durable", "/other"]
        while not self.stopping.is_set():
            with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                call = channel.unary_unary(METHOD)
                try:
                    while not self.stopping.is_set():
                        number += 1
                        reply = read_reply(call(check_request(path=paths[number % 3]), timeout=2, wait_for_ready=True))
                        self.told.append((reply.headers["x-authz-decision-id"], reply.allowed))
                        time.sleep(0.003)
                except grpc.RpcError:
                    continue

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def verified(folder: Path, copy: Path | None = None) -> Report:
    keys = [FileSigner.load(folder / "audit-signing.key").key]
    anchors = read_anchors(copy, keys) if copy is not None else None
    return Verifier(
        [folder / "run" / "audit"], lambda: FileKeys.load(folder / "audit.key"), keys, anchors=anchors
    ).run()


@pytest.mark.timeout(120 + 10 * ROUNDS)
def test_what_was_told_is_the_trail_is_the_copy_however_often_it_is_killed(tmp_path, capfd):
    rng = random.Random(SEED)
    configuration = project(tmp_path, CONFIG.format(folder=tmp_path), {"policies.yaml": POLICIES})
    sidecar = Sidecar(configuration)
    callers = None
    killed = {"worker": 0, "control": 0, "supervisor": 0}
    try:
        sidecar.ready()
        callers = Callers(f"unix:{tmp_path}/0.sock")
        for _ in range(ROUNDS):
            time.sleep(rng.uniform(0.0, 0.4))
            victim = rng.choice(list(killed))
            killed[victim] += 1
            if victim == "supervisor":
                children = sidecar.children("ext_authz.server")
                sidecar.kill()
                wait_until(
                    lambda pids=children: not any(os.path.exists(f"/proc/{pid}") for pid in pids), what="the end"
                )
                report = verified(tmp_path)
                assert report.status == 0, [str(each) for each in report.problems]
                sidecar = Sidecar(configuration).ready()
                continue
            old = sidecar.children(f"server.{victim}")
            for pid in old:
                os.kill(pid, signal.SIGKILL)
            wait_until(partial(_replaced, sidecar, victim, old), 30, f"a new {victim}")
            report = verified(tmp_path)
            assert report.status == 0, [str(each) for each in report.problems]
        time.sleep(1)
        callers.stop()
        assert sidecar.stop() == 0
    finally:
        if callers is not None:
            callers.stopping.set()
        sidecar.kill()

    report = verified(tmp_path, tmp_path / "copy.jsonl")
    assert report.status == 0, [str(each) for each in report.problems]
    trail = {entry.event["event_id"]: entry.line for entry in _entries(tmp_path)}
    copy: dict[str, bytes] = {}
    for line in (tmp_path / "copy.jsonl").read_bytes().splitlines():
        event_id = orjson.loads(line)["event_id"]
        assert copy.setdefault(event_id, line) == line
    assert {key: line for key, line in copy.items() if ":c" not in key} == trail
    decided = {}
    for line in trail.values():
        event = orjson.loads(line)
        if event["schema"] == "ext_authz.decision/1":
            decided.setdefault(event["decision_id"], set()).add(event["decision"])
    lost = [decision_id for decision_id, _ in callers.told if decision_id not in decided]
    assert not lost, f"{len(lost)} of {len(callers.told)} answers are not in the trail"
    for decision_id, allowed in callers.told:
        assert ("allow" if allowed else "deny") in decided[decision_id]
    with capfd.disabled():
        sys.stdout.write(f" {ROUNDS} rounds {killed}: {len(callers.told)} told, {len(decided)} on record, 0 lost\n")


def _replaced(sidecar: Sidecar, name: str, old: list[int]) -> bool:
    return sidecar.children(f"server.{name}") not in ([], old)


def _entries(folder: Path):
    found = Trail([folder / "run"], lambda: FileKeys.load(folder / "audit.key"))
    entries = list(found.entries())
    assert found.damaged == 0, found.problems
    assert found.gaps() == []
    return entries
