"""Webhooks: only alerts, only fresh ones, and nobody's text is markup."""

import json
from datetime import UTC, datetime

import orjson
import pytest
from http_receiver import Reply, receiving

from ext_authz.audit.sinks import Hold, Item, Retry
from ext_authz.audit.sinks.http_client import Http
from ext_authz.audit.sinks.webhooks import MAX_LINES, WebhookSink, alertmanager, slack

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


def event(**parts):
    return {
        "schema": "ext_authz.alert/1", "event_id": "control-a:7", "seq": 7, "time": "2026-11-23T09:59:00.000000Z",
        "alert": "ab", "told": 1, "status": "firing", "detector": "credential_stuffing", "severity": "high",
        "explanation": "192.0.2.1: 10 credentials failed", "evidence": ["w:1", "w:2"], "findings": 1,
        "since": "2026-11-23T09:58:00.000000Z", "until": "2026-11-23T11:58:00.000000Z", "source": "192.0.2.1", **parts,
    }  # fmt: skip


def items(*events):
    return [Item(orjson.dumps(each)) for each in events]


@pytest.fixture
def received():
    with receiving(lambda _: Reply(status=200)) as receiver:
        yield receiver


def sink(receiver, encode=alertmanager):
    return WebhookSink("w", Http(receiver.url), encode, "/x", lambda: NOW)


def test_what_is_no_alert_and_what_is_old_is_done_with_and_not_sent(received):
    made = sink(received)
    decision = {"schema": "ext_authz.decision/1", "event_id": "w:1", "time": "2026-11-23T09:59:00.000000Z"}
    old = event(time="2026-11-22T09:59:00.000000Z")
    assert made.deliver(items(decision, old, event(time="nonsense"))) == ()
    assert received.requests == []
    made.deliver(items(decision, event()))
    assert len(json.loads(received.requests[0].body)) == 1
    made.close()


def test_an_alert_has_the_same_labels_from_its_beginning_to_its_end():
    begun, ended = json.loads(alertmanager([event(), event(status="resolved", told=2, explanation="x")]))
    assert begun["labels"] == ended["labels"] == {
        "alertname": "ExtAuthz_credential_stuffing", "service": "ext-authz", "detector": "credential_stuffing",
        "severity": "high", "source": "192.0.2.1",
    }  # fmt: skip
    assert (begun["startsAt"], begun["endsAt"]) == ("2026-11-23T09:58:00.000000Z", "2026-11-23T11:58:00.000000Z")


def test_a_subject_that_moves_stays_one_alert():
    one, two = json.loads(alertmanager([event(subject="sub:a"), event(subject="sub:a", source="192.0.2.2")]))
    assert one["labels"] == two["labels"]


@pytest.mark.parametrize(
    "text", ["<!channel>", "<https://evil.example|log in>", "a&lt;b", "x\n[critical] other: forged"]
)
def test_what_a_caller_wrote_is_neither_markup_nor_another_line(text):
    said = json.loads(slack([event(explanation=text, claimed_subject=text)]))
    assert (said["mrkdwn"], said["parse"], said["link_names"]) == (False, "none", False), "nor a link"
    assert "<" not in said["text"]
    assert "\n" not in said["text"]
    assert text.count("&") == 0 or "&amp;lt;" in said["text"]


def test_very_many_alerts_are_one_message_that_says_how_many_more():
    said = json.loads(slack([event()] * 100))["text"]
    assert said.count("\n") == MAX_LINES
    assert "80 more" in said


@pytest.mark.parametrize(("status", "what"), [(429, Retry), (503, Retry), (404, Hold), (403, Hold)])
def test_what_the_receiver_refuses_is_kept(received, status, what):
    received.answer = lambda _: Reply(status=status)
    made = sink(received, slack)
    with pytest.raises(what):
        made.deliver(items(event()))
    made.close()
