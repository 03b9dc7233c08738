"""`access`: who may do what, and what nobody used.

Law: computed from the policies alone; whatever is not known is an "if" of its row.
"""

# ruff: noqa: PLR0917  a command's parameters are its options

import csv
import io
import os
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    CommandError,
    ConfigOption,
    complain,
    counted,
    moment_of,
    say,
    say_json,
    seconds_of,
    show_table,
)
from ext_authz.cli.progress import waiting
from ext_authz.documents import printable

if TYPE_CHECKING:
    from ext_authz.config import Inputs
    from ext_authz.policy.engine import PolicySet
    from ext_authz.tools.access import Answer, Question, Row

_SECOND: Final = 1_000_000_000


class Form(StrEnum):
    """How `access` prints."""

    TEXT = "text"
    CSV = "csv"
    JSON = "json"


Some = list[str] | None


def access(
    audit: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[AUDIT]…", help="With `--unused`: trail folders or files; else the trail of `run_dir`."
        ),
    ] = None,
    action: Annotated[str, typer.Option("--action", metavar="A", help="The action.")] = "",
    resource: Annotated[str, typer.Option("--resource", metavar="TYPE[/ID]", help="The resource.")] = "",
    attribute: Annotated[Some, typer.Option("--attribute", metavar="K=V", help="Of the resource.")] = None,
    subject: Annotated[
        str, typer.Option("--subject", metavar="S", help="The subject (typed name; bare means `sub:`) or `anonymous`.")
    ] = "",
    role: Annotated[Some, typer.Option("--role", metavar="R", help="All the roles of the subject's token.")] = None,
    group: Annotated[Some, typer.Option("--group", metavar="G", help="All its groups.")] = None,
    scope: Annotated[Some, typer.Option("--scope", metavar="S", help="All its scopes.")] = None,
    org: Annotated[str, typer.Option("--org", metavar="O", help="Its organisation.")] = "",
    issuer: Annotated[str, typer.Option("--issuer", metavar="I", help="Who issued its token.")] = "",
    workload: Annotated[str, typer.Option("--workload", metavar="W", help="The certificate beneath it.")] = "",
    claim: Annotated[Some, typer.Option("--claim", metavar="PATH=V", help="A claim of its token.")] = None,
    unused: Annotated[
        str, typer.Option("--unused", metavar="TIME", help="Grants that no recorded request used for so long (`30d`).")
    ] = "",
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="As of this time (RFC 3339).")] = "",
    form: Annotated[Form, typer.Option("--format", help="How to print.")] = Form.TEXT,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Say who may do an action on a resource, what a subject may do, or which grants nobody used.

    Example: `ext-authz access --action infer --resource model/fraud`
    """
    from ext_authz import wiring
    from ext_authz.state.changes import typed_subject
    from ext_authz.tools.access import Question
    from ext_authz.tools.access import access as answer
    from ext_authz.tools.access_facts import ANONYMOUS, holders_of, resource_facts, subject_facts
    from ext_authz.tools.access_names import unheard_of

    now_ns = moment_of(at, "--at") if at else time.time_ns()
    about_subject: dict[str, Sequence[str]] = {
        name: values
        for name, values in (
            ("role", role),
            ("group", group),
            ("scope", scope),
            ("org", [org] if org else None),
            ("issuer", [issuer] if issuer else None),
            ("workload", [typed_subject(workload)] if workload else None),
            *((f"claim:{path}", [value]) for path, value in _pairs(claim, "--claim").items()),
        )
        if values
    }
    about_resource = _pairs(attribute, "--attribute")
    _consistent(
        bool(action or resource or subject), bool(unused), audit, about_subject, subject, about_resource, resource
    )
    with waiting("loading the configuration"):
        inputs, snapshot = wiring.load(config, os.environ)
    if unused:
        _unused(
            inputs, snapshot.policies, audit, config, now_ns - seconds_of(unused, "--unused") * _SECOND, unused, form
        )
        return
    if subject == ANONYMOUS and about_subject:
        raise CommandError("an anonymous caller has no role, group or anything else")
    asked = Question(
        at_ns=now_ns,
        action=action or None,
        subject=subject_facts(subject, about_subject, inputs, snapshot.policies.claims_read) if subject else None,
        resource=resource_facts(resource, about_resource, snapshot) if resource else None,
    )
    _show(answer(snapshot.policies, asked, holders_of(inputs)), asked, form)
    for each in unheard_of(snapshot.policies, asked, role or ()):
        complain(f"warning: {printable(each)}")


def _consistent(
    asks: bool,  # noqa: FBT001  whether a question is asked
    unused: bool,  # noqa: FBT001
    audit: list[Path] | None,
    about_subject: dict[str, Sequence[str]],
    subject: str,
    about_resource: dict[str, str],
    resource: str,
) -> None:
    if unused == asks:
        raise CommandError("say `--action`, `--resource` or `--subject` (or several of them), or else `--unused`")
    if audit and not unused:
        raise CommandError("AUDIT goes with `--unused`")
    if about_subject and not subject:
        raise CommandError("what is said of a subject goes with `--subject`")
    if about_resource and not resource:
        raise CommandError("`--attribute` goes with `--resource`")


def _pairs(given: Some, option: str) -> dict[str, str]:
    found = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not (name and equals and value):
            raise CommandError(f"{option}: `{each}` is not NAME=VALUE")
        found[name] = value
    return found


def _columns(asked: "Question") -> list[str]:
    open_parts = [("subject", asked.subject is None), ("held_by", asked.subject is None)]
    open_parts += [("actions", asked.action is None), ("resource", asked.resource is None)]
    return [*(name for name, wanted in open_parts if wanted), "policy", "conditions", "unless", "ttl"]


def _plain(row: "Row", columns: list[str]) -> dict[str, Any]:
    made = {name: getattr(row, name) for name in columns}
    made = {name: list(value) if isinstance(value, tuple) else value for name, value in made.items()}
    return made | ({"denied_by": row.denied_by} if row.denied_by else {})


def _show(answer: "Answer", asked: "Question", form: Form) -> None:
    columns = _columns(asked)
    if form is Form.JSON:
        _print_json(
            {
                "allowed": [_plain(row, columns) for row in answer.rows],
                "never": [_plain(row, columns) for row in answer.never],
            }
        )
        return
    rows = [[_cell(name, getattr(row, name)) for name in columns] for row in answer.rows]
    if form is Form.CSV:
        _print_csv(columns, rows)
        return
    if not rows:
        say("nobody, ever" if asked.subject is None else "nothing")
    else:
        titles = {"held_by": "held by", "conditions": "if"}
        _print_table([titles.get(name, name) for name in columns], rows)
    for row in answer.never:
        what = " ".join(part for part in (row.subject, ", ".join(row.actions), row.resource) if part)
        say(printable(f"never, as {row.denied_by} denies it: {what} ({row.policy})"))


def _cell(name: str, value: object) -> str:
    if name == "ttl":
        return f"{value}s"
    if isinstance(value, tuple):
        joint = {"conditions": " and ", "unless": "; or "}.get(name, ", ")
        return joint.join(str(each) for each in value)
    return str(value)


def _unused(
    inputs: "Inputs",
    policies: "PolicySet",
    audit: list[Path] | None,
    config: Path,
    since_ns: int,
    period: str,
    form: Form,
) -> None:
    import orjson

    from ext_authz.audit.event import timestamp
    from ext_authz.cli.replay import chunks_key, folded, trail_chunks
    from ext_authz.tools.grants import Uses, unused, use_folder
    from ext_authz.tools.trail_fold import Fold

    chunks = trail_chunks(audit, config)
    key = chunks_key(chunks, "", config)
    fold: Fold[Uses] = Fold(use_folder, (orjson.dumps(inputs.policies),), os.cpu_count() or 1, key)
    total = Uses()
    for each in folded(fold, chunks, "reading"):
        total.join(each)
    since = timestamp(since_ns)
    columns = ["policy", "part", "alternative", "uses", "last_used"]
    found = unused(policies, total, since)
    rows = [[grant[0], grant[1], grant[2], str(use.count), use.last] for grant, use in found]
    if form is Form.JSON:
        plain = [dict(zip(columns, [*grant, use.count, use.last or None], strict=True)) for grant, use in found]
        _print_json({"since": since, "first": total.first, "last": total.last, "allows": total.allows, "unused": plain})
    elif form is Form.CSV:
        _print_csv(columns, rows)
    else:
        say(f"{counted(total.allows, 'allowed request')}, {total.first or '-'} to {total.last or '-'}")
        if rows:
            _print_table(["policy", "part", "not used", "uses before", "last used"], rows)
        else:
            say(f"every grant was used within {period}")
    if not total.first or total.first > since:
        complain(f"warning: the trail does not reach back {period}: what it does not show may have been used before")
    if total.unreadable:
        complain(f"warning: {counted(total.unreadable, 'event does', 'events do')} not say who asked for what")


def _print_table(titles: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    show_table(table)


def _print_csv(columns: list[str], rows: list[list[str]]) -> None:
    """RFC 4180; a cell that a spreadsheet would take for a formula begins with an apostrophe."""
    from ext_authz.tools.audit_export import no_formula

    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([no_formula(cell) for cell in row] for row in rows)
    say(out.getvalue().rstrip("\r\n"))


def _print_json(plain: object) -> None:
    import orjson

    say_json(orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode())
