"""Sinks that are down, slow, hanging, flapping, refusing and restarted, behind a real sidecar: each gets every event.

`FAULT_ROUNDS=50 pytest tests/faults/test_sinks_that_fail.py -s` fails more often.
"""

import itertools
import random
import signal
import sys
import time

import pytest
from fault_harness import SEED, Installation, rounds
from http_receiver import Reply
from sink_servers import ElasticsearchRig, HttpRig, NatsRig, OtlpRig, RedisRig, SplunkRig, SyslogRig

ROUNDS = rounds(3)
FAILURES = [
    Reply(429, headers={"retry-after": "0"}), Reply(500), Reply(502), Reply(503, headers={"retry-after": "0"}), Reply(408),
    Reply(413), Reply(400), Reply(how="reset"), Reply(how="cut"), Reply(how="garbage"), Reply(how="drip"),
]  # fmt: skip
SPLUNK = [each for each in FAILURES if each.status != 400]
"""HEC says with a 400 which event it is about."""


def flapping(rig, rng, failures):
    """Yield a failure for every third request, now and then after the receiver has kept what it says it has not."""
    for _ in itertools.count():
        failure = rng.choice(failures) if rng.random() < 0.35 else None
        said = failure is not None and failure.status == 200 and failure.how in ("cut", "drip")
        rig.after = said or rng.random() < 0.3
        yield failure


class PartialElasticsearch(ElasticsearchRig):
    """Refuses every ninth document, for now with 429, one of them for good."""

    def __init__(self, folder):
        super().__init__(folder)
        self.rng = random.Random(SEED)
        self.poisoned = None

    def fate(self, id_):
        if self.poisoned is None and ":c" not in id_ and id_ not in self.kept:
            self.poisoned = id_
            self.statuses[id_] = (400, "document_parsing_exception")
        if id_ not in self.kept and id_ != self.poisoned and self.rng.random() < 0.1:
            self.passing[id_] = (429, "es_rejected_execution_exception")
        return super().fate(id_)


@pytest.fixture
def install(tmp_path):
    made = []

    def build(kinds, **options):
        rigs = {}
        for name, kind in kinds.items():
            (tmp_path / name).mkdir()
            rigs[name] = kind(tmp_path / name)
        made.append(Installation(tmp_path, rigs, **options))
        return made[-1]

    yield build
    for each in made:
        each.close()


@pytest.mark.timeout(480 + 10 * ROUNDS)
def test_sinks_that_fail_in_every_way_have_everything_in_the_end(install, capfd):
    rng = random.Random(SEED)
    made = install(
        {
            "flapping": HttpRig, "hanging": HttpRig, "down": HttpRig, "slow": HttpRig, "splunk": SplunkRig,
            "elasticsearch": PartialElasticsearch, "otlp": OtlpRig,
        },
        timeout=1,
    )  # fmt: skip
    rigs = made.rigs
    rigs["flapping"].fault = flapping(rigs["flapping"], rng, FAILURES)
    rigs["splunk"].fault = flapping(rigs["splunk"], rng, SPLUNK)
    rigs["otlp"].fault = flapping(rigs["otlp"], rng, FAILURES)
    rigs["slow"].fault, rigs["slow"].after = itertools.repeat(Reply(how="drip")), True
    rigs["hanging"].fault = itertools.repeat(Reply(how="hang"))
    made.start()
    callers = made.ask()
    for _ in range(ROUNDS):
        rigs["down"].down()
        callers.more(40)
        rigs["down"].up()
        callers.more(40)
    callers.stop()
    assert not rigs["hanging"].received()
    for name in ("flapping", "hanging", "splunk", "otlp"):
        rigs[name].fault, rigs[name].after = itertools.repeat(None), False
    for name in rigs:
        made.until_delivered(name, 150 + 5 * ROUNDS)
    assert made.sidecar.stop() == 0
    made.deliver_rest()
    found = made.judge()
    assert made.refused("elasticsearch") == {rigs["elasticsearch"].poisoned}
    # A receiver that says 400 to a single event has refused that one; all others take everything.
    assert {name for name, count in found.refused.items() if count} <= {"elasticsearch", "flapping", "otlp"}
    with capfd.disabled():
        sys.stdout.write(
            f" {ROUNDS} rounds: {found.told} told, delivered {found.delivered}, refused {found.refused}, 0 lost\n"
        )


@pytest.mark.timeout(480 + 20 * ROUNDS)
@pytest.mark.parametrize("kind", [RedisRig, NatsRig, SyslogRig], ids=lambda kind: kind.program)
def test_a_real_server_killed_and_restarted_again_and_again_has_everything(install, capfd, kind):
    rng = random.Random(SEED)
    made = install({"sink": kind})
    rig = made.rigs["sink"]
    made.start()
    callers = made.ask()
    for number in range(ROUNDS):
        callers.more(20)
        time.sleep(rng.uniform(0.0, 0.3))
        # rsyslog writes what it has read when it is told to end; killed, it may not (nothing acknowledges syslog).
        rig.down(signal.SIGTERM if kind is SyslogRig or number % 2 else signal.SIGKILL)
        callers.more(20)
        rig.up()
    callers.stop()
    made.until_delivered("sink", 150 + 5 * ROUNDS)
    assert made.sidecar.stop() == 0
    made.deliver_rest()
    if kind is SyslogRig:
        made.until_delivered("sink")
    found = made.judge()
    with capfd.disabled():
        sys.stdout.write(
            f" {kind.program}: {ROUNDS} restarts, {found.told} told, delivered {found.delivered}, 0 lost\n"
        )
