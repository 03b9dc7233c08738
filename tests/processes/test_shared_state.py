"""Two sidecars that share a real Redis: what one is told holds at both, and nothing is forgotten when Redis goes."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time

import jwt
import pytest
from running_service import CONFIGURATION, SCORER, write_configuration
from shared_log import needed_redis
from sidecar_process import Sidecar, wait_until
from sink_servers import NatsRig
from wire_requests import check_request

from ext_authz.audit.reader import Trail
from ext_authz.envelope.keys.file import FileKeys

SHARED = """server: {{listen: ['unix:{folder}/0.sock'], trusted_proxies: [192.0.2.0/24]}}
admin: {{listen: 'unix:{folder}/admin.sock'}}
state: {{backend: redis, url: "{url}", secret_file: ../fleet.secret}}
"""
ISSUER = "{issuer: 'https://idp.example', audiences: [ml], hmac_secret_file: hmac}"


@pytest.fixture
def redis_server(tmp_path):
    with needed_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def fleet(tmp_path, redis_server):
    secret = tmp_path / "fleet.secret"
    secret.write_bytes(secrets.token_bytes(32))
    secret.chmod(0o600)
    started = []

    def start(name, more=""):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
        text = text.replace("  api_keys:", f"  jwt: [{ISSUER}]\n  api_keys:")
        (folder / "hmac").write_text("x" * 40)
        text += SHARED.format(folder=folder, url=redis_server.url) + more
        made = Sidecar(write_configuration(folder, configuration=text))
        started.append(made)
        return made.ready()

    yield start
    for each in started:
        each.kill()


def cli(sidecar, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "ext_authz", *arguments, "-c", str(sidecar.configuration)],
        cwd=sidecar.folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def answer(sidecar):
    message = check_request("POST", "/v2/models/fraud/infer", principal=SCORER)
    return sidecar.check(message, f"unix:{sidecar.folder}/0.sock").reason


def attack(sidecar, models=range(12)):
    for number in models:
        message = check_request("POST", f"/v2/models/m{number}/infer", principal=SCORER)
        sidecar.check(message, f"unix:{sidecar.folder}/0.sock")


def quarantine(sidecar, *arguments):
    done = cli(sidecar, "quarantine", SCORER, *(arguments or ("--for", "10m")), "--reason", "odd")
    assert done.returncode == 0, done.stderr
    return done


def state_events(sidecar):
    return [each for each in sidecar.events() if each["schema"] == "ext_authz.state/1"]


def test_a_quarantine_at_one_host_is_live_at_the_other_within_a_second_and_on_record_once_at_each(fleet):
    a, b = fleet("a"), fleet("b")
    assert (answer(a), answer(b)) == ("allowed", "allowed")
    quarantine(a)
    wait_until(lambda: (answer(a), answer(b)) == ("quarantined", "quarantined"), 1, what="the quarantine")
    quarantine(b, "--withdraw")
    wait_until(lambda: (answer(a), answer(b)) == ("allowed", "allowed"), 1, what="the withdrawal")
    for each in (a, b):
        wait_until(
            lambda each=each: (
                [event["event"] for event in state_events(each)] == ["quarantine_recorded", "quarantine_withdrawn"]
            ),
            what="both changes on record",
        )
    assert [("origin" in event) for event in state_events(a)] == [False, True]


def test_redis_gone_and_back_empty_forgets_nothing_and_delays_nobody_here(fleet, redis_server):
    a, b = fleet("a"), fleet("b")
    quarantine(a)
    wait_until(lambda: answer(b) == "quarantined", 2, what="the quarantine at the other host")
    redis_server.kill()
    for kept in redis_server._folder.iterdir():
        (kept.unlink if kept.is_file() else lambda kept=kept: [each.unlink() for each in kept.iterdir()])()
    done = quarantine(a, "--withdraw")
    assert done.stderr.count("note:") == done.stderr.count("only this host knows") == 1
    wait_until(lambda: answer(a) == "allowed", 1, what="the withdrawal where it was made")
    assert answer(b) == "quarantined"
    c = fleet("c")
    assert answer(c) == "allowed", "a host that never knew starts while Redis is away"
    redis_server.start()
    wait_until(lambda: answer(b) == "allowed", 10, what="the withdrawal at the other host")
    quarantine(b)
    for each in (a, b, c):
        wait_until(lambda each=each: answer(each) == "quarantined", 10, what="agreement")
        wait_until(lambda each=each: len(state_events(each)) == 3, what="each change on record once")


def test_a_dead_control_process_delays_no_change_of_another_host(fleet):
    a, b = fleet("a"), fleet("b")
    (control,) = b.children("server.control")
    os.kill(control, signal.SIGSTOP)
    quarantine(a)
    wait_until(lambda: answer(b) == "quarantined", 1, what="the quarantine")
    os.kill(control, signal.SIGCONT)


def test_a_hanging_redis_slows_no_check_and_no_command_beyond_its_limit(fleet, redis_server):
    a = fleet("a")
    os.kill(redis_server._process.pid, signal.SIGSTOP)
    try:
        done = quarantine(a)
        assert "only this host knows" in done.stderr
        wait_until(lambda: answer(a) == "quarantined", 1, what="the quarantine where it was made")
    finally:
        os.kill(redis_server._process.pid, signal.SIGCONT)


def test_what_was_put_into_redis_without_the_secret_is_not_taken(fleet, redis_server):
    a = fleet("a")
    with redis_server.client() as client:
        record = json.dumps(
            {"kind": "quarantine", "by": "os:eve", "at_ns": 1, "subject": SCORER, "expires_at": 9999999999}
        )
        client.incr("{ext-authz}:last")
        client.xadd("{ext-authz}:changes", {"o": "f" * 32 + ":1", "r": "- " + record}, id="1-0")
    quarantine(a)
    wait_until(lambda: answer(a) == "quarantined", 2, what="a change that has the secret")
    wait_until(lambda: len(state_events(a)) == 1, what="one event")
    assert state_events(a)[0]["record"]["by"] != "os:eve"


@pytest.mark.parametrize(
    ("mode", "content", "what"), [(0o644, b"x" * 32, "others can read it"), (0o600, b"x", "fewer")]
)
def test_a_bad_secret_ends_the_start_with_one_line(tmp_path, redis_server, mode, content, what):
    secret = tmp_path / "fleet.secret"
    secret.write_bytes(content)
    secret.chmod(mode)
    folder = tmp_path / "a"
    folder.mkdir()
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
    text += SHARED.format(folder=folder, url=redis_server.url)
    done = subprocess.run(
        [sys.executable, "-m", "ext_authz", "serve", "-c", str(write_configuration(folder, configuration=text))],
        cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_an_attack_at_one_host_ends_at_the_other_within_two_seconds(fleet):
    """Each watches its own trail; what follows is everybody's, and only who raised a risk lowers it."""
    watched = "monitor: {enumeration: {response: quarantine}}\n"
    a, b = fleet("a", watched), fleet("b", watched)
    attack(a)
    wait_until(lambda: (answer(a), answer(b)) == ("quarantined", "quarantined"), 2, what="the quarantine")
    wait_until(lambda: len(state_events(b)) >= 2, what="both changes on record")
    quarantine(b, "--withdraw")
    wait_until(lambda: (answer(a), answer(b)) == ("allowed", "allowed"), 2, what="the withdrawal")
    wait_until(
        lambda: [each["event"] for each in state_events(b)].count("risk_withdrawn") == 1, what="no risk any more"
    )
    assert len([each for each in a.events() if each["schema"] == "ext_authz.alert/1"]) == 1
    assert [each for each in b.events() if each["schema"] == "ext_authz.alert/1"] == []


