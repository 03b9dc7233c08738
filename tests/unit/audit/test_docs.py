"""The page on the audit trail names what the events hold."""

import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import orjson

from ext_authz.audit.decision import decision_event
from ext_authz.audit.event import lifecycle_event, state_event
from ext_authz.model import (
    Access,
    Approval,
    Auth,
    Body,
    Context,
    Decision,
    Identity,
    Outcome,
    Reason,
    Refusal,
    RequestFacts,
    Resource,
    Risk,
    ShadowMatch,
    Target,
)
from ext_authz.state.changes import Change, Kind

NOW_NS = 1_800_000_000_123_456_789
PAGE = Path(__file__).parents[3] / "docs" / "audit.md"


def full_event() -> dict[str, Any]:
    access = Access(Resource("model", "fraud", "3", {"stage": "production"}), "infer")
    facts = RequestFacts(
        "POST", "/v2?x=1", "h", {}, ("x_authz-a",), Body(b"", 3, ""), "10.0.0.1", "", "", None, {}, "HTTP/2"
    )
    outcome = Outcome(
        Decision(True, Reason.ALLOWED, "p", ("p",), (ShadowMatch("q", "deny"),), (("x-a", "1"),), (), 60),
        "d1",
        "r1",
        NOW_NS,
        facts,
        "/v2",
        Identity(
            "sub:a", "a", Auth.JWT, "i", claims={"tier": "gold", "pin": 1}, issued_at=1_799_999_990, token_id="j",
            key_id="k", cert_serial="1", cert_issuer="CN=x", via="spiffe://x/y",
        ),
        Target((access, access), "route", "openai", {"max_tokens": 5}),
        access,
        Context(IPv4Address("10.1.2.3"), NOW_NS, NOW_NS, Risk.LOW, (Approval("g", "os:x"),), "POST", "h", "/v2"),
        Refusal(Reason.NO_POLICY, "why", "sub:b"),
    )  # fmt: skip
    made: dict[str, Any] = orjson.loads(
        decision_event(outcome, log_id="w", seq=7, claims_read=frozenset({"tier"}), query_key=b"k")
    )
    return made


def test_every_field_is_on_the_page() -> None:
    words = set(re.findall(r"`([a-z_]+)`", PAGE.read_text()))
    event = full_event()
    names = {*event, *event["subject"], *event["resource"], *event["context"], *event["context"]["query"]}
    change = Change(Kind.REVOCATION, "os:x", NOW_NS, key_id="k", id=3)
    names |= set(orjson.loads(state_event(change, store_id="s", log_id="c", seq=0, now_ns=NOW_NS)))
    names |= set(orjson.loads(lifecycle_event("stop", log_id="c", seq=0, now_ns=NOW_NS, diagnostics=["x"])))
    assert names <= words | {"truncated"}, names - words


def test_an_event_says_what_replay_needs() -> None:
    event = full_event()
    assert event["event_id"] == "w:7"
    assert event["time"] == event["context"]["time"] == "2027-01-15T08:00:00.123456Z"
    assert event["subject"]["claims"] == {"tier": "gold"}
    assert event["subject"]["token_age"] == 10
    assert event["context"]["approvals"][0] == {
        "group": "g",
        "approver": "os:x",
        "expires_at": None,
        "policy": None,
        "policy_digest": None,
        "subject": None,
        "resource": None,
    }
    assert event["context"]["query"]["names"] == ["x"]
    assert len(event["context"]["query"]["hash"]) == 32
    assert event["headers"] == ["x-a"]
    assert [each["action"] for each in event["accesses"]] == ["infer", "infer"]


def test_a_request_that_could_not_be_read_has_its_event_too() -> None:
    refusal = Refusal(Reason.MALFORMED_REQUEST, "not a CheckRequest")
    outcome = Outcome(Decision(False, refusal.reason), "d", "r", NOW_NS, refusal=refusal)
    event = orjson.loads(decision_event(outcome, log_id="w", seq=0, claims_read=frozenset()))
    assert (event["decision"], event["reason"], event["http_status"]) == ("deny", "malformed_request", 400)
    assert event["detail"] == "not a CheckRequest"
    assert event["context"] == {}
    assert "subject" not in event
