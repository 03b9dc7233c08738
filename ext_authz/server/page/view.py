"""The overview: what this sidecar is doing right now, for somebody in an incident.

Law: what matters most stands first, in words before colours. Non-goal: finding it out (desk.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ext_authz.model import Reason
from ext_authz.server.feed import Filter
from ext_authz.server.page import tables
from ext_authz.server.page.charts import Line, amount, chart
from ext_authz.server.page.facts import Overview
from ext_authz.server.page.html import Child, Markup, join, tag
from ext_authz.server.sampler import EVERY_SECONDS

_LAG_SECONDS: Final = 30
SECTIONS: Final = (
    ("now", "Now"),
    ("decisions", "Decisions"),
    ("denials", "Top denials"),
    ("alerts", "Alerts"),
    ("quarantines", "Quarantines"),
    ("policies", "Policies"),
    ("sinks", "Sinks"),
    ("revision", "Revision"),
    ("explain", "Explain"),
)


def overview(facts: Overview) -> Markup:
    """Return the page's body."""
    good = not facts.not_ready
    state = tag("span", "ready" if good else "NOT READY", class_=f"chip {'good' if good else 'bad'}")
    logout = tag("form", tables.csrf(facts), tag("button", "Sign out"), method="post", action="/logout")
    links = [tag("a", f"{number} {name}", href=f"#{anchor}") for number, (anchor, name) in enumerate(SECTIONS, 1)]
    return join(
        [
            tag("a", "Skip to what happens now", href="#now", class_="skip"),
            tag(
                "header",
                tag("h1", "ext-authz"),
                tag("span", state, " revision ", tag("code", facts.revision), id="state", data_live=True),
                tag("span", "", id="live", role="status"),
                tag("button", "Pause (p)", id="pause", hidden=True, type="button"),
                logout if facts.browser else None,
            ),
            tag("nav", links, aria_label="Sections"),
            tag(
                "main",
                tag(
                    "noscript",
                    tag(
                        "p", "As of ", tables.clock(facts.now), ". ", tag("a", "Reload every 10 s", href="?refresh=10")
                    ),
                ),
                _live("now", _now(facts)),
                tag(
                    "section",
                    tag("h2", "Decisions"),
                    _filters(facts.wanted),
                    tag("div", tables.decisions(facts), id="decisions-rows", data_live=True),
                    id="decisions",
                ),
                _section("denials", "Top denials", tables.denials(facts)),
                _section("alerts", "Alerts", tables.alerts(facts.alerts)),
                _section("quarantines", "Quarantines", tables.quarantines(facts), after=tables.quarantine_form(facts)),
                _section("policies", "Policies", tables.policies(facts.policies)),
                _section("sinks", "Where the audit trail goes", tables.sinks(facts)),
                _section("revision", "Revision and last reload", tables.revision(facts)),
                tag("section", tag("h2", "Explain this request"), explain_form(facts.csrf), id="explain"),
            ),
        ]
    )


def _live(name: str, *children: Child) -> Markup:
    return tag("div", *children, id=name, data_live=True)


def _section(name: str, title: str, body: Child, after: Child = None) -> Markup:
    return tag("section", tag("h2", title), _live(f"{name}-live", body), after, id=name)


def _now(facts: Overview) -> Markup:
    last = facts.points[-1] if facts.points else None
    lag = max((float(each.get("lag", 0)) for each in facts.sinks.values()), default=0.0)
    firing = sum(1 for each in open_alerts(facts.alerts))
    tiles = [
        ("checks a second", amount(last.total) if last else "-"),
        ("denied", f"{100 * last.denied / last.total:.0f} %" if last and last.total else "-"),
        ("failed (503) a second", amount(last.failed) if last else "-"),
        ("99 % answered within", tables.duration(last.quantiles[1]) if last else "-"),
        ("oldest undelivered event", f"{lag:.0f} s"),
        ("alerts open", str(firing)),
        ("quarantines", str(len(facts.quarantines))),
    ]
    span = f"{len(facts.points) * EVERY_SECONDS / 60:.3g} min ago"
    points = facts.points
    rates = [
        Line("allowed", "good", [each.allowed for each in points]),
        Line("denied", "bad", [each.denied for each in points]),
        Line("failed", "warn", [each.failed for each in points]),
    ]
    durations = [
        Line("99 %", "bad", [tables.milliseconds(each.quantiles[1]) for each in points]),
        Line("half", "good", [tables.milliseconds(each.quantiles[0]) for each in points]),
    ]
    notices = [tag("p", each, class_="notice bad", role="alert") for each in notices_of(facts)]
    return join(
        [
            notices,
            tag(
                "div",
                [tag("div", tag("b", value), tag("span", name), class_="tile") for name, value in tiles],
                class_="tiles",
            ),
            tag(
                "section",
                tag(
                    "div",
                    chart("Checks a second", rates, unit="/s", span=span),
                    chart("Time to an answer", durations, unit=" ms", span=span),
                    class_="pair",
                ),
            ),
        ]
    )


