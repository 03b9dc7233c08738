"""The monitor of a real process tree: from an attack to a quarantine at every worker, and what may not lead to one."""

import json
import os
import signal
import subprocess
import sys
import time

import jwt as pyjwt
import pytest
from http_receiver import Reply, receiving
from running_service import CONFIGURATION, DEPLOYER, POLICIES, SCORER, write_configuration
from sidecar_process import Sidecar, cli, wait_until
from wire_requests import check_request

from ext_authz.state.changes import Kind
from ext_authz.state.sqlite import SqliteStore

WATCHED = """server: {{listen: ['unix:{folder}/{{worker}}.sock'], workers: 2, trusted_proxies: [192.0.2.0/24]}}
admin: {{listen: 'unix:{folder}/admin.sock'}}
monitor:
  enumeration: {{response: quarantine}}
  {more}
"""


SECRET = "s" * 40
ISSUER = "{issuer: 'https://idp.example', audiences: [ml], hmac_secret_file: secret}"
PEOPLE = "- {id: people, subjects: [{id: victim}], resources: [{type: model, id: fraud}], actions: [infer]}\n"
EVERYTHING = "".join(
    f"  {name}: {{response: quarantine}}\n"
    for name in ("credential_stuffing", "unusual_volume", "impossible_client_change", "privilege_probing")
)


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(more="never_quarantine: []", policies=POLICIES):
        text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
        text = text.replace("  api_keys:", f"  jwt: [{ISSUER}]\n  api_keys:")
        text += WATCHED.format(folder=tmp_path, more=more) + EVERYTHING
        (tmp_path / "secret").write_text(SECRET)
        started.append(Sidecar(write_configuration(tmp_path, configuration=text, policies=policies + PEOPLE)))
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


def quarantines(sidecar):
    """Return who was quarantined, by the trail."""
    recorded = [each for each in events(sidecar, "state") if each["event"] == "quarantine_recorded"]
    return [each["record"]["subject"] for each in recorded]


def starts(sidecar):
    """Return how many control processes there were that record."""
    return len([each for each in events(sidecar, "lifecycle") if each["event"] == "start"])


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
    wait_until(lambda: starts(sidecar) == 3, 30, what="the third control process")
    wait_until(lambda: quarantines(sidecar), what="the quarantine on record")
    time.sleep(2)  # for what it might tell twice
    assert len(events(sidecar, "alert")) == 1
    assert len(quarantines(sidecar)) == 1


def test_a_quarantine_in_force_at_the_moment_of_a_kill_is_on_record_once_after_it(start):
    """The moment between the store and the trail: the row is there, its event is not, and nobody is left to write it."""
    sidecar = start()
    store = SqliteStore(sidecar.folder / "run" / "state.db")
    imposed = []
    for attempt in range(5):
        principal = f"{SCORER}-{attempt}"
        rows = store.read(0, 0).last_id
        enumerate_models(sidecar, principal=principal)
        while not any(each.kind is Kind.QUARANTINE for each in store.read(rows).changes):
            time.sleep(0.001)
        (control,) = sidecar.children("server.control")
        os.kill(control, signal.SIGKILL)
        imposed.append(principal)
        if principal not in quarantines(sidecar):
            break
        wait_until(lambda: sidecar.children("server.control") not in ([], [control]), what="another")  # noqa: B023
        done = cli(sidecar.folder, "quarantine", principal, "--withdraw", "--reason", "the budget is one")
        assert done.returncode == 0, done.stderr
    else:
        pytest.fail("each time the event was written before the kill")
    store.close()
    wait_until(lambda: reasons(sidecar, imposed[-1]) == {"quarantined"}, what="what was in force holds")
    wait_until(lambda: imposed[-1] in quarantines(sidecar), 30, what="the quarantine on record")
    wait_until(lambda: events(sidecar, "alert"), what="the alert")
    time.sleep(1)
    assert quarantines(sidecar) == imposed


def test_whom_the_configuration_exempts_is_only_reported(start):
    sidecar = start('never_quarantine: ["spiffe://ml.example/ns/apps/*"]')
    enumerate_models(sidecar)
    wait_until(lambda: events(sidecar, "alert"), what="the alert")
    assert events(sidecar, "alert")[0]["response"] == {"risk": "medium", "withheld": "exempt"}
    assert reasons(sidecar) == {"allowed"}


def bearer(name, secret=SECRET):
    now = int(time.time())
    claims = {"iss": "https://idp.example", "aud": "ml", "sub": name, "iat": now, "exp": now + 600}
    return {"authorization": f"Bearer {pyjwt.encode(claims, secret, 'HS256')}"}


