"""The table tells what differs, and is not formatted by what callers send."""

import io

import pytest
from rich.console import Console

from ext_authz.demo import report
from ext_authz.demo.calls import CALLS, Call, _saw_alice
from ext_authz.demo.clients import Answer

CALL = Call("alice", "reads [red]x[/red]", lambda _: Answer("200", 1.0), "200", "allowed", "p")


def printed(*rows) -> str:
    console = Console(file=io.StringIO(), width=report.WIDTH)
    console.print(report.table(rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_call_that_ended_as_it_should_is_ticked():
    text = printed(report.judge(CALL, Answer("200", 3.4), "allowed", "p"))
    assert "✓" in text
    assert "✗" not in text
    assert "[red]x[/red]" in text


@pytest.mark.parametrize(
    ("answer", "reason", "policy", "message"),
    [
        ("403", "allowed", "p", "answer should be 200"),
        ("200", "denied_by_policy", "p", "reason should be allowed"),
        ("200", "allowed", "q", "policy should be p"),
    ],
)
def test_any_difference_is_marked(answer, reason, policy, message):
    row = report.judge(CALL, Answer(answer, 1.0, "[bold]body[/bold]"), reason, policy)
    assert row.problem == message
    text = printed(row)
    assert "✗" in text
    assert "[bold]body[/bold]" in text


def test_the_exit_status_follows_from_the_rows_and_the_audit_trail():
    console = Console(file=io.StringIO())
    good = report.judge(CALL, Answer("200", 1.0), "allowed", "p")
    bad = report.judge(CALL, Answer("403", 1.0), "allowed", "p")
    assert report.last_line(console, [good], "", 1.0) == 0
    assert report.last_line(console, [good, bad], "", 1.0) == 1
    assert report.last_line(console, [good], "2 checks, but 1 audit events", 1.0) == 1


def test_a_spoofed_header_that_reached_the_upstream_is_told():
    ours = (("x-authz-subject", "alice"), ("x-authz-roles", "data_scientist"))
    assert _saw_alice(Answer("200", 1.0, received=ours)) == ""
    assert "root" in _saw_alice(Answer("200", 1.0, received=(*ours, ("x-authz-subject", "root"))))
    assert "x-authz-admin" in _saw_alice(Answer("200", 1.0, received=(*ours, ("x-authz-admin", "true"))))
    assert "authorization" in _saw_alice(Answer("200", 1.0, received=(*ours, ("authorization", "Bearer x"))))
    assert "x-authz-subject" in _saw_alice(Answer("200", 1.0))


def test_there_are_calls_of_every_kind():
    reasons = {call.reason for call in CALLS}
    assert {
        "allowed", "no_credentials", "expired_token", "invalid_token", "no_policy", "denied_by_policy",
        "conditions_not_met", "ambiguous_path", "no_route",
    } <= reasons  # fmt: skip
    assert len(CALLS) >= 12