def notices_of(facts: Overview) -> list[str]:
    """Return, the worst first, what is wrong now, in sentences."""
    found = []
    if facts.not_ready:
        found.append(f"Not ready: {facts.not_ready}.")
    if facts.points and facts.points[-1].failed:
        found.append(
            "Checks fail with 503 (not ready, overloaded, the trail or a bug): see Decisions, reason by reason."
        )
    if facts.reload.problems:
        found.append(
            "The last reload failed; the last good configuration stays in force. Its errors are under Revision."
        )
    for name, each in facts.sinks.items():
        if each["state"] != "up":
            found.append(f"The sink {name} is {each['state']}: {each['last_error'] or 'no reason given'}")
        elif float(each["lag"]) > _LAG_SECONDS:
            found.append(f"The sink {name} lags by {float(each['lag']):.0f} s.")
    return [*found, *facts.problems]


def _filters(wanted: Filter) -> Markup:
    reasons = [("", "any"), *((each.value, each.value) for each in Reason)]
    decisions = [("", "any"), ("allow", "allow"), ("deny", "deny")]
    return tag(
        "form",
        tag("label", "Decision", _select("decision", decisions, wanted.decision)),
        tag("label", "Reason", _select("reason", reasons, wanted.reason)),
        [
            tag("label", name.capitalize(), tag("input", name=name, value=getattr(wanted, name), type="search"))
            for name in ("policy", "subject", "resource")
        ],
        tag("button", "Filter", type="submit"),
        tag("a", "all", href="/"),
        class_="row",
        id="filters",
        method="get",
        action="/",
    )


def _select(name: str, options: Sequence[tuple[str, str]], chosen: str) -> Markup:
    return tag(
        "select", [tag("option", text, value=value, selected=value == chosen) for value, text in options], name=name
    )


def explain_form(csrf: str, typed: Mapping[str, str] | None = None) -> Markup:
    """Return the form that asks why; `typed` is what was sent before."""
    typed = typed or {}

    def entry(name: str, label: str, *, hint: str = "", grow: bool = False) -> Markup:
        field_ = tag("input", name=name, value=typed.get(name, ""), placeholder=hint)
        return tag("label", label, field_, class_="grow" if grow else None)

    return tag(
        "form",
        tag("input", type="hidden", name="csrf", value=csrf) if csrf else None,
        tag(
            "div",
            entry("method", "Method", hint="POST"),
            entry("host", "Host", hint="models.internal"),
            entry("path", "Path and query", hint="/v2/models/fraud/infer", grow=True),
            entry("principal", "Client certificate (principal)", hint="spiffe://…", grow=True),
            entry("source", "Caller's address", hint="10.1.2.3"),
            class_="row",
        ),
        tag(
            "label",
            "Headers, one a line (credentials are read, and neither shown again nor recorded)",
            tag("textarea", "", name="headers", placeholder="content-type: application/json", autocomplete="off"),
        ),
        tag("label", "Body", tag("textarea", typed.get("body", ""), name="body")),
        tag(
            "details",
            tag("summary", "or a whole CheckRequest as proto JSON"),
            tag("textarea", "", name="check_request", aria_label="CheckRequest", autocomplete="off"),
        ),
        tag("p", tag("button", "Explain", type="submit")),
        method="post",
        action="/explain",
    )


def open_alerts(alerts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the newest event of each alert that still fires."""
    newest: dict[str, Mapping[str, Any]] = {}
    for each in alerts:
        newest.setdefault(str(each.get("alert") or each.get("event_id")), each)
    return [each for each in newest.values() if each.get("status") != "resolved"]
