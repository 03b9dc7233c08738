"""The trail of a real server: its keys, what is in its files, and what a flood or a kill does to it."""

import concurrent.futures
import contextlib
import os
import signal
import stat
import subprocess
import sys

import grpc
import pytest
from running_service import CONFIGURATION, SCORER, write_configuration
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request, read_reply

from ext_authz.audit.trail import segments
from ext_authz.server.service import METHOD


def configure(folder, audit="", workers=1):
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
    text += (
        f"server: {{listen: ['unix:{folder}/{{worker}}.sock'], workers: {workers}, trusted_proxies: [192.0.2.0/24]}}\n"
    )
    text += f"admin: {{listen: 'unix:{folder}/admin.sock'}}\n{audit}"
    return write_configuration(folder, configuration=text)


@pytest.fixture
def start(tmp_path):
    started = []

    def make(audit="", workers=1):
        made = Sidecar(configure(tmp_path, audit, workers))
        started.append(made)
        return made.ready(workers)

    yield make
    for each in started:
        each.kill()


def address(folder):
    return f"unix:{folder}/0.sock"


def infer(principal=SCORER, path="/v2/models/fraud/infer", **more):
    return check_request("POST", path, principal=principal, **more)


def cli(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "ext_authz", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


def many(folder, messages):
    """Ask over one connection, as Envoy does; return the replies in order."""
    with grpc.insecure_channel(address(folder), options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(METHOD)
        return [read_reply(each.result()) for each in [call.future(message, timeout=30) for message in messages]]


def decisions(sidecar):
    return [event for event in sidecar.events() if event["schema"] == "ext_authz.decision/1"]


def test_the_first_start_makes_the_keys_and_warns_and_later_ones_read_on(start, tmp_path):
    sidecar = start()
    for name in ("audit.key", "audit-signing.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    made = (tmp_path / "audit.key").read_bytes()
    assert sidecar.stderr().count("that protects copies of the trail") == 1
    assert sidecar.check(infer(), address(tmp_path)).allowed
    sidecar.stop()
    written = b"".join(path.read_bytes() for path in (tmp_path / "run" / "audit").iterdir() if path.is_file())
    for secret in (b"scorer", b"fraud", b"decision", b"infer"):
        assert secret not in written
    again = start()
    assert again.check(infer(), address(tmp_path)).allowed
    again.stop()
    assert (tmp_path / "audit.key").read_bytes() == made
    assert again.stderr().count("that protects copies of the trail") == 2
    assert len(decisions(again)) == 2
    assert len({each.log_id for each in segments(tmp_path / "run" / "audit")}) == 4
    seen = cli(tmp_path, "audit", "cat", "--decision", "allow")
    assert (seen.returncode, len(seen.stdout.splitlines()), seen.stderr) == (0, 2, "")


def test_a_trail_whose_key_is_gone_is_not_gone_on_with_under_another(start, tmp_path):
    start().stop()
    (tmp_path / "audit.key").rename(tmp_path / "elsewhere.key")
    ran = cli(tmp_path, "serve")
    assert ran.returncode == 2
    assert "is missing, and the trail in" in ran.stderr
    assert not (tmp_path / "audit.key").exists()
    assert cli(tmp_path, "audit", "cat").returncode == 3
    assert cli(tmp_path, "audit", "cat", "--key", "file:elsewhere.key").returncode == 0


def test_a_worker_killed_at_any_moment_loses_nothing_it_answered(start, tmp_path):
    sidecar = start()
    answered = set()
    for _ in range(3):
        with (
            grpc.insecure_channel(address(tmp_path), options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
            concurrent.futures.ThreadPoolExecutor(1) as pool,
        ):
            call = channel.unary_unary(METHOD)
            channel.unary_unary(METHOD)(infer(), timeout=15, wait_for_ready=True)
            asked = [call.future(infer(), timeout=30) for _ in range(400)]
            wait_until(lambda asked=asked: sum(each.done() for each in asked) > 20)
            (worker,) = sidecar.children("ext_authz.server.worker")
            pool.submit(os.kill, worker, signal.SIGKILL)
            for each in asked:
                with contextlib.suppress(grpc.RpcError):
                    answered.add(read_reply(each.result()).headers["x-authz-decision-id"])
        wait_until(lambda worker=worker: sidecar.children("ext_authz.server.worker") not in ([], [worker]))
    sidecar.stop()
    events = decisions(sidecar)
    ids = [event["decision_id"] for event in events]
    assert answered <= set(ids)
    assert len(ids) == len(set(ids))
    by_log: dict[str, list[int]] = {}
    for event in sidecar.events():
        by_log.setdefault(event["event_id"].rpartition(":")[0], []).append(event["seq"])
    assert all(numbers == list(range(len(numbers))) for numbers in by_log.values())


def test_a_flood_of_strangers_neither_fills_the_trail_nor_denies_others_nor_goes_uncounted(start, tmp_path):
    sidecar = start(audit="audit: {spool: {max_bytes: 1MiB, segment_bytes: 256KiB}}\n")
    flood = [infer(principal="", source=f"198.51.100.{number % 4}") for number in range(500)]
    asked = 0
    for _ in range(5):
        replies = many(tmp_path, flood)
        assert {reply.http_status for reply in replies} == {401}
        asked += len(replies)
    assert sidecar.check(infer(), address(tmp_path)).allowed
    size = sum(each.path.stat().st_size for each in segments(tmp_path / "run" / "audit"))
    assert 0.7 * 2**20 < size < 2**20
    sidecar.stop()
    events = decisions(sidecar)
    assert any("coalesced" in event for event in events)
    assert sum(event.get("coalesced", 1) for event in events if event["decision"] == "deny") == asked
    assert [event["decision"] for event in events].count("allow") == 1
    assert not any(event["schema"] == "ext_authz.gap/1" for event in sidecar.events())


@pytest.mark.parametrize("on_full", ["deny", "drop"])
def test_a_full_trail_denies_or_answers_as_it_is_told_to(start, tmp_path, on_full):
    sidecar = start(audit=f"audit: {{spool: {{max_bytes: 1MiB, on_full: {on_full}}}}}\n")
    told = [reply for _ in range(5) for reply in many(tmp_path, [infer() for _ in range(400)])]
    assert {reply.http_status for reply in told} == ({200, 503} if on_full == "deny" else {200})
    sidecar.stop()
    recorded = len(decisions(sidecar))
    assert 500 < recorded < len(told)
    if on_full == "deny":
        assert recorded == sum(reply.allowed for reply in told)


def test_what_is_to_be_erased_never_reaches_the_disk(start, tmp_path):
    sidecar = start(audit="audit: {redact: [/context/path, /subject/roles, /nothing]}\n")
    assert sidecar.check(infer(), address(tmp_path)).allowed
    sidecar.stop()
    (event,) = decisions(sidecar)
    assert "path" not in event["context"]
    assert "roles" not in event["subject"]
    assert event["erased"] == ["/context/path", "/subject/roles"]
