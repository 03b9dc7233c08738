"""A check whose token names a key that is not known yet: parked, run again once, recorded once."""

import queue
import time
from dataclasses import replace

import pytest
from key_server import KeyServer
from running_service import CONFIGURATION, start
from wire_requests import check_request, read_reply

from ext_authz import wiring
from ext_authz.authn.remote import Fetched, RemoteKeys
from ext_authz.server.key_waits import KeyWaits
from ext_authz.server.service import Service, Wait


@pytest.fixture
def issuer():
    server = KeyServer()
    yield server
    server.close()


@pytest.fixture
def running(tmp_path, issuer):
    entry = f"{{issuer: '{issuer.address}', audiences: [ml-platform], algorithms: [ES256], jwks_uri: '{issuer.uri}'}}"
    text = CONFIGURATION.replace("  api_keys:", f"  jwt: [{entry}]\n  api_keys:")
    text = text.replace('"spiffe://ml.example/ns/apps/sa/scorer"', '"sub:alice"')
    made = start(tmp_path, configuration=text)
    asked = []
    waits = KeyWaits(lambda *each: asked.append(each), seconds=0.2)
    waits.start()
    made.service = Service(
        read_state=made.service._read_state,
        spool=made.spool,
        committer=made.committer,
        metrics=made.metrics,
        key_waits=waits,
    )
    made.service.snapshot = wiring.with_keys(snapshot_of(made, tmp_path), keys(issuer))
    yield made, waits, asked
    waits.stop()
    made.close()


def snapshot_of(_running, folder):
    return wiring.load(folder / "ext-authz.yaml", {})[1]


def keys(issuer):
    return Fetched({issuer.address: RemoteKeys(issuer.uri, int(time.time()), issuer.document().decode())})


def infer(token):
    return check_request("POST", "/v2/models/fraud/infer", headers={"authorization": f"Bearer {token}"})


def test_the_first_token_of_a_new_key_is_allowed_once_the_key_is_here(running, issuer):
    made, waits, asked = running
    kid = issuer.rotate()
    wait = made.service.check(infer(issuer.token()))
    assert isinstance(wait, Wait)
    assert asked == [(issuer.address, kid)]
    assert made.events() == []
    answers: queue.SimpleQueue = queue.SimpleQueue()
    made.service.commit(wait, answers.put)
    made.service.snapshot = wiring.with_keys(made.service.snapshot, keys(issuer))
    waits.arrived({issuer.address: [kid]}, {}, [issuer.address])
    assert read_reply(answers.get(timeout=5)).allowed
    (event,) = made.events()
    assert event["decision"] == "allow"


def test_a_key_that_does_not_come_is_a_refusal_by_the_deadline_recorded_once(running, issuer):
    made, _, _ = running
    issuer.rotate()
    wait = made.service.check(infer(issuer.token()))
    answers: queue.SimpleQueue = queue.SimpleQueue()
    made.service.commit(wait, answers.put)
    assert made.service.waiting == 1
    reply = read_reply(answers.get(timeout=5))
    assert (reply.http_status, reply.reason) == (401, "invalid_token")
    (event,) = made.events()
    assert event["decision_id"] == reply.headers["x-authz-decision-id"]
    assert made.service.waiting == 0


def test_a_full_car_park_refuses_at_once(running, issuer):
    made, _, _ = running
    issuer.rotate()
    reply = read_reply(made.service.undurable(made.service.check(infer(issuer.token()))))
    assert reply.reason == "invalid_token"
    assert len(made.events()) == 1


def test_a_bug_while_running_again_is_a_denial_too(running, issuer):
    made, waits, _ = running
    issuer.rotate()
    wait = made.service.check(infer(issuer.token()))
    answers: queue.SimpleQueue = queue.SimpleQueue()
    made.service.commit(replace(wait, again=None, ready=b"x"), lambda _: None)
    made.service.commit(wait, answers.put)
    made.service.snapshot = None
    waits.stop()
    assert read_reply(answers.get(timeout=5)).reason == "not_ready"


def test_known_keys_and_other_mistakes_never_wait(running, issuer):
    made, _, asked = running
    assert not isinstance(made.service.check(infer(issuer.token())), Wait)
    assert not isinstance(made.service.check(infer("a.b.c")), Wait)
    assert not isinstance(made.service.check(infer(issuer.token(iss="https://elsewhere.example"))), Wait)
    assert not isinstance(made.service.check(infer(issuer.token(("key-1", KeyServer.new_key())))), Wait)
    assert asked == []


def test_a_caller_who_has_gone_holds_up_no_other():
    waits = KeyWaits(lambda *_: None, seconds=5)
    answered = []

    def gone():
        raise ConnectionError

    waits.park("i", "k", gone)
    waits.park("i", "k", lambda: answered.append(True))
    assert waits.worth("i", "k")
    waits.arrived({"i": ["k"]}, {}, ["i"])
    assert answered == [True]
    assert waits.waiting == 0
