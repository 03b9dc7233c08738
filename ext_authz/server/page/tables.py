"""The overview's tables, one function each.

Law: a row says who, what and why in words; everything is text until html.py makes it markup.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from ext_authz.server.page.charts import amount
from ext_authz.server.page.facts import Overview
from ext_authz.server.page.html import Child, Markup, join, tag

_HIT_COLUMNS: Final = ("policy", "effect", "mode", "hits", "what it is for", "where")
_NUMBERS: Final = frozenset({"times", "hits", "lag", "emitted", "delivered", "pending", "dropped"})
_MAX_POLICIES: Final = 500
_MAX_ALERTS: Final = 25
"""Of one severity."""


def decisions(facts: Overview) -> Markup:
    """Return the latest decisions."""
    rows = [
        tag(
            "tr",
            tag("td", _clock_of(each.time), class_="time"),
            tag("td", verdict(each.decision, each.reason), f" x{each.count}" if each.count > 1 else None),
            tag("td", each.subject or "-", class_="id"),
            tag("td", each.source, class_="id"),
            tag("td", each.action),
            tag("td", each.resource, class_="id"),
            tag("td", each.policy, class_="id"),
            tag("td", tag("a", "why", href=decision_link(each.event_id), aria_label=f"why {each.event_id}")),
            data_id=each.event_id,
        )
        for each in facts.decisions
    ]
    return _table(
        ("time (UTC)", "answer", "who", "from", "action", "what", "policy", ""),
        rows,
        "No such decisions lately.",
        flow=True,
    )


def denials(facts: Overview) -> Markup:
    """Return the commonest denials and what would have allowed them."""
    rows = []
    for each in facts.denials:
        last, advice = each.last, facts.advice.get(each.last.event_id, ())
        detail = last.event.get("detail")
        alike = filter_link(decision="deny", reason=last.reason, subject=last.subject, resource=last.resource)
        rows.append(
            tag(
                "tr",
                tag("td", f"{each.count:,}", class_="number"),
                tag("td", verdict("deny", last.reason)),
                tag("td", last.subject or f"somebody at {last.source or 'an unknown address'}", class_="id"),
                tag("td", f"{last.action} {last.resource}".strip() or "-", class_="id"),
                tag(
                    "td",
                    detail if isinstance(detail, str) else None,
                    tag("div", "would be allowed ", "; or ".join(advice)) if advice else None,
                    " ",
                    tag("a", "why", href=decision_link(last.event_id), aria_label=f"why {last.event_id}"),
                    " ",
                    tag("a", "all of them", href=alike),
                ),
            )
        )
    heads = ("times", "answer", "who", "what", "explanation")
    return _table(heads, rows, "Nothing was denied lately.", flow=True)


def alerts(alerts: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the latest alerts of each severity: what strangers raise in numbers pushes no graver one away."""
    rows: list[Markup] = []
    shown: Counter[str] = Counter()
    for each in alerts:
        status, severity = str(each.get("status", "")), str(each.get("severity", ""))
        shown[severity] += 1
        if shown[severity] > _MAX_ALERTS:
            continue
        evidence = each.get("evidence")
        style = "good" if status == "resolved" else "bad" if severity in ("high", "critical") else "warn"
        rows.append(
            tag(
                "tr",
                tag("td", _clock_of(str(each.get("time", ""))), class_="time"),
                tag("td", tag("span", f"{severity} {status}".strip(), class_=f"chip {style}")),
                tag("td", str(each.get("detector", ""))),
                tag(
                    "td",
                    str(each.get("subject") or each.get("source") or each.get("claimed_subject") or "-"),
                    class_="id",
                ),
                tag("td", str(each.get("explanation", ""))),
                tag(
                    "td",
                    [
                        [tag("a", str(number), href=decision_link(str(one)), aria_label=f"evidence {one}"), " "]
                        for number, one in enumerate(evidence if isinstance(evidence, list) else [], 1)
                    ],
                ),
                data_id=str(each.get("event_id", "")),
            )
        )
    heads = ("time (UTC)", "severity", "detector", "who", "what was seen", "evidence")
    return _table(heads, rows, "No alerts since this process started.", flow=True)


def quarantines(facts: Overview) -> Markup:
    """Return who is quarantined."""
    rows = []
    for each in facts.quarantines:
        lift = None
        if facts.changes:
            lift = tag(
                "form",
                csrf(facts),
                tag("input", type="hidden", name="subject", value=each["subject"]),
                tag("button", "Lift", name="change", value="lift"),
                method="post",
                action="/quarantines",
            )
        until = each.get("expires_at")
        rows.append(
            tag(
                "tr",
                tag("td", each["subject"], class_="id"),
                tag("td", "until it is lifted" if until is None else moment(until)),
                tag("td", each["by"]),
                tag("td", each["reason"]),
                tag("td", lift),
            )
        )
    return _table(("who", "until (UTC)", "by", "reason", ""), rows, "Nobody is quarantined.", flow=True)


