"""A disk that is full, that fails to sync, a clock that jumps, keys out of reach, a stop with much to deliver.

`FAULT_ROUNDS=20 pytest tests/faults/test_disks.py -s` strikes more often. What a test needs of the machine (a mount
namespace, strace, libfaketime) it fetches or skips without.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import debian
import fake_transit
import orjson
import pytest
from altered import event
from fault_harness import SEED, Installation, kill, rounds
from http_receiver import Reply
from sidecar_process import cli, wait_until
from sink_servers import HttpRig
from trails import run_spool

from ext_authz.audit.signing import FileSigner
from ext_authz.envelope.keys.vault import TransitKey

ROUNDS = rounds(2)


@pytest.fixture
def install(tmp_path):
    with contextlib.ExitStack() as ended:

        def build(**options):
            (tmp_path / "http").mkdir()
            made = Installation(tmp_path, {"http": HttpRig(tmp_path / "http")}, **options)
            ended.callback(made.close)
            return made

        yield build


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 1 MiB in a mount namespace of its own, at `run`; yields how to enter it and its root from outside."""
    (tmp_path / "run").mkdir(mode=0o700)
    enter = ["nsenter", "--mount"] if os.geteuid() == 0 else ["nsenter", "--user", "--preserve-credentials", "--mount"]
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        pytest.skip("util-linux's unshare and nsenter are not there")
    mount = f"mount -t tmpfs -o size=1m,mode=0700 tmpfs {tmp_path}/run && echo ready && exec sleep 600"
    holder = subprocess.Popen([*unshare, "sh", "-c", mount], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip(f"no mount namespace: {holder.stderr.read().strip()}")
        yield [*enter, f"--target={holder.pid}", f"--wd={tmp_path}"], Path(f"/proc/{holder.pid}/root{tmp_path}")
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.timeout(300 + 40 * ROUNDS)
@pytest.mark.parametrize("on_full", ["deny", "drop"])
def test_a_full_disk_denies_or_loses_exactly_what_is_counted(install, small_disk, capfd, on_full):
    prefix, root = small_disk
    made = install(prefix=prefix, root=root, spool={"on_full": on_full})
    ballast = root / "run" / "ballast"
    made.start()
    callers = made.ask()
    for _ in range(ROUNDS):
        callers.more(30)
        free = os.statvfs(root / "run")
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            for _ in range(free.f_bavail):
                file.write(bytes(free.f_frsize))
                file.flush()
        before = len(callers.told)
        callers.more(120)
        if on_full == "deny":
            wait_until(
                lambda start=before: any(each.reason == "audit_unavailable" for each in callers.told[start:]),
                what="a denial for want of a trail",
            )
        ballast.unlink()
        wait_until(lambda: callers.told[-1].allowed or callers.told[-2].allowed, what="an allow")
    callers.more(30)
    callers.stop()
    time.sleep(1.5)  # until a gap is on record
    made.until_delivered("http")
    assert made.sidecar.stop() == 0
    made.deliver_rest()
    found = made.judge(loses=True)
    unrecorded = {each.key for each in callers.told} - recorded(made)
    # What was allowed and is not on record: never under `deny`; under `drop` never where the policy wants the record.
    allowed = [each for each in callers.told if each.allowed and each.key in unrecorded]
    assert found.gaps > 0
    assert on_full == "drop" or not allowed
    with capfd.disabled():
        sys.stdout.write(
            f" {on_full}: {ROUNDS} times full, {found.told} told, {found.gaps} counted as missing, {len(unrecorded)} "
            f"answers not on record, {len(allowed)} of them allows"
        )


def recorded(made):
    events = [orjson.loads(line) for line in made.entries().values()]
    return {(each["decision_id"], each["decision"]) for each in events if "decision_id" in each}


@pytest.mark.timeout(300 + 40 * ROUNDS)
def test_a_disk_that_fails_to_sync_loses_nothing(install, capfd):
    strace = debian.needed("strace")
    made = install()
    (worker,) = made.start().children("server.worker")
    failing = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=4+5"]
    tracer = subprocess.Popen(
        [strace.path, "-f", "-qq", "-o", "/dev/null", *failing, "-p", str(worker)],
        env=strace.environment, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        status = Path(f"/proc/{worker}/status")
        wait_until(lambda: "TracerPid:\t0\n" not in status.read_text() or tracer.poll() is not None, what="strace")
        if tracer.poll() is not None:
            pytest.skip(f"strace cannot trace here: {tracer.stderr.read().decode().strip()}")
        callers = made.ask()
        callers.more(200 * ROUNDS, 60 * ROUNDS + 120)
        callers.stop()
    finally:
        tracer.terminate()
        tracer.communicate()
    made.until_delivered("http")
    assert made.sidecar.stop() == 0
    made.deliver_rest()
    found = made.judge()
    again = sum("a disk failed" in note for log in found.report.logs for note in log.notes)
    assert again, "no segment was ever given up: nothing was shown"
    refused = sum(each.reason == "audit_unavailable" for each in callers.told)
    with capfd.disabled():
        sys.stdout.write(
            f" {again} segments given up after EIO: {found.told} told ({refused} refused), {found.recorded} on record, 0 lost\n"
        )


CLOCK = """\
import sys, time
_real, _ns = time.time, time.time_ns
def _offset():
    if not sys._getframe(2).f_globals.get("__name__", "").startswith("ext_authz"):
        return 0  # grpc counts its deadlines from this clock, and waits by the kernel's
    with open({path!r}) as file:
        return int(file.read())
time.time = lambda: _real() + _offset()
time.time_ns = lambda: _ns() + _offset() * 10**9
"""


@pytest.mark.timeout(300 + 40 * ROUNDS)
def test_a_clock_that_jumps_loses_and_doubles_nothing(install, tmp_path, capfd):
    # libfaketime shifts the sleeps of the monotonic clock too, which no clock that is set does.
    rng = random.Random(SEED)
    clock = tmp_path / "clock"
    clock.write_text("0")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CLOCK.format(path=str(clock)))
    made = install(environment={"PYTHONPATH": f"{tmp_path / 'site'}:{Path(__file__).parents[2]}"})
    made.start()
    callers = made.ask()
    for number in range(3 * ROUNDS):
        callers.more(25)
        jump = rng.choice([-86_400 * 400, -3600, -1, 1, 3600, 86_400 * 400])
        draft = tmp_path / "draft"
        draft.write_text(str(jump))
        draft.replace(clock)
        callers.more(25)
        if number % 3 == 1:
            time.sleep(2)  # a kill right after a jump leaves events that no signature covers, and `verify` says so
            kill(made, rng.choice(["worker", "control", "supervisor"]), at_once=False)
    callers.stop()
    made.until_delivered("http")
    assert made.sidecar.stop() == 0
    made.deliver_rest()
    found = made.judge()
    backwards = sum("the clock went back" in note for log in found.report.logs for note in log.notes)
    with capfd.disabled():
        sys.stdout.write(f" {3 * ROUNDS} jumps ({backwards} backwards on record): {found.told} told, 0 lost\n")


@pytest.mark.timeout(300 + 60 * ROUNDS)
def test_a_key_service_that_is_down_when_segments_are_due_loses_nothing(install, capfd):
    with fake_transit.running() as transit:
        transit.keys["transit", "audit"] = [os.urandom(32)]
        environment = {"VAULT_ADDR": transit.address, "VAULT_TOKEN": fake_transit.TOKEN}
        made = install(
            environment=environment,
            open_key=lambda: TransitKey.connect("transit", "audit", environment),
            more={"encryption": {"key": "vault:audit"}},
        )
        made.start()
        callers = made.ask(pause=0.0)
        for _ in range(ROUNDS):
            callers.more(200)
            transit.answer = (503, {"errors": ["sealed"]})
            callers.more(1200, 240)
            transit.answer = None
            there = len(callers.told)
            wait_until(lambda start=there: any(each.allowed for each in callers.told[start:]), 120, "a trail again")
        callers.stop()
        made.until_delivered("http")
        assert made.sidecar.stop() == 0
        made.deliver_rest()
        found = made.judge(loses=True, command=False)
        refused = sum(each.reason == "audit_unavailable" for each in callers.told)
        segments = sum(log.segments for log in found.report.logs)
    assert segments > 3
    with capfd.disabled():
        sys.stdout.write(
            f" {ROUNDS} outages, {segments} segments: {found.told} told, {refused} refused meanwhile, "
            f"{found.gaps} counted, 0 lost"
        )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sink", ["refusing slowly", "hanging"])
def test_a_stop_with_a_hundred_thousand_events_to_deliver_ends_in_time_and_the_rest_is_delivered_later(
    install, tmp_path, capfd, sink
):
    count = 100_000 if ROUNDS > 2 else 30_000
    made = install(timeout=30)
    rig = made.rigs["http"]
    made.start()
    assert made.sidecar.stop() == 0
    spool = run_spool(tmp_path, "worker-7", signer=FileSigner.load(tmp_path / "audit-signing.key"))
    for _ in range(count):
        spool.append(lambda seq: event(spool.log_id, seq))
    spool.close()
    slow = Reply(how="hang") if sink == "hanging" else Reply(503)
    rig.fault = iter(lambda: (time.sleep(0.5), slow)[1], None)
    sidecar = made.start()
    callers = made.ask()
    callers.more(20)
    callers.stop()
    begun = time.monotonic()
    assert sidecar.stop() == 0
    took = time.monotonic() - begun
    # The limits are the supervisor's: drain + 2 s for the workers, 10 s for the control process.
    assert "did not end in time" not in sidecar.stderr()
    assert not any(":c" not in each and each.startswith("worker-7") for each in rig.received())
    rig.fault = iter(lambda: None, 0)
    made.start()
    made.until_delivered("http")
    assert made.sidecar.stop() == 0
    made.deliver_rest()
    found = made.judge()
    assert found.delivered["http"] > count
    with capfd.disabled():
        sys.stdout.write(
            f" {sink}: {count} pending at SIGTERM, ended after {took:.1f} s, {found.delivered['http']} of "
            f"{len(made.entries())} at the sink after the next start, 0 lost\n"
        )


@pytest.mark.timeout(180 + 120 * ROUNDS)
def test_a_whole_folder_put_back_shows_by_the_sinks_copy_and_the_next_start_goes_on(install, tmp_path, capfd):
    rng = random.Random(SEED)
    made = install()
    rig = made.rigs["http"]
    made.start()
    for number in range(ROUNDS):
        callers = made.ask()
        callers.more(30 + rng.randrange(60))
        time.sleep(rng.uniform(0, 0.5))
        shutil.copytree(made.run / "audit", tmp_path / "old")
        callers.more(60)
        callers.stop()
        time.sleep(1.5)  # until a signature covers it
        assert made.sidecar.stop() == 0
        made.deliver_rest()
        told = {each.key for each in callers.told}
        assert told <= recorded(made)
        shutil.rmtree(made.run / "audit")
        (tmp_path / "old").rename(made.run / "audit")
        gone = told - recorded(made)
        assert gone
        copy = tmp_path / f"copy-{number}.jsonl"
        copy.write_bytes(b"".join(line + b"\n" for line in rig.copy()))
        ran = cli(tmp_path, "audit", "verify", str(made.run / "audit"), "--against", str(copy))
        assert ran.returncode == 4, ran.stdout + ran.stderr
        # Whatever was told is at the sink, and what is recorded from now on is not taken for it.
        at_sink = [orjson.loads(line) for line in rig.copy()]
        assert told <= {(each.get("decision_id"), each.get("decision")) for each in at_sink}
        made.start()
        made.ask().more(30)
        made.callers.stop()
        made.until_delivered("http")
        ran = cli(tmp_path, "audit", "verify", str(made.run / "audit"), "--against", str(copy))
        assert ran.returncode == 4, ran.stdout + ran.stderr
        assert {each.key for each in made.callers.told} <= recorded(made)
    with capfd.disabled():
        sys.stdout.write(
            f" {ROUNDS} folders put back, each shown by the sink's copy, the last with {len(gone)} answers gone\n"
        )