def test_half_of_a_distributed_attack_at_each_of_two_hosts_is_told_once_and_locks_nobody_out(fleet):
    """Thirty names failed at each, from sources that try two each: below every limit at one host, above it at two."""
    watched = "monitor: {credential_stuffing: {response: quarantine}}\n"
    a, b = fleet("a", watched), fleet("b", watched)
    secret = "s" * 40
    for number in range(60):
        forged = jwt.encode({"iss": "https://idp.example", "sub": f"user-{number}"}, secret, "HS256")
        headers = {"authorization": f"Bearer {forged}", "x-forwarded-for": f"198.51.{number // 2}.7"}
        message = check_request("POST", "/v2/models/fraud/infer", source="192.0.2.7", principal="", headers=headers)
        host = (a, b)[number % 2]
        assert host.check(message, f"unix:{host.folder}/0.sock").reason == "invalid_token"

    def alerts():
        return [each for host in (a, b) for each in host.events() if each["schema"] == "ext_authz.alert/1"]

    wait_until(alerts, 40, what="the alert")
    time.sleep(8)  # for the other host to learn that it was told, or to tell it again
    (alert,) = alerts()
    assert alert["detector"] == "credential_stuffing"
    assert "at 2 hosts together" in alert["explanation"]
    assert "subject" not in alert
    assert "response" not in alert
    assert state_events(a) == state_events(b) == []


