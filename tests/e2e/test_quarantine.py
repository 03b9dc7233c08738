"""From an attack to its end through real Envoys: a verified caller enumerates models, and every worker refuses it."""

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from echo_upstream import grpc_echo, http_echo
from envoy_process import CALLER, MODELS, POLICIES, Edge, Files, files, settings
from shared_log import needed_redis
from sidecar_process import wait_until

from ext_authz.audit.reader import Trail
from ext_authz.demo import envoy
from ext_authz.demo.processes import Processes
from ext_authz.demo.run import start_sidecar
from ext_authz.envelope.keys.file import FileKeys

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

LIMIT_SECONDS = 2.0
WORKERS = 2
MODELS_OF_AN_ATTACK = 10
"""So many distinct models refused are an enumeration: the last of them completes it."""
ROUND = 20
"""So many calls in a row have reached every worker: Envoy asks them in turn."""
OTHER = "spiffe://ml.example/ns/tests/sa/other"
SCORE = "/v2/models/fraud/infer"
OTHERS_POLICY = """\
  - id: other_infers
    subjects: [{id: "spiffe://ml.example/ns/tests/sa/other"}]
    resources: [{type: model, id: fraud}]
    actions: [infer]
"""
WATCHED = f"monitor: {{enumeration: {{response: quarantine, resources: {MODELS_OF_AN_ATTACK}}}}}\n"


@contextlib.contextmanager
def hosts(folder: Path, transport: str, names: tuple[str, ...], more: str = "") -> Iterator[list[Edge]]:
    """Start for each name a sidecar of two workers and the Envoy before it; all of them see one pair of upstreams."""
    with contextlib.ExitStack() as stack:
        http, grpc_ = stack.enter_context(http_echo()), stack.enter_context(grpc_echo())
        processes = stack.enter_context(Processes(folder / "logs"))
        edges = []
        for name in names:
            made = stack.enter_context(files(folder / name))
            made.configure(transport, workers=WORKERS)
            made.config.write_text(made.config.read_text() + WATCHED + more)
            made.policies.write_text(POLICIES + OTHERS_POLICY)
            sockets = [made.sockets / f"{number}.sock" for number in range(WORKERS)]
            sidecar = start_sidecar(processes, made.config, sockets, name=f"sidecar-{name}")
            before = envoy.start(
                processes,
                made.directory,
                settings(made, http, grpc_, "envoy", workers=WORKERS, timeout="1s"),
                name=f"envoy-{name}",
            )
            edges.append(Edge(before, made, http, grpc_, sidecar))
        yield edges


@dataclass(frozen=True)
class Answer:
    """One answer that Envoy gave, and when it was here."""

    at: float
    status: int
    decision_id: str


class Caller:
    """Asks for the model `fraud` again and again until it is stopped; `answers` in order."""

    def __init__(self, edge: Edge) -> None:
        self.answers: list[Answer] = []
        self._edge, self._end = edge, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._edge.client() as client:
            while not self._end.wait(0.01):
                self.answers.append(ask(client, SCORE))

    def stop(self) -> list[Answer]:
        self._end.set()
        self._thread.join()
        return self.answers


def ask(client: httpx.Client, path: str) -> Answer:
    answer = client.post(path, headers={"host": MODELS}, content=b"{}")
    return Answer(time.monotonic(), answer.status_code, answer.headers.get("x-authz-decision-id", ""))


def refused(answers: Sequence[Answer]) -> bool:
    return len(answers) == ROUND and {each.status for each in answers} == {403}


def as_other(edge: Edge) -> Edge:
    """Return the same Envoy for a caller with a certificate of its own."""
    return replace(edge, files=replace(edge.files, caller=edge.files.authority.client("other", OTHER)))


def events(made: Files) -> list[dict]:
    trail = Trail([made.directory / "run"], lambda: FileKeys.load(made.directory / "audit.key"))
    return [entry.event for entry in trail.entries()]


