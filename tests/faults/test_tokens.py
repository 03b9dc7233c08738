"""The trail's key in a PKCS#11 token (SoftHSM) that is taken away when segments are due, and whose sessions are killed.

`FAULT_ROUNDS=20 pytest tests/faults/test_tokens.py -s` strikes more often.
"""

import os
import random
import signal
import sys

import pytest
import softhsm
from fault_harness import SEED, Installation, kill, rounds
from sidecar_process import wait_until
from sink_servers import HttpRig

ROUNDS = rounds(2)
pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")


@pytest.fixture
def token(tmp_path, monkeypatch):
    made = softhsm.Token(tmp_path)
    made.key("kek")
    made.seen(monkeypatch)
    return made


@pytest.fixture
def made(tmp_path, token):
    (tmp_path / "http").mkdir()
    rigs = {"http": HttpRig(tmp_path / "http")}
    built = Installation(tmp_path, rigs, open_key=token.open("kek"), more={"encryption": {"key": token.uri("kek")}})
    yield built
    built.close()


def judged(made, *, loses):
    made.callers.stop()
    made.until_delivered("http")
    assert made.sidecar.stop() == 0
    made.deliver_rest()
    return made.judge(loses=loses)


@pytest.mark.timeout(300 + 60 * ROUNDS)
def test_a_token_that_is_away_when_segments_are_due_and_comes_back_loses_nothing(made, token, capfd):
    made.start()
    callers = made.ask(pause=0.0)
    for _ in range(ROUNDS):
        callers.more(200)
        token.away()
        callers.more(1200, 240)
        token.back()
        there = len(callers.told)
        wait_until(lambda start=there: any(each.allowed for each in callers.told[start:]), 120, "a trail again")
    found = judged(made, loses=True)
    refused = sum(each.reason == "audit_unavailable" for each in callers.told)
    segments = sum(log.segments for log in found.report.logs)
    assert segments > 3
    with capfd.disabled():
        sys.stdout.write(
            f" {ROUNDS} times away, {segments} segments: {found.told} told, {refused} refused meanwhile,"
            f" {found.gaps} counted, 0 lost"
        )


@pytest.mark.timeout(300 + 60 * ROUNDS)
def test_sessions_and_processes_that_are_killed_lose_nothing(made, capfd):
    rng = random.Random(SEED)
    made.start()
    callers = made.ask(pause=0.0)
    killed = {"session": 0, "worker": 0, "control": 0, "supervisor": 0}
    for _ in range(2 * ROUNDS):
        callers.more(150)
        victim = rng.choice(list(killed))
        killed[victim] += 1
        if victim == "session":
            for pid in sessions(made.sidecar):
                os.kill(pid, signal.SIGKILL)
        else:
            kill(made, victim)
    callers.more(300)
    # A session that ends just as a segment is due is asked again after seconds, in which these callers fill four.
    found = judged(made, loses=True)
    with capfd.disabled():
        sys.stdout.write(f" {killed}: {found.told} told, {found.recorded} on record, {found.gaps} counted, 0 lost")


def sessions(sidecar):
    """Return the processes in which the sidecar's children talk to the token."""
    found = []
    for parent in sidecar.children("ext_authz.server"):
        for task in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{task}/children") as file:
                found += [int(pid) for pid in file.read().split()]
    return found
