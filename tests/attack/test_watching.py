"""Attacks as they come in: checks over gRPC, the events that the trail has of them, and what the detectors say."""

import json

import credentials as made
import pytest
from served import Served, configuration, token
from wire_requests import AT_NS, check_request

from ext_authz.monitor.detectors import Detectors, Severity

KEY = b"k" * 32
PROXY, GUESSER, STRANGER = "192.0.2.1", "203.0.113.9", "198.51.100.7"
NOW = AT_NS // 10**9
INFER = "/v2/models/fraud/infer"


class Clock:
    def __init__(self):
        self.ns = AT_NS

    def __call__(self):
        return self.ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def served(tmp_path, clock):
    running = Served(tmp_path, "native", configuration(""), clock_ns=clock, input_key=KEY)
    yield running
    running.close()


def good(who, at=NOW):
    return token(sub=who, iat=at - 5, exp=at + 600)


def forged(who):
    return made.token(made.claims(sub=who, iat=NOW - 5, exp=NOW + 600), key=made.rsa_key(1))


def fire(served, text, path=INFER, forwarded="", **more):
    headers = [("authorization", f"Bearer {text}")] + ([("x-forwarded-for", forwarded)] if forwarded else [])
    return served.fire(check_request(more.pop("method", "POST"), path, headers=headers, **more))


def watched(served):
    """Return what the detectors find in the trail, having checked that all evidence stands there."""
    events = served.running.events()
    detectors = Detectors(key=KEY)
    found = [each for event in events for each in detectors.observe(event, 2**62)]
    ids = {event["event_id"] for event in events}
    assert all(set(each.evidence) <= ids for each in found)
    return found


def guess(served, count=12, **more):
    for number in range(count):
        forwarded = more.get("forwarded", "").format(number=number)
        reply = fire(served, forged(f"user-{number}"), **{**more, "forwarded": forwarded})
        assert (reply.http_status, reply.reason) == (401, "invalid_token")


def only(found, name):
    assert {each.detector for each in found} == {name}
    return found[0]


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        pytest.param(GUESSER, "", GUESSER, id="directly"),
        pytest.param(PROXY, GUESSER, GUESSER, id="behind a trusted proxy"),
        pytest.param(PROXY, "198.51.100.{number}, " + GUESSER, GUESSER, id="spoofed before a trusted proxy's word"),
        pytest.param(GUESSER, "198.51.100.{number}", GUESSER, id="spoofed without any proxy"),
        pytest.param(GUESSER, PROXY, GUESSER, id="said to be the proxy's"),
    ],
)
def test_guessing_is_laid_at_the_door_it_came_from_whatever_it_says_of_itself(served, peer, forwarded, source):
    guess(served, source=peer, forwarded=forwarded)
    contexts = [event["context"] for event in served.running.events()]
    assert {(each["ip"], each["peer"]) for each in contexts} == {(source, peer)}
    found = only(watched(served), "credential_stuffing")
    assert (found.subject, found.source, found.severity) == (None, source, Severity.HIGH)


def test_two_callers_behind_one_proxy_are_two_sources(served):
    guess(served, 4, source=PROXY, forwarded=GUESSER)
    for number in range(4, 8):
        fire(served, forged(f"user-{number}"), source=PROXY, forwarded=STRANGER)
    assert watched(served) == []


def test_a_victim_named_in_every_forged_credential_is_never_the_subject(served):
    assert fire(served, good("victim"), source=STRANGER).allowed
    for number in range(40):
        fire(served, forged("victim"), source=f"203.0.113.{number}")
    found = watched(served)
    assert {each.subject for each in found} == {None}
    assert {each.claimed for each in found} == {"victim"}
    assert fire(served, good("victim"), source=STRANGER).allowed


def test_the_credential_that_guessing_found_is_critical_and_its_owner_is_not_blamed(served):
    guess(served, source=GUESSER)
    assert fire(served, good("user-7"), source=GUESSER).allowed
    last = watched(served)[-1]
    assert (last.severity, last.subject, last.source) == (Severity.CRITICAL, None, GUESSER)
    assert "sub:user-7" in last.explanation


def body(number):
    return json.dumps(
        {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [100_000 + number]}]}
    ).encode()


def test_a_query_loop_is_extraction_and_the_same_input_again_and_again_is_not(served):
    thief, retrying = good("mallory"), good("bob")
    for number in range(1200):
        assert fire(served, thief, body=body(number)).allowed
        assert fire(served, retrying, body=body(0)).allowed
    found = only(watched(served), "model_extraction")
    assert found.subject == "sub:mallory"
    events = served.running.events()
    assert [event["seq"] for event in events] == list(range(2400)), "an allow is in the trail before it is answered"
    assert len({event["context"]["input"] for event in events}) == 1200
    assert b"100077" not in json.dumps(served.running.events()).encode()


def test_without_a_key_for_inputs_nothing_of_a_body_is_on_record(tmp_path, clock):
    served = Served(tmp_path, "native", configuration(""), clock_ns=clock)
    assert fire(served, good("mallory"), body=body(1)).allowed
    assert "input" not in served.running.events()[0]["context"]
    served.close()


def test_trying_one_model_after_the_other_is_enumeration_by_who_was_verified(served):
    text = good("mallory")
    for number in range(12):
        reply = fire(served, text, path=f"/v2/models/secret-{number}/ready", method="GET")
        assert (reply.http_status, reply.reason) == (403, "no_policy")
    found = only(watched(served), "enumeration")
    assert found.subject == "sub:mallory"


def test_trying_paths_without_a_credential_is_the_source_s(served):
    for number in range(40):
        message = check_request("GET", f"/admin/{number}", source=PROXY, headers=[("x-forwarded-for", GUESSER)])
        assert not served.fire(message).allowed
    found = only(watched(served), "enumeration")
    assert (found.subject, found.source) == (None, GUESSER)