def decided(made: Files) -> dict[str, tuple[str, str]]:
    """Return reason and worker of every decision on record, by its id."""
    found = (each for each in events(made) if each["schema"] == "ext_authz.decision/1")
    return {
        each["decision_id"]: (each["reason"], each["event_id"].rpartition(":")[0].rsplit("-", 2)[0]) for each in found
    }


def attacked(edges: list[Edge]) -> float:
    """Attack through the first Envoy; return the seconds until every worker of every host refuses the attacker.

    They are counted from before the request that completes the attack to the answer in which the last of the workers
    first gave the quarantine as its reason.
    """
    for edge in edges:
        edge.clear()
        wait_until(lambda edge=edge: edge.request("POST", MODELS, SCORE, content=b"{}").status_code == 200)
    mine, others = [Caller(edge) for edge in edges], [Caller(as_other(edge)) for edge in edges]
    try:
        for each in (*mine, *others):
            wait_until(lambda each=each: len(each.answers) >= 20, what="calls under way")
        with edges[0].client() as client:
            for number in range(MODELS_OF_AN_ATTACK):
                begun = time.monotonic()
                assert ask(client, f"/v2/models/m{number}/infer").status == 403
        for each in mine:
            wait_until(lambda each=each: refused(each.answers[-ROUND:]), what="the quarantine at every worker")
        after = [len(each.answers) for each in (*mine, *others)]
        for each, number in zip((*mine, *others), after, strict=True):
            wait_until(lambda each=each, number=number: len(each.answers) >= number + 40, what="calls after it")
    finally:
        answered = [each.stop() for each in mine]
        served = [each.stop() for each in others]
    took = []
    for edge, answers, number in zip(edges, answered, after, strict=False):
        known = decided(edge.files)
        # Only a refusal tells its caller the decision's id.
        told = [(each, *(known[each.decision_id] if each.status == 403 else ("allowed", ""))) for each in answers]
        assert {reason for each, reason, _ in told if each.status == 403} == {"quarantined"}
        assert {reason for _, reason, _ in told[number:]} == {"quarantined"}, "no worker lets it through again"
        first: dict[str, float] = {}
        for each, reason, worker in told:
            if reason == "quarantined":
                first.setdefault(worker, each.at)
        assert len(first) == WORKERS, "every worker was asked"
        took.append(max(first.values()) - begun)
    assert {each.status for answers in served for each in answers} == {200}, "another caller goes on being served"
    return max(took)


def judged(edges: list[Edge], took: float, capsys: pytest.CaptureFixture[str], what: str) -> None:
    with capsys.disabled():
        print(f"\nfrom the attack's last request to a quarantine at every worker, through Envoy, {what}: {took:.2f} s")  # noqa: T201
    assert took < LIMIT_SECONDS
    for edge in edges:
        wait_until(lambda edge=edge: len(imposed(edge)) == 1, what="the quarantine on record")
        assert imposed(edge)[0]["record"]["subject"] == CALLER
    alerts = [each for edge in edges for each in events(edge.files) if each["schema"] == "ext_authz.alert/1"]
    assert [(each["detector"], each["subject"]) for each in alerts] == [("enumeration", CALLER)]


def imposed(edge: Edge) -> list[dict]:
    changes = [each for each in events(edge.files) if each["schema"] == "ext_authz.state/1"]
    return [each for each in changes if each["record"]["kind"] == "quarantine"]


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_an_attack_ends_in_a_quarantine_at_every_worker_within_two_seconds(transport, tmp_path, capsys):
    with hosts(tmp_path, transport, ("a",)) as edges:
        judged(edges, attacked(edges), capsys, f"one sidecar ({transport})")


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_an_attack_at_one_host_ends_behind_the_envoy_of_another_within_two_seconds(transport, tmp_path, capsys):
    secret = tmp_path / "fleet.secret"
    secret.write_bytes(secrets.token_bytes(32))
    secret.chmod(0o600)
    with needed_redis(tmp_path / "redis") as server:
        shared = f"state: {{backend: redis, url: '{server.url}', secret_file: {secret}}}\n"
        with hosts(tmp_path, transport, ("a", "b"), shared) as edges:
            judged(edges, attacked(edges), capsys, f"two sidecars on one Redis ({transport})")
