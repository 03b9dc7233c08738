"""`audit stats`: who was told what, in tables and small charts.

Law: as audit.py; memory grows with the number of different values, not with the trail.
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from ext_authz.cli.audit_filters import Action, Decision, Policy, Reason, Resource, Since, Subject, Until, wanted
from ext_authz.cli.audit_reading import Paths, open_trail, remarks
from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    TrailKeyOption,
    say,
    say_json,
    show_table,
)
from ext_authz.documents import printable

_SHOWN: Final = 10
_HOURS: Final = 24
_BAR: Final = 20
_HOUR_CHARACTERS: Final = len("2026-11-23T10")


def stats(
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
    """Summarise the trail: decisions, reasons, policies, subjects, resources, hours.

    Example: `ext-authz audit stats --from 24h --decision deny`
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
    counts = _count(entry.event for entry in trail.entries() if wants(entry.event))
    if json:
        import orjson

        plain = {name: dict(each.most_common()) for name, each in counts.items()}
        say_json(
            orjson.dumps({**plain, "damaged": trail.damaged, "gaps": trail.gaps()}, option=orjson.OPT_INDENT_2).decode()
        )
        return
    if not counts["event"]:
        say("no events")
    for name, each in counts.items():
        if each:
            _show(name, each)
    remarks(trail)


def _show(name: str, counted: Counter[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    total = counted.total()
    if name == "hour":
        rows, more = sorted(counted.items())[-_HOURS:], max(0, len(counted) - _HOURS)
    else:
        rows, more = counted.most_common(_SHOWN), max(0, len(counted) - _SHOWN)
    most = max(number for _, number in rows)
    table = Table(name, "events", "share", "", box=None, pad_edge=False)
    for value, number in rows:
        bar = "\u2588" * max(1, round(_BAR * number / most))
        table.add_row(Text(printable(value)), str(number), f"{100 * number / total:.1f} %", bar)
    if more:
        table.add_row(f"… {more} more", "", "", "")
    show_table(table)
    say()


def _count(events: Iterable[dict[str, Any]]) -> dict[str, Counter[str]]:
    names = ("event", "decision", "reason", "policy", "subject", "resource", "action", "hour")
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
        if "decision" in event and isinstance(event.get("time"), str):
            counts["hour"][event["time"][:_HOUR_CHARACTERS]] += 1
    return counts
