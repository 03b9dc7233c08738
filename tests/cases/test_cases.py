"""Runs every YAML case here through the whole service; each asserts the answer and the audit event together.

A case: `request` (arguments of wire_requests.check_request), optional `state`, and what must hold of `answer`
(`allowed`, `status`, `headers`, `removed`, `body`) and of `event` (any part of it).
"""

from pathlib import Path

import pytest
import yaml
from running_service import start
from wire_requests import check_request, read_reply

from ext_authz.server.service import Wait

CASES = sorted(Path(__file__).parent.glob("*.yaml"))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    made = start(tmp_path_factory.mktemp("cases"))
    yield made
    made.close()


def holds_part(whole, part, where="event"):
    if isinstance(part, dict):
        assert isinstance(whole, dict), where
        for key, value in part.items():
            assert key in whole, f"{where}.{key} is missing"
            holds_part(whole[key], value, f"{where}.{key}")
    else:
        assert whole == part, where


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_answer_and_event_of(path, running):
    case = yaml.safe_load(path.read_text())
    request = dict(case["request"])
    body = request.pop("body", "").encode()
    answer = running.service.check(check_request(body=body, **request))
    reply = read_reply(answer.ready if isinstance(answer, Wait) else answer)
    event = running.events()[-1]

    wanted = case["answer"]
    assert reply.allowed is wanted["allowed"]
    if "status" in wanted:
        assert reply.http_status == wanted["status"]
    for name, value in wanted.get("headers", {}).items():
        assert reply.headers.get(name) == value, name
    for name in wanted.get("removed", []):
        assert name in reply.removed
        assert name not in reply.headers
    for text in wanted.get("body_has", []):
        assert text in reply.body
    for text in wanted.get("body_never_has", []):
        assert text not in reply.body
    holds_part(event, case["event"])
    assert event["decision_id"] == reply.headers["x-authz-decision-id"]


def test_there_are_cases():
    assert len(CASES) >= 15
