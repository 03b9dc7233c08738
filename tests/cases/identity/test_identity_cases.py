"""Runs every YAML case here: a credential is made as the case says, and answer and audit event are asserted together.

A case: `given` is one of `bearer`, `dpop`, `query`, `opaque` with claims (by default a good token's; `now+60` is a time,
`jkt` the test key's thumbprint), `proof` with the claims of a DPoP proof, `twice: true` to send the same again; `said` is
what the issuer of an opaque token says. `answer` and `event` as in tests/cases.
"""

import time
from pathlib import Path

import pytest
import yaml
from credentials import ec_key
from issuer_server import IssuerServer
from proofs import proof, thumbprint
from served import token
from served_asking import ServedAsking, configuration

CASES = sorted(Path(__file__).parent.glob("*.yaml"))
JWT = """\
  jwt:
  - {issuer: 'https://idp.example', audiences: [ml-platform], jwks_file: jwks.json, dpop: if_present, subject_prefix: 'j:', mfa: {max_age: 5m}}
  - {issuer: 'https://query.example', audiences: [ml-platform], jwks_file: jwks.json, subject_prefix: 'q:', token_from: {query: access_token}}
"""


@pytest.fixture(scope="module")
def issuer():
    server = IssuerServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory, issuer):
    made = ServedAsking(tmp_path_factory.mktemp("cases"), "native", configuration(issuer, also=JWT))
    yield made
    made.close()


def meant(value):
    """Resolve what a case cannot know: the time and the test key."""
    if isinstance(value, dict):
        return {name: meant(each) for name, each in value.items()}
    if isinstance(value, str) and value.startswith("now"):
        return int(time.time()) + int(value.removeprefix("now") or 0)
    return thumbprint(ec_key(7)) if value == "jkt" else value


def part_of(part, whole, where="event"):
    if isinstance(part, dict):
        for key, value in part.items():
            assert key in whole, f"{where}.{key} is missing"
            part_of(value, whole[key], f"{where}.{key}")
    else:
        assert part == whole, where


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_answer_and_event_of(path, running, issuer):
    case = yaml.safe_load(path.read_text())
    ((kind, claims),) = case["given"].items()
    claims, secret = meant(claims or {}), path.stem
    url = "/v2/models/fraud/infer"
    if kind == "opaque":
        if "said" in case:
            issuer.grant(secret, **meant(case["said"] or {}))
    else:
        secret = token(**({"iss": "https://query.example"} if kind == "query" else {}), **claims)
    headers = {"authorization": f"{'DPoP' if kind == 'dpop' else 'Bearer'} {secret}"}
    if kind == "query":
        headers, url = {}, f"{url}?{case.get('name', 'access_token')}={secret}"
    if "proof" in case:
        headers["dpop"] = proof(secret, **meant(case["proof"] or {}))
    for _ in range(2 if case.get("twice") else 1):
        reply, event = running.check(headers, path=url)
    wanted = case["answer"]
    assert reply.allowed is wanted["allowed"], event
    assert reply.http_status == wanted["status"]
    for name, value in wanted.get("headers", {}).items():
        assert value in reply.headers.get(name, ""), name
    assert set(wanted.get("removed", ())) <= set(reply.removed)
    part_of(case["event"], event)
    assert secret not in str(event)
    assert event["decision_id"] == reply.headers["x-authz-decision-id"]
