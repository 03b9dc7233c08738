"""`test`: policy tests run, once or whenever a file changes.

Law: loads and decides with the very code of the server. Non-goal: changing anything.
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import glob
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    DOES_NOT_HOLD,
    DONE,
    USAGE,
    CommandError,
    ConfigOption,
    complain,
    counted,
    report,
    say,
)
from ext_authz.documents import printable

if TYPE_CHECKING:
    from ext_authz.tools.runner import CaseResult, Report

PAUSE_SECONDS: Final = 0.3
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line asks for."""

    paths: tuple[Path, ...]
    config: Path
    junit: Path | None
    min_coverage: float
    min_condition_coverage: float
    quiet: bool


def run_tests(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]…", help="Test files or folders; else those beside the policies."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML here.")] = None,
    min_coverage: Annotated[
        float, typer.Option("--min-coverage", metavar="PCT", min=0, max=100, help="Fail below this share of policies.")
    ] = 0.0,
    min_condition_coverage: Annotated[
        float,
        typer.Option(
            "--min-condition-coverage", metavar="PCT", min=0, max=100, help="Fail below this share of conditions."
        ),
    ] = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print failures and the summary only.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Run again whenever a file changes, until interrupted.")
    ] = False,
) -> int:
    """Run policy tests (`*_test.yaml`) and say which policies they cover.

    Example: `ext-authz test policies/ --min-coverage 90 --junit report.xml`
    """
    asked = _Asked(tuple(paths or ()), config, junit, min_coverage, min_condition_coverage, quiet)
    if watch:
        _watch(asked, _pause)
    return _run(asked, [])


def _run(asked: _Asked, looked_at: list[str]) -> int:
    """Run the tests once. `looked_at` gets the files and globs that were read, as far as it came."""
    from ext_authz import wiring
    from ext_authz.config import patterns
    from ext_authz.tools.files import read_tests
    from ext_authz.tools.many_cases import run_files
    from ext_authz.tools.runner import junit as junit_xml

    inputs, snapshot = wiring.load(asked.config, os.environ)
    looked_at += [glob.escape(file) for file in inputs.files] + patterns(inputs)
    looked_at += [f"{glob.escape(str(Path(file).parent))}/*_test.yaml" for file in inputs.policy_files]
    looked_at += [f"{glob.escape(str(path))}{'/**/*_test.yaml' if path.is_dir() else ''}" for path in asked.paths]
    texts = read_tests(asked.paths, inputs)
    if not texts:
        where = ", ".join(str(path) for path in asked.paths) or "beside the policies"
        raise CommandError(f"no policy tests (`*_test.yaml`) found: {where}")
    results = run_files(texts, inputs, snapshot)
    for each in results.results:
        if not (asked.quiet and each.passed):
            _show_case(each)
    _show_summary(results)
    if asked.junit is not None:
        try:
            asked.junit.write_text(junit_xml(results), encoding="utf-8")
        except OSError as error:
            raise CommandError(f"cannot write `{asked.junit}`: {error.strerror or error}") from None
    if results.failed:
        return DOES_NOT_HOLD
    return DONE if _covered(results, asked) else DOES_NOT_HOLD


def _covered(results: "Report", asked: _Asked) -> bool:
    enough = True
    for what, share, wanted in (
        ("coverage", results.coverage, asked.min_coverage),
        ("condition coverage", results.condition_coverage, asked.min_condition_coverage),
    ):
        if share < wanted:
            complain(f"{what} {share:.0f} % is below {wanted:g} %")
            enough = False
    return enough


def _watch(asked: _Asked, pause: Callable[[], None]) -> None:
    """Run the tests now and after every change; a mistake is reported and may be mended. Ends by an interrupt."""
    from ext_authz.documents import DocumentError

    known: list[str] = [glob.escape(str(asked.config))]
    while True:
        looked_at: list[str] = []
        before = _stamp(known)
        try:
            status = _run(asked, looked_at)
        except DocumentError as error:
            report(error.diagnostics, error.texts)
            status = USAGE
        except CommandError as error:
            complain(str(error))
            status = error.status
        if looked_at and looked_at != known:
            known, before = looked_at, _stamp(looked_at)
        say(f"{'ok' if status == DONE else 'not ok'}, waiting for a change")
        while _stamp(known) == before:
            pause()
        say()


def _pause() -> None:
    time.sleep(PAUSE_SECONDS)


def _stamp(patterns: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """Return what tells one state of the files from another: names, times of change, sizes."""
    from ext_authz.config.globs import matching

    found = set()
    for pattern in patterns:
        for name in matching(pattern):
            try:
                stat = Path(name).stat()
            except OSError:
                continue
            found.add((name, stat.st_mtime_ns, stat.st_size))
    return tuple(sorted(found))


def _show_case(result: "CaseResult") -> None:
    mark = result.case.mark
    say(f"{'ok  ' if result.passed else 'FAIL'} {printable(result.case.name)}  ({printable(mark.file)}:{mark.line})")
    for failure in result.failures:
        say(f"     {printable(failure)}")
    for line in result.why:
        say(f"       {printable(line)}")


def _show_summary(results: "Report") -> None:
    failed = len(results.failed)
    passed = len(results.results) - failed
    total = len(results.covered) + len(results.uncovered)
    share = f"{len(results.covered)} of {counted(total, 'policy', 'policies')} applied ({results.coverage:.0f} %)"
    if results.conditions:
        share += f", {results.condition_coverage:.0f} % of conditions both ways"
    say(f"{passed} passed, {failed} failed; {share}")
    if results.uncovered:
        say("never applied: " + ", ".join(printable(name) for name in results.uncovered))
    for words, names in (
        ("never met", [f"{each.policy} {each.condition}" for each in results.conditions if not each.met]),
        ("never missed", [f"{each.policy} {each.condition}" for each in results.conditions if not each.missed]),
    ):
        if names:
            more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            say(f"{words}: {', '.join(printable(name) for name in names[:_SHOWN])}{more}")
