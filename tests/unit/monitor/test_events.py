"""What events say for the detectors: the address of who was refused, and which inputs are the same."""

from ipaddress import ip_address

import orjson

from ext_authz.audit.decision import MAX_INPUT_BYTES, decision_event
from ext_authz.model import Auth as Kind
from ext_authz.model import Body, Decision, Identity, Outcome, Reason, Refusal, RequestFacts

NOW_NS = 1_767_571_200 * 10**9


def facts(body):
    return RequestFacts("POST", "/v2/x?q=1", "h", {}, (), Body(body, len(body), ""), "10.0.0.9", "", "", None, {}, "")


def recorded(outcome, **options):
    return orjson.loads(decision_event(outcome, log_id="w", seq=1, claims_read=frozenset(), **options))


def refused(ip):
    refusal = Refusal(Reason.INVALID_TOKEN, "bad", "bob")
    return Outcome(Decision(False, Reason.INVALID_TOKEN), "d", "r", NOW_NS, facts(b"x"), refusal=refusal, ip=ip)


def allowed(body):
    identity = Identity("sub:alice", "alice", Kind.JWT)
    return Outcome(Decision(True, Reason.ALLOWED), "d", "r", NOW_NS, facts(body), identity=identity)


def test_a_refusal_says_the_caller_s_address_beside_the_peer_s():
    context = recorded(refused(ip_address("203.0.113.9")))["context"]
    assert (context["ip"], context["peer"]) == ("203.0.113.9", "10.0.0.9")
    assert recorded(refused(None))["context"]["ip"] is None


def test_inputs_are_told_apart_by_a_keyed_hash_only_where_there_is_a_key():
    assert "input" not in recorded(allowed(b"secret"))["context"]
    one, same, other, elsewhere = (
        recorded(allowed(body), input_key=key)["context"]["input"]
        for body, key in ((b"secret", b"k"), (b"secret", b"k"), (b"other", b"k"), (b"secret", b"z"))
    )
    assert one == same
    assert len({one, other, elsewhere}) == 3
    assert len(one) == 16
    assert "input" not in recorded(allowed(b""), input_key=b"k")["context"]


def test_no_more_of_a_body_is_hashed_than_is_bounded():
    long = b"a" * MAX_INPUT_BYTES
    first = recorded(allowed(long + b"b"), input_key=b"k")["context"]["input"]
    assert first == recorded(allowed(long + b"c"), input_key=b"k")["context"]["input"]
