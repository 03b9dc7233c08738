"""API keys in a real sidecar: when each was last used, and that making and withdrawing one is on record exactly once."""

import json
import subprocess
import sys
import time

import pytest
from running_service import CONFIGURATION, write_configuration
from served import POLICIES
from sidecar_process import Sidecar, wait_until
from wire_requests import check_request


@pytest.fixture
def folder(tmp_path):
    text = CONFIGURATION.replace("server: {", f"server: {{listen: ['unix:{tmp_path}/{{worker}}.sock'], ")
    write_configuration(tmp_path, configuration=text + "admin: {listen: '127.0.0.1:0'}\n", policies=POLICIES)
    return tmp_path


def apikey(folder, *arguments):
    command = [sys.executable, "-m", "ext_authz", "apikey", *arguments, "-c", str(folder / "ext-authz.yaml")]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()


def listed(folder):
    return {each["id"]: each for each in json.loads(apikey(folder, "list", "--json"))}


def told(sidecar):
    events = [each for each in sidecar.events() if each["schema"] == "ext_authz.state/1"]
    return [(each["event"], each["record"]["key_id"]) for each in events]


def check(sidecar, key):
    message = check_request("POST", "/v2/models/fraud/infer", headers={"x-api-key": key})
    return sidecar.check(message, f"unix:{sidecar.folder}/0.sock")


def test_keys_are_on_record_once_and_their_last_use_outlives_restarts(folder):
    first = apikey(folder, "new", "--subject", "before", "--ttl", "90d")
    sidecar = Sidecar(folder / "ext-authz.yaml").ready()
    began = int(time.time())
    second = apikey(folder, "new", "--subject", "while", "--note", "nightly")
    (one,) = [name for name, each in listed(folder).items() if each["subject"] == "key:before"]
    (two,) = [name for name, each in listed(folder).items() if each["subject"] == "key:while"]
    wait_until(lambda: check(sidecar, second).allowed, what="the reload")
    wait_until(lambda: told(sidecar) == [("api_key_recorded", one), ("api_key_recorded", two)], what="the events")
    assert listed(folder)[one]["last_used"] is None
    assert check(sidecar, first).allowed
    bad = first[:-1] + ("0" if first[-1] != "0" else "1")
    assert check(sidecar, bad).reason == "invalid_api_key"
    assert sidecar.stop() == 0

    apikey(folder, "revoke", one)
    apikey(folder, "revoke", one)
    used = listed(folder)[one]["last_used"]
    assert used >= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began))
    sidecar = Sidecar(folder / "ext-authz.yaml").ready()
    assert check(sidecar, first).reason == "revoked"
    wait_until(lambda: ("api_key_withdrawn", one) in told(sidecar), what="the event")
    assert sidecar.stop() == 0
    sidecar = Sidecar(folder / "ext-authz.yaml").ready()
    assert sidecar.stop() == 0
    assert told(sidecar) == [("api_key_recorded", one), ("api_key_recorded", two), ("api_key_withdrawn", one)]
    assert listed(folder)[one]["last_used"] == used, "a refused key is not used"
    text = json.dumps(sidecar.events())
    assert first not in text
    assert second not in text
