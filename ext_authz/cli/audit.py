"""`audit`: the trail read by people and pipelines, whether the server runs or not.

Law: reading changes nothing; everything shown may come from an attacker and is escaped.
Non-goal: proof (`verify`, `prove`) and `export`, which this version does not do.
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    CommandError,
    ConfigOption,
    JsonOption,
    TrailKeyOption,
    clock_text,
    complain,
    console,
    not_available,
    open_trail_key,
    printable,
    say,
    trail_paths,
)
from ext_authz.cli.later import ANYTHING, Arguments

if TYPE_CHECKING:
    from ext_authz.audit.reader import Entry, Trail

app = typer.Typer(help="Read the audit trail, of `run_dir` or of the given folders.", no_args_is_help=True)

Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PATH]…", help="Trail folders or files; else the configuration's `run_dir`."),
]
Decision = Annotated[str, typer.Option("--decision", metavar="allow|deny", help="Only these decisions.")]
Reason = Annotated[str, typer.Option("--reason", metavar="R", help="Only this reason.")]
Policy = Annotated[str, typer.Option("--policy", metavar="ID", help="Only decisions of this policy.")]
Subject = Annotated[
    str, typer.Option("--subject", metavar="S", help="Only this subject (typed name; bare means `sub:`).")
]

PAUSE_SECONDS = 0.25
_SHOWN = 10


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
) -> None:
    """Print the trail in order of time; `--json` prints the events as recorded, one a line.

    Example: `ext-authz audit cat --decision deny --json`
    """
    wanted = _filter(decision, reason, policy, subject)
    trail = _trail(paths, config, key)
    for entry in trail.entries():
        if _matches(entry.event, wanted):
            _show(entry, json=json)
    _remarks(trail)


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
) -> None:
    """Print the last events, and follow.

    Example: `ext-authz audit tail --decision deny`
    """
    import sys
    from collections import deque

    wanted = _filter(decision, reason, policy, subject)
    trail = _trail(paths, config, key)
    past = deque((entry for entry in trail.entries() if _matches(entry.event, wanted)), maxlen=lines)
    for entry in past:
        _show(entry, json=json)
    if not follow:
        _remarks(trail)
        return
    sys.stdout.flush()
    for entry in trail.follow(lambda: False, _pause):
        if _matches(entry.event, wanted):
            _show(entry, json=json)
            sys.stdout.flush()


@app.command()
def stats(
    paths: Paths = None, config: ConfigOption = DEFAULT_CONFIG, key: TrailKeyOption = "", json: JsonOption = False
) -> None:
    """Summarise the trail: decisions, reasons, policies, subjects, resources.

    Example: `ext-authz audit stats run/audit`
    """
    trail = _trail(paths, config, key)
    counts = _count(entry.event for entry in trail.entries())
    if json:
        import orjson

        plain = {name: dict(each.most_common()) for name, each in counts.items()}
        say(
            orjson.dumps({**plain, "damaged": trail.damaged, "gaps": trail.gaps()}, option=orjson.OPT_INDENT_2).decode()
        )
        return
    if not counts["event"]:
        say("no events")
    from rich.table import Table
    from rich.text import Text

    for name, each in counts.items():
        if not each:
            continue
        total = each.total()
        table = Table(name, "events", "share", box=None, pad_edge=False)
        for value, number in each.most_common(_SHOWN):
            table.add_row(Text(printable(value)), str(number), f"{100 * number / total:.1f} %")
        if len(each) > _SHOWN:
            table.add_row(f"… {len(each) - _SHOWN} more", "", "")
        console().print(table)
        say()
    _remarks(trail)


def _count(events: Iterable[dict[str, Any]]) -> dict[str, Counter[str]]:
    names = ("event", "decision", "reason", "policy", "subject", "resource", "action")
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for event in events:
        counts["event"][str(event.get("schema", "unknown"))] += 1
        for name in ("decision", "reason", "action"):
            if event.get(name):
                counts[name][str(event[name])] += 1
        if event.get("policy_id"):
            counts["policy"][str(event["policy_id"])] += 1
        if isinstance(event.get("subject"), dict):
            counts["subject"][str(event["subject"].get("id", ""))] += 1
        if isinstance(event.get("resource"), dict):
            counts["resource"][f"{event['resource'].get('type', '')}/{event['resource'].get('id', '')}"] += 1
    return counts


@app.command(context_settings=ANYTHING)
def verify(arguments: Arguments = None) -> None:
    """Prove the trail whole (not available in this version).

    Example: `ext-authz audit verify run/audit`
    """
    del arguments
    not_available("audit verify")


@app.command(context_settings=ANYTHING)
def prove(arguments: Arguments = None) -> None:
    """Prove that one event is in the trail (not available in this version).

    Example: `ext-authz audit prove EVENT_ID`
    """
    del arguments
    not_available("audit prove")


@app.command(context_settings=ANYTHING)
def export(arguments: Arguments = None) -> None:
    """Export the trail to JSONL, Parquet or CSV (not available in this version).

    Example: `ext-authz audit export run/audit -o events.parquet`
    """
    del arguments
    not_available("audit export")


def _trail(paths: list[Path] | None, config: Path, key: str) -> "Trail":
    from ext_authz.audit.reader import Trail

    try:
        return Trail(trail_paths(paths, config), open_trail_key(key, config))
    except FileNotFoundError as error:
        raise CommandError(f"cannot read `{error.filename}`: no such file or directory") from None


def _pause() -> None:
    time.sleep(PAUSE_SECONDS)


def _filter(decision: str, reason: str, policy: str, subject: str) -> dict[str, str]:
    from ext_authz.documents import did_you_mean
    from ext_authz.model import Reason as Known
    from ext_authz.state.changes import typed_subject

    if decision and decision not in ("allow", "deny"):
        raise CommandError(f"--decision: `{decision}` is neither `allow` nor `deny`")
    known = [each.value for each in Known]
    if reason and reason not in known:
        raise CommandError(f"--reason: `{reason}` is not a reason{did_you_mean(reason, known)}")
    wanted = {"decision": decision, "reason": reason, "policy_id": policy}
    return {name: value for name, value in wanted.items() if value} | (
        {"subject": typed_subject(subject)} if subject else {}
    )


def _matches(event: dict[str, Any], wanted: dict[str, str]) -> bool:
    for name, value in wanted.items():
        found = event.get(name)
        if name == "subject":
            found = found.get("id") if isinstance(found, dict) else None
        if found != value:
            return False
    return True


def _show(entry: "Entry", *, json: bool) -> None:
    say(entry.line.decode("utf-8", "replace") if json else _line(entry.event))


def _line(event: dict[str, Any]) -> str:
    """Return one event as one line for people."""
    time_text = str(event.get("time", ""))
    if "decision" not in event:
        details = event.get("record") or event.get("details") or {}
        parts = [str(event.get("event", event.get("schema", "?"))), str(event.get("result", ""))]
        parts += [_detail(name, value) for name, value in details.items()] if isinstance(details, dict) else []
        problems = event.get("diagnostics")
        parts.append("; ".join(map(str, problems)) if isinstance(problems, list) else "")
        return printable(" ".join(part for part in (time_text, *parts) if part))
    subject = event.get("subject")
    resource = event.get("resource")
    context = event.get("context")
    who = str(subject.get("id", "")) if isinstance(subject, dict) else str(event.get("claimed_subject") or "-")
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


def _detail(name: str, value: object) -> str:
    if name in {"expires_at", "before"} and isinstance(value, int):
        return f"{name}={clock_text(value)}"
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


def _remarks(trail: "Trail") -> None:
    """Say on stderr what could not be read; reading proves nothing, but it need not hide it."""
    if trail.damaged:
        complain(f"warning: {trail.damaged} damaged events were passed over")
    for problem in trail.problems:
        complain(f"warning: {printable(problem)}")
    for name in trail.shredded:
        complain(f"warning: {printable(name)}: its key was deleted, nothing of it can be read")
    for gap in trail.gaps():
        complain(f"warning: {gap}")
