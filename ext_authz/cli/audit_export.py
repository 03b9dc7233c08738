"""`audit export`: events as a file for other programs.

Law: the file is there whole or not at all, and memory does not grow with it. Non-goal: formats (tools/audit_export.py).
"""

# ruff: noqa: PLR0917  a command's parameters are its options

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ext_authz.cli.audit_filters import (
    Action,
    Decision,
    Policy,
    Reason,
    Resource,
    Since,
    Subject,
    Until,
    Wanted,
    wanted,
)
from ext_authz.cli.audit_reading import Paths, open_trail, remarks
from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    CommandError,
    ConfigOption,
    TrailKeyOption,
    complain,
    counted,
    trail_paths,
)

if TYPE_CHECKING:
    from ext_authz.audit.reader import Entry, Trail
    from ext_authz.cli.progress import Meter


def export(
    paths: Paths = None,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FILE", help="Where to write; `-` is stdout (not for Parquet).")
    ] = "-",
    kind: Annotated[
        str, typer.Option("--format", metavar="F", help="`jsonl`, `csv` or `parquet`; else by the file's name.")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    key: TrailKeyOption = "",
    decision: Decision = "",
    reason: Reason = "",
    policy: Policy = "",
    subject: Subject = "",
    resource: Resource = "",
    action: Action = "",
    since: Since = "",
    until: Until = "",
) -> None:
    """Export events to JSON lines (as recorded), CSV or Parquet.

    A CSV cell that a spreadsheet would take for a formula begins with a quote.

    Example: `ext-authz audit export -o denied.parquet --decision deny --from 2026-11-01T00:00:00Z`
    """
    from ext_authz.cli.progress import Meter
    from ext_authz.envelope.files import replacing
    from ext_authz.tools.audit_export import ParquetMissingError, writer_of

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
    try:
        write = writer_of(_format(out, kind))
    except ParquetMissingError as error:
        raise CommandError(str(error)) from None
    trail = open_trail(paths, config, key)
    with Meter("exporting", _size(trail_paths(paths, config))) as meter:
        entries = _entries(trail, wants, meter)
        if out == "-":
            write(entries, sys.stdout.buffer)
        else:
            try:
                with replacing(Path(out)) as file:
                    count = write(entries, file)
            except (OSError, io.UnsupportedOperation) as error:
                why = (getattr(error, "strerror", None) or str(error)).lower()
                raise CommandError(f"cannot write `{out}`: {why}") from None
            complain(f"{counted(count, 'event')} in {out}")
    remarks(trail)


def _entries(trail: "Trail", wants: Wanted, meter: "Meter") -> "Iterator[Entry]":
    try:
        for entry in trail.entries():
            meter.moved(len(entry.line))
            if wants(entry.event):
                yield entry
    except OSError as error:
        raise CommandError(f"cannot read `{error.filename}`: {(error.strerror or 'failed').lower()}") from None


def _format(out: str, kind: str) -> str:
    from ext_authz.documents import did_you_mean
    from ext_authz.tools.audit_export import FORMATS

    found = kind or {".csv": "csv", ".parquet": "parquet"}.get(Path(out).suffix.lower(), "jsonl")
    if found not in FORMATS:
        raise CommandError(f"--format: `{found}` is not a format{did_you_mean(found, FORMATS)}")
    if found == "parquet" and out == "-":
        raise CommandError("parquet is not written to stdout: name a file with `-o`")
    return found


def _size(paths: object) -> int | None:
    total = 0
    for path in paths if isinstance(paths, list | tuple) else []:
        each = Path(path)
        total += sum(file.stat().st_size for file in ([each] if each.is_file() else each.rglob("*.seg")))
    return total or None
