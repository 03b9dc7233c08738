"""`audit`: the trail read by people and pipelines, whether the server runs or not.

Law: reading changes nothing; everything shown may come from an attacker and is escaped.
Non-goal: proof (audit_proof.py), files for others (audit_export.py), sums (audit_stats.py).
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ext_authz.cli import audit_export, audit_proof, audit_shred, audit_stats
from ext_authz.cli.audit_filters import Action, Decision, Policy, Reason, Resource, Since, Subject, Until, wanted
from ext_authz.cli.audit_reading import Paths, open_trail, remarks
from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    TrailKeyOption,
    clock_text,
    say,
    say_json,
)
from ext_authz.documents import printable

if TYPE_CHECKING:
    from ext_authz.audit.reader import Entry

app = typer.Typer(
    help="Read the audit trail, of `run_dir` or of the given folders.\n\n"
    "Example: `ext-authz audit tail --decision deny`",
    no_args_is_help=True,
)

PAUSE_SECONDS = 0.25
_SHOWN = 10
_COLOURS = {" ALLOW ": " \x1b[32mALLOW\x1b[0m ", " DENY ": " \x1b[31mDENY\x1b[0m "}


@app.command()
def cat(
    paths: Paths = None,
    config: ConfigOption = DEFAULT_CONFIG,
    key: TrailKeyOption = "",
    json: JsonOption = False,
    decision: Decision = "",
    reason: Reason = "",
    policy: Policy = "",
    subject: Subject = "",
    resource: Resource = "",
    action: Action = "",
    since: Since = "",
    until: Until = "",
) -> None:
    """Print the trail in order of time; `--json` prints the events as recorded, one a line.

    Example: `ext-authz audit cat --decision deny --from 2h --json`
    """
    wants = wanted(
        decision=decision,
        reason=reason,
        policy=policy,
        subject=subject,
        resource=resource,
        action=action,
        since=since,
        until=until,
    )
    trail = open_trail(paths, config, key)
    for entry in trail.entries():
        if wants(entry.event):
            _show(entry, json=json)
    remarks(trail)


@app.command()
def tail(
    paths: Paths = None,
    config: ConfigOption = DEFAULT_CONFIG,
    key: TrailKeyOption = "",
    json: JsonOption = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, max=1_000_000, help="How many of the past events to begin with.")
    ] = _SHOWN,
    follow: Annotated[bool, typer.Option("-f/ ", "--follow/--no-follow", help="Go on as events come.")] = True,
    decision: Decision = "",
    reason: Reason = "",
    policy: Policy = "",
    subject: Subject = "",
    resource: Resource = "",
    action: Action = "",
    since: Since = "",
) -> None:
    """Print the last events, and follow; on a terminal in colour.

    Example: `ext-authz audit tail --decision deny`
    """
    from collections import deque

    wants = wanted(
        decision=decision, reason=reason, policy=policy, subject=subject, resource=resource, action=action, since=since
    )
    trail = open_trail(paths, config, key)
    past = deque((entry for entry in trail.entries() if wants(entry.event)), maxlen=lines)
    for entry in past:
        _show(entry, json=json)
    if not follow:
        remarks(trail)
        return
    sys.stdout.flush()
    for entry in trail.follow(lambda: False, _pause):
        if wants(entry.event):
            _show(entry, json=json)
            sys.stdout.flush()


app.command()(audit_stats.stats)
app.command()(audit_proof.verify)
app.command()(audit_proof.prove)
app.command("verify-proof")(audit_proof.verify_proof)
app.command("public-key")(audit_proof.public_key)
app.command()(audit_export.export)
app.command()(audit_shred.shred)


def _pause() -> None:
    time.sleep(PAUSE_SECONDS)


def _show(entry: "Entry", *, json: bool) -> None:
    if json:
        say_json(entry.line.decode("utf-8", "replace"))
        return
    text = _line(entry.event)
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        # Only the time, which is ours, stands before the decision.
        for word, coloured in _COLOURS.items():
            text = text.replace(word, coloured, 1) if text.find(word) == text.find(" ") else text
    say(text)


def _line(event: dict[str, Any]) -> str:
    """Return one event as one line for people."""
    from ext_authz.audit.event import ALERT, GAP

    time_text = str(event.get("time", ""))
    if event.get("schema") in (ALERT, GAP):
        return printable(" ".join(part for part in (time_text, *_noticed(event)) if part))
    if "decision" not in event:
        details = event.get("record") or event.get("details") or {}
        parts = [str(event.get("event", event.get("schema", "?"))), str(event.get("result", ""))]
        parts += _details(details) if isinstance(details, dict) else []
        problems = event.get("diagnostics")
        parts.append("; ".join(map(str, problems)) if isinstance(problems, list) else "")
        return printable(" ".join(part for part in (time_text, *parts) if part))
    subject = event.get("subject")
    resource = event.get("resource")
    context = event.get("context")
    claimed = event.get("claimed_subject")
    who = str(subject.get("id", "")) if isinstance(subject, dict) else f"(claims {claimed})" if claimed else "-"
    what = f"{resource.get('type', '')}/{resource.get('id', '')}" if isinstance(resource, dict) else "-"
    where = f"{context.get('host', '')}{context.get('path', '')}" if isinstance(context, dict) else ""
    by = f"by {event['policy_id']}" if event.get("policy_id") else ""
    words = [
        time_text,
        str(event["decision"]).upper().ljust(5),
        str(event.get("reason", "")),
        who,
        str(event.get("action") or "-"),
        what,
        by,
        where,
        str(event.get("decision_id", "")),
    ]
    return printable(" ".join(word for word in words if word))


def _noticed(event: dict[str, Any]) -> tuple[str, ...]:
    """Return the words of an alert of the monitor, or of a gap in the trail."""
    from ext_authz.audit.event import GAP

    if event.get("schema") == GAP:
        lost = f"{event.get('count')} events are not on record, from {event.get('since')} to {event.get('until')}"
        return ("GAP", lost)
    concerned = (("subject", "by"), ("source", "from"), ("claimed_subject", "claiming"), ("about", "about"))
    whom = " ".join(f"{word} {event[name]}" for name, word in concerned if event.get(name))
    said = f"{whom}: {event.get('explanation')}" if whom else str(event.get("explanation") or "")
    names = ("status", "severity", "detector")
    return ("ALERT", *(str(event.get(name) or "") for name in names), said, f"(alert {event.get('alert')})")


def _details(details: Mapping[str, Any]) -> Iterator[str]:
    """Yield `name=value` of each detail, and `outer.name=value` of what is inside another one."""
    for name, value in details.items():
        if isinstance(value, dict):
            yield from (_detail(inner, each, f"{name}.") for inner, each in value.items())
        else:
            yield _detail(name, value)


def _detail(name: str, value: object, within: str = "") -> str:
    if name in {"expires_at", "before"} and isinstance(value, int):
        return f"{within}{name}={clock_text(value)}"
    return f"{within}{name}={_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, str):
        return value
    import orjson

    return orjson.dumps(value, default=str).decode()
