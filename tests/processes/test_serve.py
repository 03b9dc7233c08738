"""The process tree: what dies is started again, what is broken is not loaded, nothing recorded is lost."""

import contextlib
import os
import signal
import socket
import time
import urllib.request

import pytest
from running_service import CONFIGURATION, DEPLOYER, POLICIES, SCORER, write_configuration
from sidecar_process import Sidecar, cli, wait_until
from wire_requests import check_request

LISTEN = "server: {{listen: ['unix:{folder}/{{worker}}.sock'], workers: {workers}, transport: {transport}, trusted_proxies: [192.0.2.0/24]}}\n"


def configure(folder, workers=1, transport="auto", admin="", policies=POLICIES):
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
    text += LISTEN.format(folder=folder, workers=workers, transport=transport)
    text += f"admin: {{listen: '{admin or f'unix:{folder}/admin.sock'}'}}\n"
    return write_configuration(folder, configuration=text, policies=policies)


@pytest.fixture
def start(tmp_path):
    started = []

    def make(**options):
        made = Sidecar(configure(tmp_path, **options))
        started.append(made)
        return made.ready(options.get("workers", 1))

    yield make
    for each in started:
        each.kill()


def infer(model="fraud"):
    return check_request("POST", f"/v2/models/{model}/infer", principal=SCORER)


def load():
    headers = {"content-type": "application/json", "content-length": "2"}
    return check_request("POST", "/v2/repository/models/m/load", principal=DEPLOYER, headers=headers, body=b"{}")


def test_no_process_leaves_a_core_file_whatever_it_was_started_under(tmp_path):
    prefix = ["sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh"]
    sidecar = Sidecar(configure(tmp_path), prefix=prefix)
    try:
        sidecar.ready()
        for pid in (sidecar.process.pid, *sidecar.children("ext_authz.server")):
            with open(f"/proc/{pid}/limits") as file:
                limit = next(line.split() for line in file if line.startswith("Max core file size"))
            assert limit[4:6] == ["0", "0"]
    finally:
        sidecar.kill()


def address(folder, worker=0):
    return f"unix:{folder}/{worker}.sock"


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_it_starts_answers_drains_and_leaves_no_process(start, tmp_path, transport):
    sidecar = start(transport=transport)
    assert sidecar.listening() == [f"listening on {address(tmp_path)} (worker-0, {transport})"]
    assert sidecar.check(infer(), address(tmp_path)).allowed
    children = sidecar.children("ext_authz.server")
    assert len(children) == 2
    assert sidecar.stop() == 0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children)
    assert not (tmp_path / "0.sock").exists()
    lifecycle = [event["event"] for event in sidecar.events() if event["schema"] == "ext_authz.lifecycle/1"]
    assert lifecycle.count("log_started") == 2
    assert [each for each in lifecycle if each != "log_started"] == ["start", "stop"]


def test_each_of_two_workers_answers_at_its_own_socket(start, tmp_path):
    sidecar = start(workers=2)
    for worker in (0, 1):
        assert sidecar.check(infer(), address(tmp_path, worker)).allowed
    sidecar.stop()
    writers = {
        event["event_id"].split("-2")[0] for event in sidecar.events() if event["schema"] == "ext_authz.decision/1"
    }
    assert writers == {"worker-0", "worker-1"}


def test_a_killed_worker_is_started_again_and_its_events_stay(start, tmp_path):
    sidecar = start()
    told = [sidecar.check(infer(), address(tmp_path)).headers["x-authz-decision-id"] for _ in range(20)]
    (worker,) = sidecar.children("server.worker")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: sidecar.children("server.worker") not in ([], [worker]), what="a new worker")
    reply = sidecar.check(infer(), address(tmp_path), timeout=20)
    assert reply.allowed
    told.append(reply.headers["x-authz-decision-id"])
    recorded = [event["decision_id"] for event in sidecar.events() if event["schema"] == "ext_authz.decision/1"]
    assert sorted(recorded) == sorted(told)


def test_decisions_go_on_while_the_control_process_is_dead(start, tmp_path):
    sidecar = start()
    (control,) = sidecar.children("server.control")
    os.kill(control, signal.SIGSTOP)
    assert all(sidecar.check(infer(), address(tmp_path)).allowed for _ in range(5))
    os.kill(control, signal.SIGKILL)
    assert sidecar.check(infer(), address(tmp_path)).allowed
    wait_until(lambda: sidecar.children("server.control") not in ([], [control]), what="a new control process")


def test_without_its_supervisor_nothing_goes_on_unseen(start, tmp_path):
    sidecar = start()
    children = sidecar.children("ext_authz.server")
    os.kill(sidecar.process.pid, signal.SIGKILL)
    wait_until(lambda: not any(_alive(pid) for pid in children), what="the end of the children")