@pytest.fixture
def nats_server(request, tmp_path):
    wanted = request.node.callspec.params["how"] == "nats"
    server = NatsRig(tmp_path) if wanted else None
    yield server
    if server is not None:
        server.close()


@pytest.mark.parametrize("how", ["stream", "file", "nats"])
def test_one_central_monitor_watches_for_sidecars_that_do_not(fleet, redis_server, nats_server, tmp_path, how):
    """What no sidecar sees alone: each is asked for six models that are refused."""
    nats = f"127.0.0.1:{nats_server.port}" if nats_server else ""
    sinks = {
        "nats": f"audit: {{sinks: [{{type: nats, url: 'nats://{nats}', username: u, password: pw}}]}}\n",
        "stream": f"audit: {{sinks: [{{type: redis, url: '{redis_server.url}', stream: fleet}}]}}\n",
        "file": "audit: {sinks: [{type: file, path: events.jsonl}]}\n",
    }[how]
    a, b = fleet("a", sinks), fleet("b", sinks)
    sources = {
        "nats": [f"nats://{nats}?subject=ext-authz.audit"],
        "stream": [f"{redis_server.url}?stream=fleet"],
        "file": [str(each.folder / "events.jsonl") for each in (a, b)],
    }[how]
    wait_until(lambda: how != "file" or all((each.folder / "events.jsonl").exists() for each in (a, b)))
    folder = tmp_path / "central"
    folder.mkdir()
    text = f"run_dir: run\nstate: {{backend: redis, url: '{redis_server.url}', secret_file: ../fleet.secret}}\n"
    text += "monitor: {enumeration: {response: quarantine}}\n"  # no policies: it decides nothing
    central = subprocess.Popen(
        [sys.executable, "-m", "ext_authz", "monitor", *sources, "-c", str(write_configuration(folder, text))],
        cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "EXT_AUTHZ_NATS_USERNAME": "u", "EXT_AUTHZ_NATS_PASSWORD": "pw"},
    )  # fmt: skip
    try:
        assert central.stdout is not None
        assert central.stdout.readline() == "watching\n"
        attack(a, range(6))
        attack(b, range(6, 12))
        wait_until(lambda: (answer(a), answer(b)) == ("quarantined", "quarantined"), 5, what="the quarantine")
        central.send_signal(signal.SIGTERM)
        assert central.wait(30) == 0
    finally:
        central.kill()
        central.wait()
        central.stdout.close()
    keyring = folder / "audit.key"
    told = [each.event for each in Trail([folder / "run"], lambda: FileKeys.load(keyring)).entries()]
    (alert,) = [each for each in told if each["schema"] == "ext_authz.alert/1"]
    known = {each["event_id"] for host in (a, b) for each in host.events()}
    assert set(alert["evidence"]) <= known
