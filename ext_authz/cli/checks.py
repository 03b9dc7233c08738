"""`check` and `explain`: the commands that look at configuration and policies without serving.

Law: they load and decide with the very code of the server. Non-goal: changing anything.
"""

# ruff: noqa: FBT002  a command's parameters are its options

import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    DOES_NOT_HOLD,
    DONE,
    USAGE,
    CommandError,
    ConfigOption,
    JsonOption,
    console,
    moment_of,
    report,
    say,
    say_json,
)
from ext_authz.cli.progress import waiting

if TYPE_CHECKING:
    from ext_authz.documents import Diagnostic
    from ext_authz.state import State


class Format(StrEnum):
    """How `check` prints."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def check(
    config: ConfigOption = DEFAULT_CONFIG,
    form: Annotated[Format, typer.Option("--format", help="How to print the problems.")] = Format.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too (exit 1).")] = False,
) -> int:
    """Load everything the server would load and print every problem at once.

    Example: `ext-authz check --strict --format github`
    """
    from ext_authz.tools.lint import examine

    with waiting("looking at the configuration and all it names"):
        findings = examine(config, os.environ)
    if form is Format.TEXT:
        report(findings.diagnostics, findings.texts)
    elif form is Format.JSON:
        _print_json([_plain(each) for each in findings.diagnostics])
    else:
        for each in findings.diagnostics:
            say(_github(each))
    mistakes = sum(not each.warning for each in findings.diagnostics)
    warnings = len(findings.diagnostics) - mistakes
    if form is Format.TEXT and not mistakes:
        say(f"{config}: {findings.summary}" + (f", {warnings} warning{'s'[: warnings != 1]}" if warnings else ""))
    if mistakes:
        return USAGE
    return DOES_NOT_HOLD if strict and warnings else DONE


def _plain(each: "Diagnostic") -> dict[str, Any]:
    mark = each.mark
    return {
        "file": mark.file if mark else None,
        "line": mark.line if mark else None,
        "column": mark.column if mark else None,
        "severity": "warning" if each.warning else "error",
        "code": each.code,
        "message": each.message,
    }


def _github(each: "Diagnostic") -> str:
    """Return a workflow command; its data and properties are escaped as GitHub's toolkit does."""
    text = each.message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    kind = "warning" if each.warning else "error"
    if each.mark is None:
        return f"::{kind}::{text}"
    file = each.mark.file
    for character, escaped in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C")):
        file = file.replace(character, escaped)
    return f"::{kind} file={file},line={each.mark.line},col={each.mark.column}::{text}"


def explain(
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="A CheckRequest in proto JSON; `-` for stdin.")],
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="Decide as of this time (RFC 3339).")] = "",
    whole: Annotated[bool, typer.Option("--all", help="Show policies too that do not concern the request.")] = False,
) -> int:
    """Decide one request as the server would, and say why.

    Example: `ext-authz explain request.json --at 2026-11-23T22:00:00Z`
    """
    from ext_authz import wiring
    from ext_authz.tools.explain import explain_request

    moment = moment_of(at, "--at") if at else None
    data = _read_request(request)
    with waiting("loading the configuration and deciding"):
        inputs, snapshot = wiring.load(config, os.environ)
        now_ns = time.time_ns() if moment is None else moment
        state = _state(inputs.settings.run_dir, now_ns)
        explained = explain_request(data, snapshot, state, now_ns, at_ns=moment)
    if json:
        _print_json(explained)
    else:
        from ext_authz.cli.shown import show_explained

        show_explained(console(), explained, whole=whole)
    return DONE


def _read_request(name: str) -> bytes:
    from ext_authz.config.load import MAX_FILE_BYTES, read_bytes, reason
    from ext_authz.request import from_json

    try:
        raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if name == "-" else read_bytes(Path(name))
    except OSError as error:
        raise CommandError(f"cannot read `{name}`: {reason(error)}") from None
    try:
        return from_json(raw.decode())
    except ValueError as error:
        raise CommandError(f"{'stdin' if name == '-' else name}: {error}") from None


def _state(run_dir: Path, now_ns: int) -> "State":
    """Return the state as recorded, whether the server runs or not."""
    from ext_authz.state import StoreError
    from ext_authz.tools.recorded import recorded_state

    try:
        return recorded_state(run_dir, now_ns)
    except StoreError as error:
        raise CommandError(str(error)) from None


def _print_json(plain: object) -> None:
    import orjson

    say_json(orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode())
