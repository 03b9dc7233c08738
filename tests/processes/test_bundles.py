"""Signed bundles in a real sidecar: updates, attacks on the way, outages, restarts, and what operators see."""

import re
import socket
import urllib.request

import pytest
from bundles import KEY, BundleServer, fresh, key, public_pem
from running_service import CONFIGURATION, POLICIES, RESOURCES, SCORER, write_configuration
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request

MORE = POLICIES.replace("actions: [infer, read_metadata]", "actions: [infer, read_metadata, explain]")
NONE = POLICIES.replace("{role: scorer}", "{role: nobody}")


@pytest.fixture
def server():
    made = BundleServer(fresh(POLICIES, RESOURCES))
    yield made
    made.close()


@pytest.fixture
def start(tmp_path, server):
    started = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def make(url=server.url, ready=True):
        text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
        text = text.replace("resources: {files: [resources.yaml]}\n", "").replace(
            "policies: {files: [policies.yaml]}",
            f"policies: {{bundle: {{url: '{url}', name: ml-prod, public_keys: [k.pub], poll: 1s}}}}",
        )
        text += f"server: {{listen: ['unix:{tmp_path}/w.sock']}}\nadmin: {{listen: '127.0.0.1:{port}'}}\n"
        write_configuration(tmp_path, configuration=text)
        (tmp_path / "k.pub").write_bytes(public_pem(KEY))
        made = Sidecar(tmp_path / "ext-authz.yaml")
        made.admin = f"http://127.0.0.1:{port}"
        started.append(made)
        return made.ready() if ready else made

    yield make
    for each in started:
        each.kill()


def metrics(sidecar):
    with urllib.request.urlopen(f"{sidecar.admin}/metrics", timeout=5) as reply:
        return reply.read().decode()


def counted(sidecar, result):
    found = re.search(rf'ext_authz_bundle_fetches_total{{result="{result}"}} ([0-9.]+)', metrics(sidecar))
    return float(found[1]) if found else 0.0


def allowed(sidecar):
    message = check_request("POST", "/v2/models/fraud/infer", host="models.internal", principal=SCORER)
    return sidecar.check(message, f"unix:{sidecar.folder}/w.sock").allowed


def bundle_events(sidecar):
    return [each for each in sidecar.events() if each.get("event") == "bundle"]


def test_a_new_bundle_is_in_force_everywhere_and_named_in_every_decision(start, server):
    sidecar = start()
    assert allowed(sidecar)
    server.archive = fresh(NONE, RESOURCES, revision=2)
    wait_until(lambda: not allowed(sidecar), what="the new bundle")
    assert 'ext_authz_bundle_revision{bundle="ml-prod"} 2' in metrics(sidecar)
    named = r'ext_authz_policy_revision_info{[^}]*revision="[0-9a-f]{16}-b2"'
    wait_until(lambda: re.search(named, metrics(sidecar)), what="the workers' own metric")
    decisions = [each for each in sidecar.events() if each["schema"] == "ext_authz.decision/1"]
    assert decisions[0]["policy_revision"].endswith("-b1")
    assert decisions[-1]["policy_revision"].endswith("-b2")
    wait_until(lambda: bundle_events(sidecar), what="the event")
    event = bundle_events(sidecar)[-1]
    assert (event["result"], event["details"]["bundle"], event["details"]["bundle_revision"]) == ("ok", "ml-prod", 2)
    wait_until(lambda: 304 in server.statuses, what="an unchanged answer")
    assert sidecar.stop() == 0


ATTACKS = {
    "rollback": lambda: fresh(NONE, RESOURCES, revision=4),
    "equivocation": lambda: fresh(NONE, RESOURCES, revision=5),
    "untrusted_key": lambda: fresh(NONE, RESOURCES, revision=6, keys=(key(9),)),
    "unsigned": lambda: fresh(NONE, RESOURCES, revision=6, keys=()),
    "other_name": lambda: fresh(NONE, RESOURCES, revision=6, name="ml-staging"),
    "expired": lambda: fresh(NONE, RESOURCES, revision=6, lasts=-1),
    "does_not_load": lambda: fresh("policies: [{id: x}]\n", RESOURCES, revision=6),
    "damaged": lambda: fresh(NONE, RESOURCES, revision=6)[:-30],
}


def test_no_attack_on_the_way_changes_a_decision_and_each_is_told_once_by_its_name(start, server):
    server.archive = fresh(POLICIES, RESOURCES, revision=5)
    sidecar = start()
    for result, archive in ATTACKS.items():
        server.archive = archive()
        wait_until(lambda result=result: counted(sidecar, result) >= 2, what=result)
        assert allowed(sidecar)
    server.mode = "500"
    wait_until(lambda: counted(sidecar, "unreachable") >= 1, what="an outage")
    assert allowed(sidecar)
    # What no program can follow must not end the asking: an urgent deny would never come.
    server.mode, server.location = "redirect", "//[::1"
    asked = counted(sidecar, "unreachable")
    wait_until(lambda: counted(sidecar, "unreachable") >= asked + 2, what="a redirect to nowhere")
    assert allowed(sidecar)
    server.mode, server.archive = "good", fresh(NONE, RESOURCES, revision=6)
    wait_until(lambda: not allowed(sidecar), what="the next good bundle")
    told = [each["diagnostics"][0].partition(":")[0] for each in bundle_events(sidecar) if each["result"] == "failed"]
    assert told == [*ATTACKS, "unreachable", "unreachable"]
    assert all(each["details"]["bundle_revision"] == 5 for each in bundle_events(sidecar)[: len(told)])
    assert 'ext_authz_bundle_revision{bundle="ml-prod"} 6' in metrics(sidecar)


def test_a_restart_during_an_outage_begins_with_the_last_good_one(start, server):
    first = start()
    assert allowed(first)
    assert first.stop() == 0
    server.mode = "500"
    second = start()
    assert allowed(second)
    assert second.stop() == 0


def test_a_first_start_with_a_forged_bundle_does_not_start(start, server):
    server.archive = fresh(POLICIES, RESOURCES, keys=(key(2),))
    sidecar = start(ready=False)
    assert sidecar.process.wait(30) == 2
    assert "no bundle to begin with (untrusted_key)" in sidecar.stderr()
    assert not (sidecar.folder / "run/bundle/bundle.tar.gz").exists()
