"""One decision and why: of a request that was typed, or of one on record.

Law: as the overview's. Non-goal: deciding (tools.explain).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ext_authz.server.feed import Seen
from ext_authz.server.page.html import Child, Markup, tag
from ext_authz.server.page.tables import filter_link, verdict
from ext_authz.server.page.view import explain_form

_MAX_TRACE = 500


def explained_page(explained: Mapping[str, Any], *, csrf: str, typed: Mapping[str, str]) -> Markup:
    """Return what `explain` found, and the form again."""
    return _page(
        "Explain this request",
        tag("p", verdict(explained["decision"], explained["reason"]), f" {explained['http_status']}"),
        tag("p", str(explained["detail"]), class_="notice") if explained.get("detail") else None,
        _remedies(explained["would_allow_if"]),
        _trace(explained["trace"]),
        _whole({key: value for key, value in explained.items() if key not in ("trace", "would_allow_if")}),
        tag("h3", "Another one"),
        explain_form(csrf, typed),
    )


def refused_page(problem: str, *, csrf: str, typed: Mapping[str, str]) -> Markup:
    """Return what was wrong with the request that was typed, and the form again."""
    return _page(
        "Explain this request", tag("p", problem, class_="notice bad", role="alert"), explain_form(csrf, typed)
    )


def recorded_page(seen: Seen, explained: Mapping[str, Any] | None, problem: str) -> Markup:
    """Return a recorded decision, with what the policies in force now would make of it, or why that cannot be said."""
    event = seen.event
    now: Child
    if explained is None:
        now = tag("p", f"The policies cannot be asked about it: {problem}.", class_="quiet")
    else:
        same = explained["reason"] == event.get("reason")
        said = (
            "The policies in force now say the same."
            if same
            else f"The policies in force now say: {explained['reason']}."
        )
        now = [
            tag("p", said, class_="quiet" if same else "notice"),
            _remedies(explained["would_allow_if"]),
            _trace(explained["trace"]),
        ]
    detail = event.get("detail")
    return _page(
        "A decision on record",
        tag(
            "p",
            verdict(str(event.get("decision")), str(event.get("reason"))),
            " ",
            tag("code", str(event.get("event_id"))),
        ),
        tag("p", detail, class_="notice") if isinstance(detail, str) else None,
        _facts(seen, event),
        now,
        _whole(event),
    )


def _facts(seen: Seen, event: Mapping[str, Any]) -> Markup:
    """Return who asked for what, each with a way to the other decisions of its kind."""
    context, subject = _part(event, "context"), _part(event, "subject")
    roles = subject.get("roles")
    asked = (str(context.get(name) or "") for name in ("method", "host", "path"))
    rows: list[tuple[str, str, Mapping[str, str]]] = [
        ("when (UTC)", seen.time.replace("T", " ").rstrip("Z"), {}),
        ("who", seen.subject, {"subject": seen.subject}),
        ("roles", ", ".join(map(str, roles)) if isinstance(roles, list) else "", {}),
        ("workload", str(subject.get("workload") or ""), {}),
        ("from", seen.source, {}),
        ("asked", " ".join(each for each in asked if each), {}),
        ("action", seen.action, {}),
        ("what", seen.resource, {"resource": seen.resource}),
        ("reason", seen.reason, {"reason": seen.reason}),
        ("policy", seen.policy, {"policy": seen.policy}),
        ("risk", str(context.get("risk") or ""), {}),
        ("decision id", str(event.get("decision_id") or ""), {}),
        ("request id", str(context.get("request_id") or ""), {}),
        ("revision", str(event.get("policy_revision") or ""), {}),
    ]
    made: list[Child] = []
    for name, value, more in rows:
        others = tag("a", "others like it", href=filter_link(**more), aria_label=f"others with this {name}")
        made += [tag("dt", name), tag("dd", value, others if more else None)] if value else []
    return tag("dl", made, class_="facts")


def _part(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = event.get(name)
    return found if isinstance(found, Mapping) else {}


def message_page(title: str, text: str) -> Markup:
    """Return a page of one sentence."""
    return _page(title, tag("p", text, class_="notice", role="alert"))


def _page(title: str, *body: Child) -> Markup:
    header = tag("header", tag("h1", "ext-authz"), tag("a", "Overview", href="/"))
    return Markup(header + tag("main", tag("section", tag("h2", title), *body)))


def _remedies(remedies: Sequence[str]) -> Markup | None:
    if not remedies:
        return None
    return tag("div", tag("h3", "It would be allowed"), tag("ul", [tag("li", each) for each in remedies]))


def _trace(trace: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not trace:
        return None
    order = sorted(trace, key=lambda each: (not each["matched"], each["failed_at"] != "conditions"))[:_MAX_TRACE]
    rows = [
        tag(
            "tr",
            tag("td", each["policy_id"], class_="id"),
            tag("td", tag("span", "matched", class_="chip good") if each["matched"] else f"no: {each['failed_at']}"),
            tag("td", each["detail"]),
        )
        for each in order
    ]
    head = tag("tr", [tag("th", each, scope="col") for each in ("policy", "matched", "because")])
    table = tag("table", tag("thead", head), tag("tbody", rows))
    return tag("div", tag("h3", "Policy by policy"), tag("div", table, class_="wide", tabindex=0))


def _whole(plain: Mapping[str, Any]) -> Markup:
    text = orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode()
    return tag("details", tag("summary", "As JSON"), tag("pre", text))
