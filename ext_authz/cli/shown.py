"""A decision and its explanation as a person reads them in a terminal.

Law: everything shown may come from an attacker: control characters are escaped, markup is off.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ext_authz.cli.frame import counted, show_table
from ext_authz.documents import printable

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"allow": "bold green", "deny": "bold red"}


_SHORT: Final = 10
"""So many policies are shown whatever became of them."""
_ELSEWHERE: Final = {"subjects": "for other subjects", "resources": "of other resources", "actions": "of other actions"}


def show_explained(console: "Console", explained: dict[str, Any], *, whole: bool = False) -> None:
    """Print the decision object of `explain`; policies that do not concern the request only if few, or `whole`."""
    from rich.table import Table
    from rich.text import Text

    decision = explained["decision"]
    head = Text()
    head.append(decision.upper(), style=_STYLES[decision])
    head.append(f"  {explained['reason']} ({explained['http_status']})")
    if explained["policy_id"]:
        head.append(f" by policy {printable(explained['policy_id'])}")
    console.print(head)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    for name, value in _facts(explained):
        facts.add_row(name, Text(printable(value)))
    show_table(facts, console)
    if explained["trace"]:
        console.print()
        shown, others = _concerned(explained["trace"], whole=whole)
        trace = Table("policy", "matched", "failed at", "detail", box=None, pad_edge=False)
        for each in shown:
            cells = (
                each.get("policy_id"),
                "yes" if each.get("matched") else "no",
                each.get("failed_at"),
                each.get("detail"),
            )
            trace.add_row(*(Text(printable(str(cell or ""))) for cell in cells))
        if shown:
            show_table(trace, console)
        if others:
            console.print(Text(others))
    if explained["trace"] and explained["decision"] == "deny" and not explained["would_allow_if"]:
        console.print()
        console.print("would be allowed by no change of subject and context alone")
    if explained["would_allow_if"]:
        console.print()
        console.print("would be allowed:")
        for each in explained["would_allow_if"]:
            console.print(Text(f"  - {printable(str(each))}"))


def _concerned(trace: Sequence[Mapping[str, Any]], *, whole: bool) -> tuple[list[Mapping[str, Any]], str]:
    """Return the policies to show and, of what is left out, how many there are and why."""
    near = [each for each in trace if each.get("matched") or each.get("failed_at") not in _ELSEWHERE]
    left = len(trace) - len(near)
    if whole or len(trace) <= _SHORT or not left:
        return list(trace), ""
    counts = Counter(str(each["failed_at"]) for each in trace if each.get("failed_at") in _ELSEWHERE)
    why = ", ".join(f"{counts[part]} {words}" for part, words in _ELSEWHERE.items() if counts[part])
    return near, f"{counted(left, 'policy does', 'policies do')} not concern it: {why} (`--all` shows them)"


def _facts(explained: dict[str, Any]) -> list[tuple[str, str]]:
    subject, resource, context = explained["subject"], explained["resource"], explained["context"]
    found: list[tuple[str, str]] = []
    if explained.get("detail"):
        found.append(("because", str(explained["detail"])))
    if subject:
        roles = ", ".join(subject.get("roles", []))
        extras = [f"roles {roles}" if roles else "", "mfa" if subject.get("mfa") else ""]
        extras += [f"over {subject['workload']}" if subject.get("workload") not in ("", subject["id"]) else ""]
        found.append(("subject", "; ".join(part for part in (f"{subject['id']} ({subject['auth']})", *extras) if part)))
    if resource:
        attributes = ", ".join(f"{key}={value}" for key, value in sorted(resource.get("attributes", {}).items()))
        name = f"{resource['type']}/{resource['id']}" + (
            f" version {resource['version']}" if resource["version"] else ""
        )
        found.append(("resource", f"{name}  {attributes}".rstrip()))
    for access in (explained.get("accesses") or [])[1:]:
        other = access["resource"]
        found.append(("and also", f"{access['action']} on {other['type']}/{other['id']}"))
    if explained["action"]:
        found.append(("action", str(explained["action"])))
    known = [f"{key} {context[key]}" for key in ("ip", "time", "risk") if context.get(key)]
    if context.get("route"):
        known.append(f"route {context['route']}")
    if known:
        found.append(("context", "; ".join(known)))
    if explained["headers"]:
        found.append(("sets", "; ".join(f"{name}: {value}" for name, value in explained["headers"].items())))
    if explained["remove_headers"]:
        found.append(("removes", ", ".join(explained["remove_headers"])))
    if explained["ttl"] is not None:
        found.append(("ttl", f"{explained['ttl']} s"))
    if explained["shadow"]:
        found.append(("shadow", ", ".join(f"{each['policy_id']} ({each['effect']})" for each in explained["shadow"])))
    found.append(("policies", f"revision {explained['policy_revision']}"))
    return found
