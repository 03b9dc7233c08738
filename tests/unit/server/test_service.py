"""The fail-closed frame: what the caller is told, and what the trail says of it."""

import errno
import os
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

    monkeypatch.setattr(frame.Scribe, "line", broken)
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


MIXED = [infer(), infer("other"), b"\xff", infer("secret"), load(), infer(principal=""), infer()]


def shown(answer):
    reply = read_reply(answer.ready if isinstance(answer, Wait) else answer)
    return reply.allowed, reply.http_status, reply.metadata["reason"], isinstance(answer, Wait)


def test_checks_that_arrive_together_are_answered_and_recorded_as_one_by_one(running):
    alone = [shown(running.service.check(message)) for message in MIXED]
    before = running.events()
    assert [shown(answer) for answer in running.service.check_all(MIXED)] == alone
    after = running.events()[len(before) :]
    assert [event["reason"] for event in after] == [event["reason"] for event in before]
    assert [event["seq"] for event in running.events()] == list(range(2 * len(MIXED)))
    assert len({event["decision_id"] for event in after}) == len(MIXED)
    assert running.service.check_all([]) == []


def test_checks_that_arrive_together_share_one_write(running, monkeypatch):
    writes = []
    real = os.write

    def counted(descriptor, data):
        writes.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    running.service.check_all(MIXED)
    assert len(writes) == 1


def test_of_checks_together_no_allow_leaves_a_trail_that_took_none_of_them(running, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        answers = running.service.check_all(MIXED)
    assert [shown(answer)[1] for answer in answers] == [503, 403, 400, 403, 503, 401, 503]
    assert not any(shown(answer)[0] for answer in answers)
    assert running.events() == []
    assert shown(running.service.check(infer()))[0]
    assert [event["seq"] for event in running.events()] == [0]


def test_of_checks_together_those_that_still_fit_are_recorded_and_allowed(running, monkeypatch):
    """A disk with room for some of them: a torn write is cut back, and each gets its own chance."""
    real, room = os.write, [3000]

    def nearly_full(descriptor, data):
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", nearly_full)
    monkeypatch.setattr(os, "ftruncate", lambda fd, size, cut=os.ftruncate: (room.__setitem__(0, 2500), cut(fd, size)))
    answers = running.service.check_all([infer()] * 6)
    monkeypatch.undo()
    allowed = [shown(answer)[0] for answer in answers]
    events = running.events()
    assert 0 < allowed.count(True) < 6
    assert len(events) == allowed.count(True)
    sent = {read_reply(answer).headers.get("x-authz-decision-id") for answer in answers if shown(answer)[0]}
    assert {event["decision_id"] for event in events} == sent


def test_of_checks_together_one_whose_event_cannot_be_built_is_denied_alone(running, monkeypatch):
    real = frame.Scribe.line

    def broken_for_other(scribe, outcome, *placed):
        if outcome.access is not None and outcome.access.resource.id == "other":
            raise ZeroDivisionError
        return real(scribe, outcome, *placed)

    monkeypatch.setattr(frame.Scribe, "line", broken_for_other)
    answers = running.service.check_all([infer(), infer("other"), infer()])
    assert [shown(answer)[1] for answer in answers] == [200, 503, 200]
    assert [event["resource"]["id"] for event in running.events()] == ["fraud", "fraud"]


def test_of_checks_together_a_broken_reply_or_count_is_a_denial_and_raises_nothing(running, monkeypatch):
    def broken(*_args, **_named):
        raise ZeroDivisionError

    for where, name in ((response, "write"), (running.metrics, "observe")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, broken)
            assert running.service.check_all([infer(), infer()]) == [response.FAIL_CLOSED] * 2


def test_while_the_trail_is_nearly_full_a_flood_of_strangers_is_counted_and_everybody_else_recorded(running):
    running.spool._slack = 2**62
    for _ in range(50):
        running.service.check(infer(principal=""))
    running.service.check(infer())
    assert [event["decision"] for event in running.events()] == ["allow"]
    running.service._flush_strangers(True)
    events = running.events()
    assert [(event["decision"], event.get("coalesced")) for event in events] == [("allow", None), ("deny", 50)]
    assert events[1]["reason"] == "no_credentials"
    assert [type(each) for each in running.service.check_all([infer(principal=""), infer()])] == [bytes, bytes]
    assert len(running.events()) == 3
    running.service._flush_strangers(True)
    assert running.events()[3]["coalesced"] == 1
