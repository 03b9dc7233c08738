"""`replay`: recorded requests decided again under other policies.

Law: everything shown may come from an attacker and is escaped; what could not be replayed is always said.
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import os
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    DOES_NOT_HOLD,
    DONE,
    CommandError,
    ConfigOption,
    JsonOption,
    TrailKeyOption,
    complain,
    counted,
    say,
    say_json,
    show_table,
    trail_key,
    trail_paths,
)
from ext_authz.cli.progress import Meter
from ext_authz.documents import printable

if TYPE_CHECKING:
    from ext_authz.envelope.keys import KeyReference
    from ext_authz.policy.document import PolicyDocument
    from ext_authz.tools.trail_fold import Chunk, Fold

_SHOWN: Final = 20
_TOP: Final = 5


class FailOn(StrEnum):
    """Which changes make `replay` exit 1."""

    GAIN = "gain"
    LOSS = "loss"
    ANY = "any"


def replay(
    audit: Annotated[
        list[Path] | None,
        typer.Argument(metavar="AUDIT…", help="Trail folders or files of JSON lines; else the trail of `run_dir`."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="POLICIES", help="A policy file, folder or glob; else the configuration's."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="Exit 1 where somebody gains, loses, or either.")
    ] = None,
    key: TrailKeyOption = "",
    json: JsonOption = False,
    workers: Annotated[
        int, typer.Option("--workers", min=0, metavar="N", help="Processes; 0 is one per CPU.", show_default=True)
    ] = 0,
) -> int:
    """Decide recorded requests again under other policies, and say who gains and who loses access.

    Example: `ext-authz replay run/audit --against policies/ --fail-on gain`
    """
    import orjson

    from ext_authz.policy.schema import dump
    from ext_authz.tools.replay import replayer
    from ext_authz.tools.replay_tally import Tally, report
    from ext_authz.tools.trail_fold import Fold

    chunks = trail_chunks(audit, config)
    document, strict = _candidate(against, config)
    arguments = (orjson.dumps(dump(document)), strict)
    fold: Fold[Tally] = Fold(replayer, arguments, workers or os.cpu_count() or 1, chunks_key(chunks, key, config))
    total = Tally()
    for tally in folded(fold, chunks, "replaying"):
        total.join(tally)
    if not total.requests:
        raise CommandError("there is no recorded request in what was given")
    from ext_authz.policy.document import digest, revision

    made = report(total, revision(digest(policy) for policy in document.policies), len(document.policies))
    if json:
        say_json(orjson.dumps(made, option=orjson.OPT_INDENT_2).decode())
    else:
        _show(made)
    if total.not_replayed:
        events = "event" if total.not_replayed == 1 else "events"
        complain(f"warning: {total.not_replayed} {events} could not be replayed faithfully")
    return _status(fail_on, made["outcomes"])


def _status(fail_on: FailOn | None, outcomes: dict[str, int]) -> int:
    counted = {
        FailOn.GAIN: outcomes["gained"],
        FailOn.LOSS: outcomes["lost"],
        FailOn.ANY: outcomes["gained"] + outcomes["lost"],
    }
    return DOES_NOT_HOLD if fail_on is not None and counted[fail_on] else DONE


def trail_chunks(paths: Sequence[Path] | None, config: Path) -> "list[Chunk]":
    """Return what there is to read: the paths given, else the trail of the configuration's `run_dir`."""
    from ext_authz.tools.trail_fold import chunks_of

    try:
        return chunks_of(trail_paths(paths, config))
    except OSError as error:
        raise CommandError(f"cannot read `{error.filename}`: {(error.strerror or str(error)).lower()}") from None


def chunks_key(chunks: "Sequence[Chunk]", key: str, config: Path) -> "KeyReference | None":
    """Return the key that opens the chunks; None where none of them is encrypted. Raises as `trail_key` does."""
    from ext_authz.audit.trail import segment_of

    return trail_key(key, config) if any(segment_of(Path(chunk.path)) for chunk in chunks) else None


def _candidate(against: Sequence[str] | None, config: Path) -> "tuple[PolicyDocument, bool]":
    """Return the policies to ask, and whether windows must hold at both clocks (`server.strict_time`)."""
    from ext_authz import wiring
    from ext_authz.config import load
    from ext_authz.policy.schema import undump
    from ext_authz.tools.candidate import read_policies

    if against:
        document = read_policies(against)
        if not config.exists() and config == DEFAULT_CONFIG:
            return document, False
        loaded = load(config, os.environ, frozenset({"server"}))
        assert loaded.settings is not None  # noqa: S101  load raises otherwise
        return document, loaded.settings.server.strict_time
    inputs, _ = wiring.load(config, os.environ)
    return undump(inputs.policies), inputs.settings.server.strict_time