def test_guessing_in_the_name_of_a_victim_raises_an_alert_and_nobodys_risk(start):
    """With forged tokens from many addresses, as a proxy tells them; then with a guess that holds."""
    sidecar = start()
    names = ["victim", *(f"user-{number}" for number in range(40))]
    for number in range(90):
        forged = {**bearer(names[number % 3 and number % 40], "x" * 40), "x-forwarded-for": f"198.51.100.{number % 20}"}
        assert ask(sidecar, source="192.0.2.7", principal="", headers=forged) == "invalid_token"
    for number in range(20):
        forged = {**bearer(f"user-{number}", "x" * 40), "x-forwarded-for": "203.0.113.9"}
        ask(sidecar, source="192.0.2.7", principal="", headers=forged)
    wait_until(lambda: len(events(sidecar, "alert")) >= 2, what="the alerts")
    good = {**bearer("victim"), "x-forwarded-for": "203.0.113.9"}
    assert ask(sidecar, source="192.0.2.7", principal="", headers=good) == "allowed"
    wait_until(lambda: any(each["severity"] == "critical" for each in events(sidecar, "alert")), what="what it found")
    time.sleep(1)
    alerts = events(sidecar, "alert")
    assert {each["detector"] for each in alerts} == {"credential_stuffing"}
    assert all("subject" not in each and "response" not in each for each in alerts)
    assert "victim" in {each.get("claimed_subject") for each in alerts}
    assert events(sidecar, "state") == []
    assert ask(sidecar, principal="", headers=bearer("victim")) == "allowed"


def test_an_address_that_nobody_vouches_for_is_not_whom_an_alert_names(start):
    sidecar = start()
    for number in range(30):
        forged = {**bearer(f"user-{number}", "x" * 40), "x-forwarded-for": "198.51.100.1"}
        ask(sidecar, source="203.0.113.66", principal="", headers=forged)
    wait_until(lambda: events(sidecar, "alert"), what="the alert")
    assert {each["source"] for each in events(sidecar, "alert")} == {"203.0.113.66"}


def test_policies_see_the_risk_that_findings_raise_and_a_withdrawal_takes_it_back(start):
    risky = POLICIES.replace(
        "  headers: {x-tier: gold}\n", "  conditions: [{max_risk: low}, {cel: \"context.risk == 'low'\"}]\n"
    )
    assert "max_risk" in risky
    sidecar = start('never_quarantine: ["spiffe://ml.example/*"]', risky)
    assert reasons(sidecar) == {"allowed"}
    enumerate_models(sidecar)
    wait_until(lambda: reasons(sidecar) == {"conditions_not_met"}, 2, what="the risk at every worker")


def test_alerts_reach_alertmanager_and_slack_and_nothing_else_does(start):
    with receiving(lambda _: Reply()) as managers, receiving(lambda _: Reply()) as chat:
        sidecar = start(
            f"""alerts:
    webhooks:
    - {{type: alertmanager, url: "{managers.url}"}}
    - {{type: slack, url: "{chat.url}/services/T/B/secret"}}"""
        )
        enumerate_models(sidecar)
        wait_until(lambda: managers.requests and chat.requests, what="both messages")
        sidecar.stop()
    assert [each.path for each in managers.requests] == ["/api/v2/alerts"]
    ((alert,),) = [json.loads(each.body) for each in managers.requests]
    assert alert["labels"] == {
        "alertname": "ExtAuthz_enumeration",
        "service": "ext-authz",
        "detector": "enumeration",
        "severity": "medium",
        "subject": SCORER,
    }
    assert "quarantined until" in alert["annotations"]["response"]
    assert alert["startsAt"] < alert["endsAt"]
    assert [each.path for each in chat.requests] == ["/services/T/B/secret"]
    assert f"subject {SCORER}" in json.loads(chat.requests[0].body)["text"]


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ("", 0, "watching\n"),
        ("policies: {files: [nowhere.yaml]}\nidentity: {jwt: [{issuer: '${UNSET}'}]}\n", 0, "watching\n"),
        ("log: {format: json}\n", 0, '"level": '),
        ("polices: {}\n", 2, "`polices`"),
        ("audit: {spool: {retain: soon}}\n", 2, "`soon` is not a duration"),
    ],
)
def test_a_central_monitor_needs_no_policies_and_reads_what_it_uses(tmp_path, more, status, said):
    (tmp_path / "ext-authz.yaml").write_text("run_dir: run\nmonitor: {}\n" + more)
    done = subprocess.run(
        [sys.executable, "-m", "ext_authz", "monitor", "-", "-c", str(tmp_path / "ext-authz.yaml")],
        input="", cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
