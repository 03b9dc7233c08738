"""Approvals under the two-person rule, given by people whom a policy lets approve, as a real sidecar sees them."""

import time

import jwt as pyjwt
import pytest
from running_service import CONFIGURATION, DEPLOYER, POLICIES, write_configuration
from sidecar_process import Sidecar, cli, wait_until
from wire_requests import check_request

SECRET = "s" * 40
ISSUER = "{issuer: 'https://idp.example', audiences: [ml], hmac_secret_file: secret, claims: {groups: groups}}"
APPROVERS = """\
- id: elders_approve
  subjects: [{group: elders}]
  resources: [{type: policy, id: deploying}]
  actions: [approve]
  conditions: [{max: {ttl: 3600}}]
"""


@pytest.fixture
def sidecar(tmp_path):
    text = CONFIGURATION.replace("server: {trusted_proxies: [192.0.2.0/24]}\n", "")
    text = text.replace("  api_keys:", f"  jwt: [{ISSUER}]\n  api_keys:")
    text += f"server: {{listen: ['unix:{tmp_path}/w.sock']}}\nadmin: {{listen: '127.0.0.1:0'}}\n"
    (tmp_path / "secret").write_text(SECRET)
    policies = POLICIES.replace("{audit_logged: true}]", "{approval: board}]\n  approvals: 2") + APPROVERS
    made = Sidecar(write_configuration(tmp_path, configuration=text, policies=policies)).ready()
    yield made
    made.kill()


def approve(folder, who, *more, groups=("board", "elders"), ttl="1h"):
    now = int(time.time())
    claims = {"iss": "https://idp.example", "aud": "ml", "sub": who, "iat": now, "exp": now + 600, "amr": ["mfa"]}
    (folder / "token").write_text(pyjwt.encode({**claims, "groups": list(groups)}, SECRET, "HS256"))
    asked = ("approve", "deploying", "--group", "board", "--for", DEPLOYER, "--ttl", ttl, "--reason", "r")
    return cli(folder, *asked, "--as", "token", *more)


def test_two_people_whom_a_policy_lets_approve_open_the_door_until_it_is_taken_back(sidecar, tmp_path):
    def allowed():
        message = check_request(
            "POST",
            "/v2/repository/models/fraud/load",
            principal=DEPLOYER,
            headers={"content-type": "application/json", "content-length": "2"},
            body=b"{}",
        )
        return sidecar.check(message, f"unix:{tmp_path}/w.sock").allowed

    assert approve(tmp_path, "ann").returncode == 0
    assert approve(tmp_path, "ann").returncode == 0
    stranger = approve(tmp_path, "zed", groups=("board",))
    assert (stranger.returncode, "no policy lets sub:zed approve" in stranger.stderr) == (1, True)
    assert approve(tmp_path, "bob", ttl="2h").returncode == 1
    assert not allowed()
    assert approve(tmp_path, "bob").returncode == 0
    wait_until(allowed, what="the second approval")
    assert cli(tmp_path, "approve", "deploying", "--group", "board", "--for", DEPLOYER, "--withdraw").returncode == 0
    wait_until(lambda: not allowed(), what="the withdrawal")

    def recorded():
        return [each for each in sidecar.events() if each["schema"] == "ext_authz.state/1"]

    wait_until(lambda: len(recorded()) == 6, what="all on record")
    said = [(each["event"], each["record"]["by"], each["record"].get("decision")) for each in recorded()]
    assert said[:5] == [
        ("approval_recorded", "sub:ann", "allowed"),
        ("approval_recorded", "sub:ann", "allowed"),
        ("refusal_recorded", "sub:zed", "no_policy"),
        ("refusal_recorded", "sub:bob", "conditions_not_met"),
        ("approval_recorded", "sub:bob", "allowed"),
    ]
    assert said[5][0] == "approval_withdrawn"
    rulings = [each["record"] for each in recorded()[:5]]
    assert len({each["decision_id"] for each in rulings}) == 5
    assert {each["decided_by"] for each in rulings if each["decision"] == "allowed"} == {"elders_approve"}
