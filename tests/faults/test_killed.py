"""A real sidecar killed at random moments: what callers were told, the trail and every sink's copy stay one.

`KILL_ROUNDS=200 pytest tests/faults/test_killed.py -s` kills more often.
"""

import os
import random
import sys
import time

import debian
import pytest
from fault_harness import SEED, Installation, kill, rounds
from sink_servers import FileRig, HttpRig, RedisRig, Rig

ROUNDS = int(os.environ.get("KILL_ROUNDS", "0")) or rounds(4)


@pytest.mark.timeout(180 + 15 * ROUNDS)
def test_what_was_told_is_the_trail_is_every_copy_however_often_it_is_killed(tmp_path, capfd):
    rng = random.Random(SEED)
    sinks: dict[str, Rig] = {}
    for name, kind in {"file": FileRig, "http": HttpRig, "redis": RedisRig}.items():
        folder = tmp_path / name
        folder.mkdir()
        try:
            debian.find("redis-server")
        except debian.AbsentError:
            if kind is RedisRig:
                continue
        sinks[name] = kind(folder)
    made = Installation(tmp_path, sinks)
    killed = {"worker": 0, "control": 0, "supervisor": 0}
    try:
        made.start()
        callers = made.ask()
        for _ in range(ROUNDS):
            time.sleep(rng.uniform(0.0, 0.4))
            victim = rng.choice(list(killed))
            killed[victim] += 1
            kill(made, victim)
        callers.more(50)
        callers.stop()
        assert made.sidecar.stop() == 0
        made.deliver_rest()
        found = made.judge()
    finally:
        made.close()
    assert found.told > 50
    assert not any(found.refused.values())
    with capfd.disabled():
        sys.stdout.write(
            f" {ROUNDS} rounds {killed}: {found.told} told, {found.recorded} on record, {found.delivered}, 0 lost\n"
        )