def quarantine_form(facts: Overview) -> Markup:
    """Return the form that quarantines somebody, or why there is none."""
    if not facts.changes:
        return tag(
            "p",
            "Read-only here (admin.allow_changes); ",
            tag("code", "ext-authz quarantine"),
            " works.",
            class_="quiet",
        )
    return tag(
        "form",
        csrf(facts),
        tag("label", "Subject", tag("input", name="subject", required=True, placeholder="sub:alice")),
        tag("label", "For", tag("input", name="for", required=True, value="10m", size=6)),
        tag("label", "Reason", tag("input", name="reason", required=True), class_="grow"),
        tag("button", "Quarantine", name="change", value="record"),
        class_="row",
        method="post",
        action="/quarantines",
    )


def policies(policies: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the policies, those that never matched first."""
    never = sum(1 for each in policies if not each["hits"])
    rows = [
        tag(
            "tr",
            tag("td", each["id"], class_="id"),
            tag("td", each["effect"]),
            tag("td", each["mode"]),
            tag(
                "td",
                f"{each['hits']:,.0f}" if each["hits"] else tag("span", "never", class_="chip warn"),
                class_="number",
            ),
            tag("td", each["description"]),
            tag("td", each["place"] or "", class_="id"),
        )
        for each in sorted(policies, key=lambda each: (each["hits"] > 0, -each["hits"], each["id"]))[:_MAX_POLICIES]
    ]
    said = f"{len(policies)} loaded, {never} never hit since this run_dir counts. "
    return join([tag("p", said, tag("a", "as JSON", href="/policies"), class_="quiet"), _table(_HIT_COLUMNS, rows, "")])


def sinks(facts: Overview) -> Markup:
    """Return how each sink is doing."""
    rows = [
        tag(
            "tr",
            tag("td", name, class_="id"),
            tag("td", tag("span", each["state"], class_=f"chip {'good' if each['state'] == 'up' else 'bad'}")),
            tag("td", f"{float(each['lag']):.1f} s", class_="number"),
            [
                tag("td", f"{each[count]:,}", class_="number")
                for count in ("emitted", "delivered", "pending", "dropped")
            ],
            tag("td", each["last_error"] or ""),
        )
        for name, each in facts.sinks.items()
    ]
    heads = ("sink", "state", "lag", "emitted", "delivered", "pending", "dropped", "last error")
    said = f"The trail holds {facts.spool_bytes / 2**20:,.1f} MiB on this machine."
    return join(
        [
            tag("p", said, class_="quiet"),
            _table(heads, rows, "No sinks are configured: the trail stays on this machine."),
        ]
    )


def revision(facts: Overview) -> Markup:
    """Return the revision in force and what came of the last reload."""
    last = facts.reload
    if not last.at:
        said: Child = "Nothing was reloaded since the start."
    elif last.problems:
        said = [
            tag(
                "p", "Failed at ", moment(last.at), "; the last good configuration stays in force:", class_="notice bad"
            ),
            tag("pre", "\n".join(last.problems)),
        ]
    else:
        said = tag("p", "Loaded at ", moment(last.at), ".")
    waits = (
        tag("p", f"Changed, and waiting for a restart: {', '.join(last.stale)}.", class_="notice")
        if last.stale
        else None
    )
    where = tag(
        "p", "In force: ", tag("code", facts.revision), ". ", tag("a", "Configuration (masked)", href="/config")
    )
    return join([where, said, waits])


def verdict(decision: str, reason: str) -> Markup:
    """Return decision and reason as a chip."""
    style = "good" if decision == "allow" else "bad"
    return tag("span", reason if reason.startswith(decision) else f"{decision}: {reason}", class_=f"chip {style}")


def decision_link(event_id: str) -> str:
    """Return where a decision is shown."""
    return f"/decision?{urlencode({'id': event_id})}"


def filter_link(**wanted: str) -> str:
    """Return where the decisions are that fit."""
    return f"/?{urlencode({name: value for name, value in wanted.items() if value})}#decisions"


def moment(seconds: float) -> str:
    """Return Unix seconds as a person reads them."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def clock(seconds: float) -> Markup:
    """Return the time of day of Unix seconds."""
    return tag("time", moment(seconds)[11:])


def _clock_of(time: str) -> Markup:
    return tag("time", time[11:23] or "-", title=time)


def csrf(facts: Overview) -> Markup | None:
    """Return what a form must carry."""
    return tag("input", type="hidden", name="csrf", value=facts.csrf) if facts.csrf else None


def milliseconds(seconds: float | None) -> float | None:
    """Return milliseconds of seconds."""
    return None if seconds is None else seconds * 1000


def duration(seconds: float | None) -> str:
    """Return a duration as a person reads it."""
    return "-" if seconds is None else f"{amount(seconds * 1000)} ms"


def _table(heads: Sequence[str], rows: Sequence[Markup], nothing: str, *, flow: bool = False) -> Markup:
    """Return a table; `flow`: a row can be read as a sentence, where there is no room for columns."""
    if not rows:
        return tag("p", nothing, class_="quiet")
    head = tag("tr", [tag("th", each, scope="col", class_="number" if each in _NUMBERS else None) for each in heads])
    made = tag("table", tag("thead", head), tag("tbody", rows))
    return tag("div", made, class_="wide flow" if flow else "wide", tabindex=0)
