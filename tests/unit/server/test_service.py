"""The fail-closed frame: what the caller is told, and what the trail says of it."""

import queue

import pytest
from running_service import DEPLOYER, SCORER, start
from wire_requests import check_request, read_reply

from ext_authz import response
from ext_authz.audit.spool import AuditUnavailable
from ext_authz.model import Reason
from ext_authz.server import service as frame
from ext_authz.server.service import Wait


@pytest.fixture
def running(tmp_path):
    made = start(tmp_path)
    yield made
    made.close()


def infer(model="fraud", principal=SCORER, **more):
    return check_request("POST", f"/v2/models/{model}/infer", principal=principal, **more)


def load(model="fraud", principal=DEPLOYER):
    headers = {"content-type": "application/json", "content-length": "2"}
    return check_request(
        "POST", f"/v2/repository/models/{model}/load", principal=principal, headers=headers, body=b"{}"
    )


def test_an_allow_is_on_record_before_it_is_given(running):
    reply = read_reply(running.service.check(infer()))
    (event,) = running.events()
    assert reply.allowed
    assert reply.headers["x-authz-subject"] == SCORER
    assert reply.headers["x-tier"] == "gold"
    assert event["decision"] == "allow"
    assert event["decision_id"] == reply.headers["x-authz-decision-id"]
    assert (event["action"], event["resource"]["id"], event["policy_id"]) == ("infer", "fraud", "scoring")


def test_every_denial_is_on_record_with_its_reason(running):
    for message, reason in [
        (infer("secret"), "denied_by_policy"),
        (infer("other"), "no_policy"),
        (infer(principal=""), "no_credentials"),
        (infer(host="elsewhere.internal"), "no_route"),
        (infer("a%2Fb"), "ambiguous_path"),
        (b"\xff\xff", "malformed_request"),
        (b"", "malformed_request"),
    ]:
        reply = read_reply(running.service.check(message))
        event = running.events()[-1]
        assert not reply.allowed
        assert event["decision"] == "deny"
        assert event["reason"] == reason
        assert reply.http_status == Reason(reason).http_status


def test_a_public_route_needs_no_credential_and_carries_none_on(running):
    reply = read_reply(
        running.service.check(check_request("GET", "/healthz", headers={"x-api-key": "k", "x-authz-subject": "root"}))
    )
    assert reply.allowed
    assert "x-authz-subject" not in reply.headers
    assert {"x-api-key", "x-authz-subject", "x-authz-roles", "x-tier"} <= set(reply.removed)
    assert running.events()[-1]["reason"] == "public_route"


def test_without_a_snapshot_nothing_is_allowed(running):
    running.service.snapshot = None
    reply = read_reply(running.service.check(infer()))
    assert reply.http_status == 503
    assert running.events()[-1]["reason"] == "not_ready"


def test_a_bug_in_any_phase_is_a_denial_with_an_event(running, monkeypatch):
    def broken(*_args, **_named):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(frame, "check", broken)
    answer = running.service.check(infer())
    reply = read_reply(answer)
    assert reply.http_status == 503
    assert b"secret detail" not in answer
    assert running.events()[-1]["reason"] == "internal_error"
    assert ["ext_authz_internal_errors_total", "ZeroDivisionError", 1] in running.metrics.snapshot(0)["counters"]


def test_even_a_broken_reply_writer_leaves_a_denial(running, monkeypatch):
    def broken(*_args, **_named):
        raise ZeroDivisionError

    monkeypatch.setattr(response, "write", broken)
    assert not read_reply(running.service.check(infer())).allowed


def test_shedding_and_undurable_answers_fail_closed_too(running, monkeypatch):
    wait = running.service.check(load())

    def broken(*_args, **_named):
        raise ZeroDivisionError

    monkeypatch.setattr(response, "write", broken)
    for answer in (running.service.overloaded(), running.service.oversized(), running.service.undurable(wait)):
        assert answer == response.FAIL_CLOSED


def test_an_allow_that_cannot_be_recorded_is_not_given_and_a_denial_stays_what_it_was(running, monkeypatch):
    def full(_make):
        raise AuditUnavailable("no space left on device")

    monkeypatch.setattr(running.spool, "append", full)
    answer = running.service.check(infer())
    assert read_reply(answer).http_status == 503
    assert b"audit_unavailable" in answer
    assert read_reply(running.service.check(infer("other"))).http_status == 403
    assert ["ext_authz_audit_events_total", "unrecorded", "trail", 2] in running.metrics.snapshot(0)["counters"]


def test_an_event_that_cannot_be_built_lets_no_allow_out(running, monkeypatch):
    def broken(*_args, **_named):
        raise ZeroDivisionError

    monkeypatch.setattr(frame, "decision_event", broken)
    assert read_reply(running.service.check(infer())).http_status == 503


def test_what_a_policy_wants_on_the_disk_waits_for_the_disk(running):
    answer = running.service.check(load())
    assert isinstance(answer, Wait)
    answers = queue.SimpleQueue()
    running.service.commit(answer, answers.put)
    assert read_reply(answers.get(timeout=5)).allowed


def test_a_disk_that_fails_turns_the_allow_into_a_denial_that_is_on_record_too(running, monkeypatch):
    monkeypatch.setattr(running.spool, "sync", lambda: False)
    answer = running.service.check(load())
    answers = queue.SimpleQueue()
    running.service.commit(answer, answers.put)
    reply = read_reply(answers.get(timeout=5))
    assert reply.http_status == 503
    first, second = running.events()
    assert (first["decision"], second["decision"]) == ("allow", "deny")
    assert second["reason"] == "audit_unavailable"
    assert first["decision_id"] == second["decision_id"]


def test_overload_and_oversize_are_denials_on_record(running):
    assert read_reply(running.service.overloaded()).http_status == 503
    assert read_reply(running.service.oversized()).http_status == 400
    assert [event["reason"] for event in running.events()] == ["overloaded", "malformed_request"]


def test_one_spoofed_header_reaches_the_upstream_never(running):
    for name in ("x-authz-subject", "x-authz-roles", "x-authz-anything", "x_authz_subject"):
        reply = read_reply(running.service.check(infer(headers={name: "root"})))
        assert reply.allowed
        assert reply.headers.get(name) != "root"
        assert name in reply.headers or name in reply.removed