def folded(fold: "Fold[Any]", chunks: "Sequence[Chunk]", doing: str) -> Iterator[Any]:
    """Yield each chunk's tally, with a progress bar on a terminal once it takes more than two seconds."""
    with Meter(doing, sum(chunk.size for chunk in chunks)) as meter:
        for chunk, tally in fold.run(chunks):
            meter.moved(chunk.size)
            yield tally


def _show(made: dict[str, Any]) -> None:
    events, outcomes = made["events"], made["outcomes"]
    span = f", {printable(events['first'])} to {printable(events['last'])}" if events["first"] else ""
    say(f"{events['replayed']} of {counted(events['requests'], 'request')} decided again{span}")
    against = made["against"]
    policies = counted(against["policies"], "policy", "policies")
    say(f"against {policies}, revision {against['policies_revision']}")
    say()
    table = [
        ("as before", outcomes["same"]),
        ("gain access", outcomes["gained"]),
        ("lose access", outcomes["lost"]),
        ("allowed by another policy", outcomes["other_policy"]),
        ("denied for another reason", outcomes["other_reason"]),
        ("decided before policies", events["before_policies"]),
        ("not replayed", events["not_replayed"]),
    ]
    for words, count in table:
        say(f"  {count:>9}  {words}{_inner(words, made)}")
    for number, words in ((events["duplicates"], "came twice and count once"), (events["others"], "are no requests")):
        if number:
            say(f"  {number:>9}  events {words}")
    if made["renewed_approvals"]:
        words = "allowed by approvals of an earlier text of the policy: to be given anew"
        say(f"  {made['renewed_approvals']:>9}  {words}")
    for each in made["not_replayed"]:
        where = f"  e.g. {printable(each['event_ids'][0])}" if each["event_ids"] else ""
        what = f"{KINDS.get(each['kind'], each['kind'])}: {printable(each['detail'])}"
        say(f"  not replayed: {each['count']}, {what}{where}")
    for direction, verb in (("gained", "GAIN"), ("lost", "LOSE")):
        _show_changes(verb, made[direction], outcomes[direction])
    if made["changes_left_out"]:
        say(f"{made['changes_left_out']} changes are in the counts only: too many different ones")


KINDS: Final = {
    "damaged": "damaged",
    "unknown_schema": "of a schema this version does not know",
    "incomplete": "incomplete",
    "truncated": "cut when it was recorded",
    "erased": "redacted",
    "claim_not_recorded": "the policies read a claim that was not recorded",
    "claim_altered": "the policies read a claim that was not recorded as it was",
    "error": "an error",
}


def _inner(words: str, made: dict[str, Any]) -> str:
    if words != "decided before policies" or not made["before_policies"]:
        return ""
    counts = [f"{printable(each['name'])} {each['count']}" for each in made["before_policies"]]
    return f" ({', '.join(counts)})"


def _show_changes(verb: str, changes: dict[str, Any], total: int) -> None:
    from rich.table import Table
    from rich.text import Text

    if not total:
        return
    say()
    say(f"{total} {verb} access")
    for name in ("policy", "subject", "resource", "action"):
        ranked = changes[f"by_{name}"]
        words = [f"{printable(each['name'] or '(none)')} {each['count']}" for each in ranked[:_TOP]]
        say(f"  by {name}: {', '.join(words)}{f', and {len(ranked) - _TOP} more' if len(ranked) > _TOP else ''}")
    table = Table("count", "subject", "resource", "action", "was", "now", "decision", box=None, pad_edge=False)
    for each in changes["changes"][:_SHOWN]:
        cells = (
            each["count"],
            each["subject"],
            each["resource"],
            each["action"],
            _named(each["was_reason"], each["was_policy"]),
            _named(each["reason"], each["policy"]),
            (each["decision_ids"] or [""])[0],
        )
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
    show_table(table)
    if len(changes["changes"]) > _SHOWN:
        say(f"… and {len(changes['changes']) - _SHOWN} more (`--json` has them)")


def _named(reason: str, policy: str) -> str:
    return f"{reason} ({policy})" if policy else reason
