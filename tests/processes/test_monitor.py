"""The monitor of a real process tree: from an attack to a quarantine at every worker, and what may not lead to one."""

import os
import signal
import time

import pytest
from running_service import CONFIGURATION, DEPLOYER, SCORER, write_configuration
from sidecar_process import Sidecar, cli, wait_until
from wire_requests import check_request

WATCHED = """server: {{listen: ['unix:{folder}/{{worker}}.sock'], workers: 2, trusted_proxies: [192.0.2.0/24]}}
admin: {{listen: 'unix:{folder}/admin.sock'}}
monitor:
  enumeration: {{response: quarantine}}
  {more}
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(more="never_quarantine: []"):
        text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
        text += WATCHED.format(folder=tmp_path, more=more)
        started.append(Sidecar(write_configuration(tmp_path, configuration=text)))
        return started[-1].ready(2)

    yield begin
    for each in started:
        each.kill()


def ask(sidecar, model="fraud", worker=0, principal=SCORER, **parts):
    message = check_request("POST", f"/v2/models/{model}/infer", principal=principal, **parts)
    return sidecar.check(message, f"unix:{sidecar.folder}/{worker}.sock").reason


def enumerate_models(sidecar, begin=0, principal=SCORER):
    for number in range(begin, begin + 12):
        ask(sidecar, f"m{number}", number % 2, principal)


def reasons(sidecar, principal=SCORER):
    return {ask(sidecar, worker=worker, principal=principal) for worker in (0, 1)}


def events(sidecar, schema):
    return [each for each in sidecar.events() if each["schema"] == f"ext_authz.{schema}/1"]


def test_an_attack_leads_to_a_quarantine_at_every_worker_within_two_seconds_and_is_on_record(start):
    sidecar = start()
    assert reasons(sidecar) == {"allowed"}
    enumerate_models(sidecar)
    wait_until(lambda: reasons(sidecar) == {"quarantined"}, 2, what="the quarantine")
    assert reasons(sidecar, DEPLOYER) == {"no_policy"}
    wait_until(lambda: events(sidecar, "alert"), what="the alert")
    (alert,) = events(sidecar, "alert")
    assert (alert["detector"], alert["subject"], alert["status"]) == ("enumeration", SCORER, "firing")
    assert alert["response"]["quarantine_until"]
    told = {each["event_id"]: each for each in sidecar.events()}
    assert all(told[each]["subject"]["id"] == SCORER for each in alert["evidence"])
    wait_until(lambda: len(events(sidecar, "state")) >= 2, what="both changes on record")
    recorded = [each["record"] for each in events(sidecar, "state")]
    assert {(each["kind"], each["by"]) for each in recorded} == {("quarantine", "monitor"), ("risk", "monitor")}
    (quarantine,) = [each for each in recorded if each["kind"] == "quarantine"]
    assert 590 <= quarantine["expires_at"] - time.time() <= 600


def test_a_withdrawal_by_a_person_holds_also_while_the_same_goes_on(start):
    sidecar = start()
    enumerate_models(sidecar)
    wait_until(lambda: reasons(sidecar) == {"quarantined"}, 5, what="the quarantine")
    done = cli(sidecar.folder, "quarantine", SCORER, "--withdraw", "--reason", "a test of ours")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: reasons(sidecar) == {"allowed"}, 2, what="the withdrawal")
    wait_until(lambda: any(each["event"] == "risk_withdrawn" for each in events(sidecar, "state")), 3, what="no risk")
    enumerate_models(sidecar, 100)
    enumerate_models(sidecar, 200)
    time.sleep(1)
    assert reasons(sidecar) == {"allowed"}


def test_a_control_process_that_is_killed_in_the_middle_forgets_nothing_and_tells_nothing_twice(start):
    sidecar = start()
    for number in range(7):
        ask(sidecar, f"m{number}")
    (control,) = sidecar.children("server.control")
    os.kill(control, signal.SIGKILL)
    for number in range(7, 12):
        ask(sidecar, f"m{number}")
    wait_until(lambda: reasons(sidecar) == {"quarantined"}, 20, what="the quarantine")
    wait_until(lambda: events(sidecar, "alert"), what="the alert")
    (control,) = sidecar.children("server.control")
    os.kill(control, signal.SIGKILL)
    wait_until(lambda: sidecar.children("server.control") not in ([], [control]), what="another control process")
    time.sleep(3)
    assert len(events(sidecar, "alert")) == 1
    assert len([each for each in events(sidecar, "state") if each["record"]["kind"] == "quarantine"]) == 1


def test_whom_the_configuration_exempts_is_only_reported(start):
    sidecar = start('never_quarantine: ["spiffe://ml.example/ns/apps/*"]')
    enumerate_models(sidecar)
    wait_until(lambda: events(sidecar, "alert"), what="the alert")
    assert events(sidecar, "alert")[0]["response"] == {"risk": "medium", "withheld": "exempt"}
    assert reasons(sidecar) == {"allowed"}
