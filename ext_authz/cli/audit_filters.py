"""Which events a command of `audit` is about: options, and what they mean.

Law: a value that can match nothing is a mistake of the user's, and said. Non-goal: reading the trail.
"""

import time
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ext_authz.cli.frame import CommandError, moment_of, seconds_of

Decision = Annotated[str, typer.Option("--decision", metavar="allow|deny", help="Only these decisions.")]
Reason = Annotated[str, typer.Option("--reason", metavar="R", help="Only this reason.")]
Policy = Annotated[str, typer.Option("--policy", metavar="ID", help="Only decisions of this policy.")]
Subject = Annotated[
    str, typer.Option("--subject", metavar="S", help="Only this subject (typed name; bare means `sub:`).")
]
Resource = Annotated[
    str, typer.Option("--resource", metavar="TYPE[/ID]", help="Only this resource, or all of this type.")
]
Action = Annotated[str, typer.Option("--action", metavar="A", help="Only this action.")]
Since = Annotated[
    str, typer.Option("--from", metavar="TIME", help="Only from this moment on: `2026-11-23T10:00:00Z`, or `2h` (ago).")
]
Until = Annotated[str, typer.Option("--to", metavar="TIME", help="Only up to before this moment; as `--from`.")]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What events must have. Times are as the trail writes them, so they compare as text; "" is no bound."""

    fields: tuple[tuple[str, str], ...] = ()
    subject: str = ""
    resource_type: str = ""
    resource_id: str | None = None
    since: str = ""
    until: str = ""

    def __call__(self, event: dict[str, Any]) -> bool:
        """Whether an event is among them."""
        for name, value in self.fields:
            if event.get(name) != value:
                return False
        if self.since or self.until:
            moment = event.get("time")
            if not isinstance(moment, str) or moment < self.since or (self.until and moment >= self.until):
                return False
        if self.subject and _inner(event, "subject").get("id") != self.subject:
            return False
        if self.resource_type:
            resource = _inner(event, "resource")
            if resource.get("type") != self.resource_type:
                return False
            return self.resource_id is None or resource.get("id") == self.resource_id
        return True


def wanted(
    *,
    decision: str = "",
    reason: str = "",
    policy: str = "",
    subject: str = "",
    resource: str = "",
    action: str = "",
    since: str = "",
    until: str = "",
) -> Wanted:
    """Read the options. Raises CommandError."""
    from ext_authz.documents import did_you_mean
    from ext_authz.model import ACTIONS
    from ext_authz.model import Reason as Known
    from ext_authz.state.changes import typed_subject

    if decision and decision not in ("allow", "deny"):
        raise CommandError(f"--decision: `{decision}` is neither `allow` nor `deny`")
    known = [each.value for each in Known]
    if reason and reason not in known:
        raise CommandError(f"--reason: `{reason}` is not a reason{did_you_mean(reason, known)}")
    if action and action not in ACTIONS:
        raise CommandError(f"--action: `{action}` is not an action{did_you_mean(action, sorted(ACTIONS))}")
    kind, slash, name = resource.partition("/")
    if resource and not kind:
        raise CommandError(f"--resource: `{resource}` is not `TYPE` or `TYPE/ID`")
    fields = {"decision": decision, "reason": reason, "policy_id": policy, "action": action}
    made = Wanted(
        tuple((field, value) for field, value in fields.items() if value),
        typed_subject(subject) if subject else "",
        kind,
        name if slash else None,
        _moment(since, "--from"),
        _moment(until, "--to"),
    )
    if made.since and made.until and made.since >= made.until:
        raise CommandError("--from is not before --to: no event is in between")
    return made


def _moment(text: str, option: str) -> str:
    from ext_authz.audit.event import timestamp

    if not text:
        return ""
    if text[-1:].isalpha() and text[:-1].isascii() and text[:-1].isdigit():
        return timestamp(time.time_ns() - seconds_of(text, option) * 1_000_000_000)
    try:
        return timestamp(moment_of(text, option))
    except CommandError as error:
        raise CommandError(f"{error}, nor how long ago such as `2h`") from None


def _inner(event: dict[str, Any], name: str) -> dict[str, Any]:
    found = event.get(name)
    return found if isinstance(found, dict) else {}