def test_a_ctrl_c_at_any_moment_ends_it_without_a_traceback(tmp_path):
    configuration = configure(tmp_path)
    for pause in (0.3, 0.8, 1.3):
        sidecar = Sidecar(configuration)
        time.sleep(pause)
        os.killpg(sidecar.process.pid, signal.SIGINT)
        sidecar.process.wait(30)
        sidecar.kill()
        assert "Traceback" not in sidecar.stderr()


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("by", ["signal", "file"])
def test_a_changed_policy_is_in_force_soon_and_a_broken_one_never(start, tmp_path, by):
    sidecar = start()
    policies = tmp_path / "policies.yaml"

    def write(text):
        policies.write_text(text)
        if by == "signal":
            os.kill(sidecar.process.pid, signal.SIGHUP)

    assert sidecar.check(infer("other"), address(tmp_path)).reason == "no_policy"
    write(POLICIES.replace("id: fraud", "id: other"))
    wait_until(lambda: sidecar.check(infer("other"), address(tmp_path)).allowed, what="the new policy")
    assert sidecar.check(infer("fraud"), address(tmp_path)).reason == "no_policy"

    write(POLICIES.replace("actions:", "actionz:"))
    wait_until(lambda: "policies.yaml:5:3" in sidecar.stderr(), what="the mistake, with its place")
    assert sidecar.check(infer("other"), address(tmp_path)).allowed
    wait_until(
        lambda: [e["result"] for e in sidecar.events() if e.get("event") == "reload"] == ["ok", "failed"],
        what="both reloads on record",
    )
    write(POLICIES.replace("id: fraud", "id: other"))
    wait_until(
        lambda: [e["result"] for e in sidecar.events() if e.get("event") == "reload"] == ["ok", "failed", "ok"],
        what="that it is mended, though nothing changed",
    )


def test_a_worker_started_while_the_files_are_broken_serves_the_last_good_ones(start, tmp_path):
    sidecar = start()
    (tmp_path / "policies.yaml").write_text("policies: [")
    wait_until(lambda: "reload failed" in sidecar.stderr(), what="the failed reload")
    (worker,) = sidecar.children("server.worker")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: sidecar.children("server.worker") not in ([], [worker]), what="a new worker")
    assert sidecar.check(infer(), address(tmp_path), timeout=20).allowed


def test_an_approval_is_live_within_a_second_and_on_record_once(start, tmp_path):
    policies = POLICIES.replace("{audit_logged: true}", "{approval: board}")
    sidecar = start(policies=policies)
    assert sidecar.check(load(), address(tmp_path)).reason == "conditions_not_met"
    done = cli(tmp_path, "approve", "deploying", "--group", "board", "--for", DEPLOYER, "--ttl", "1h", "--reason", "r1")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: sidecar.check(load(), address(tmp_path)).allowed, 1, what="the approval")
    done = cli(tmp_path, "approve", "deploying", "--group", "board", "--for", DEPLOYER, "--withdraw", "--reason", "r2")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not sidecar.check(load(), address(tmp_path)).allowed, 1, what="the withdrawal")
    wait_until(
        lambda: (
            [e["event"] for e in sidecar.events() if e["schema"] == "ext_authz.state/1"]
            == ["approval_recorded", "approval_withdrawn"]
        ),
        what="both changes on record",
    )


def test_readiness_and_metrics_are_open_and_all_else_is_not_there(start, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sidecar = start(admin=f"127.0.0.1:{port}")
    base = f"http://127.0.0.1:{port}"
    wait_until(lambda: _get(f"{base}/readyz") == 200, what="readiness")
    assert _get(f"{base}/livez") == 200
    assert _get(f"{base}/config") == 404
    sidecar.check(infer(), address(tmp_path))
    sidecar.check(infer("other"), address(tmp_path))

    def counted():
        text = urllib.request.urlopen(f"{base}/metrics", timeout=5).read().decode()
        return (
            'ext_authz_checks_total{decision="allow",reason="allowed"} 1.0' in text
            and 'ext_authz_checks_total{decision="deny",reason="no_policy"} 1.0' in text
            and 'ext_authz_policy_decisions_total{effect="allow",mode="enforce",policy="scoring"} 1.0' in text
            and 'ext_authz_state_age_seconds{process="worker-0"}' in text
        )

    wait_until(counted, what="the counts")


def _get(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            return error.code
    except OSError:
        return 0


def test_a_port_or_folder_in_use_is_one_clear_line(start, tmp_path):
    start()
    second = Sidecar(tmp_path / "ext-authz.yaml")
    assert second.process.wait(30) == 2
    assert second.stderr().splitlines()[-1].count("in use") == 1
    other = tmp_path / "other"
    other.mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        configuration = configure(other, admin=f"127.0.0.1:{port}")
        third = Sidecar(configuration)
        assert third.process.wait(30) == 2
    assert third.stderr().splitlines() == [f"cannot listen on `127.0.0.1:{port}`: Address already in use"]


def test_a_mistake_in_the_files_is_told_at_its_place_and_nothing_starts(tmp_path):
    configure(tmp_path, policies=POLICIES.replace("actions:", "actionz:"))
    sidecar = Sidecar(tmp_path / "ext-authz.yaml")
    assert sidecar.process.wait(30) == 2
    assert "policies.yaml:5:3: " in sidecar.stderr()
    assert "Traceback" not in sidecar.stderr()
    assert not (tmp_path / "0.sock").exists()


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("file:lost.key", "audit trail: cannot read `{folder}/lost.key`: no such file or directory"),
        ("vault:trail", "VAULT_ADDR"),
    ],
)
def test_a_key_of_the_trail_that_is_not_there_is_told_once_and_nothing_starts(tmp_path, key, told, monkeypatch):
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    configuration = configure(tmp_path)
    configuration.write_text(configuration.read_text() + f'audit: {{encryption: {{key: "{key}"}}}}\n')
    sidecar = Sidecar(configuration)
    assert sidecar.process.wait(60) == 2
    assert sidecar.stderr().count(told.format(folder=tmp_path)) == 1, sidecar.stderr()
    assert not (tmp_path / "0.sock").exists()
