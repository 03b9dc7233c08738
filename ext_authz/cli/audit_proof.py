"""`audit verify`, `prove`, `verify-proof`, `public-key`: what an auditor runs, with the server or far from it.

Law: reading changes nothing; everything shown may come from an attacker and is escaped. Exit status: 0 whole, else the
gravest of 1 altered, 4 incomplete, 3 cannot decrypt. Non-goal: finding it (audit/verify.py, audit/proof.py).
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    DOES_NOT_HOLD,
    CommandError,
    ConfigOption,
    JsonOption,
    TrailKeyOption,
    complain,
    console,
    counted,
    open_trail_key,
    say,
    say_json,
    trail_paths,
)
from ext_authz.documents import printable

if TYPE_CHECKING:
    from ext_authz.audit.anchors import Anchors
    from ext_authz.audit.checkpoint import VerifierKey
    from ext_authz.audit.report import LogReport, Report

Folders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PATH]…", help="Trail folders (or `run_dir`s); else the configuration's `run_dir`."),
]
PublicKey = Annotated[
    Path | None,
    typer.Option("--public-key", metavar="FILE", help="The verifier keys to trust, one a line (`audit public-key`)."),
]

_VERDICTS = {0: "whole", 1: "ALTERED", 3: "CANNOT DECRYPT", 4: "INCOMPLETE"}


def verify(
    paths: Folders = None,
    config: ConfigOption = DEFAULT_CONFIG,
    key: TrailKeyOption = "",
    public_key: PublicKey = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against", metavar="FILE", help="A checkpoint that was kept, or a sink's copy (JSON lines); repeatable."
        ),
    ] = None,
    decrypt: Annotated[
        bool, typer.Option(" /--no-decrypt", help="Look at frames and their order only: needs no key.")
    ] = True,
    jobs: Annotated[
        int, typer.Option("--jobs", min=0, max=256, help="Processes to use; 0: one for each CPU.", show_default=True)
    ] = 0,
    json: JsonOption = False,
) -> int:
    """Prove the trail whole: nothing altered, nothing missing, signed by the key you trust.

    Example: `ext-authz audit verify run/audit --public-key audit-signing.key.pub --against kept.jsonl`
    """
    from ext_authz.audit.verify import Verifier
    from ext_authz.cli.progress import Meter

    folders = _folders(paths, config)
    keys = _keys(public_key, config)
    open_key = open_trail_key(key, config)
    anchors = _anchors(against or [], keys)
    verifier = Verifier(
        folders,
        open_key if decrypt else None,
        keys,
        anchors=anchors,
        decrypt=decrypt,
        processes=jobs or os.cpu_count() or 1,
    )
    with Meter("verifying", verifier.bytes()) as meter:
        verifier.moved = meter.moved
        report = verifier.run()
    if not report.logs and not report.problems:
        raise CommandError(f"there is no audit trail in {', '.join(map(str, folders))}")
    if decrypt and keys is None:
        report.notes.append(
            "signatures were held against the keys that the trail names for itself: name one you trust (`--public-key`)"
        )
    if json:
        import orjson

        say_json(orjson.dumps(report.plain(), option=orjson.OPT_INDENT_2).decode())
    else:
        _show(report)
    return report.status


def _show(report: "Report") -> None:
    from rich.text import Text

    out = console()
    for log in report.logs:
        _show_log(log, content=report.content)
    for problem in report.problems:
        out.print(Text(printable(str(problem)), style="bold red"))
    for note in report.notes:
        complain(f"note: {printable(note)}")
    events = sum(log.events for log in report.logs)
    verdict = _VERDICTS[report.status]
    what = "" if report.content else " (frames and their order only: nothing was decrypted, no signature checked)"
    verdict = "frames whole" if not (report.content or report.status) else verdict
    line = f"{verdict}: {counted(len(report.logs), 'log')}, {counted(events, 'event')}{what}"
    out.print(Text(line, style="bold red" if report.status else "bold green"))


def _numbers(first: int, end: int) -> str:
    if end <= first:
        return ""
    return f" (number {first})" if end == first + 1 else f" (numbers {first} to {end - 1})"


def _show_log(log: "LogReport", *, content: bool) -> None:
    say(printable(log.log))
    held = f"{counted(log.segments, 'segment')}, {counted(log.events, 'event')}{_numbers(log.first, log.end)}"
    say(f"  {log.state}, {held}, {counted(log.bytes, 'byte')}")
    if content:
        if log.first_time:
            say(f"  from {printable(log.first_time)} to {printable(log.last_time)}")
        keys = ", ".join("+".join(key.split("+")[:2]) for key in log.keys) or "nobody"
        marks = f"{log.signed} of {counted(log.checkpoints, 'checkpoint')}"
        say(f"  {counted(log.covered, 'event')} signed by {printable(keys)}: {marks}")
        for wrapped, count in log.wrapped_by.items():
            say(f"  {counted(count, 'data key')} wrapped by {printable(wrapped)}")
    for gap in log.gaps:
        dropped = counted(gap["count"], "event was", "events were")
        say(printable(f"  gap on record: {dropped} dropped between {gap['since']} and {gap['until']}"))
    for name in log.shredded:
        say(printable(f"  {name}: its key is deleted, nobody can read it any more"))
    if log.removed:
        say(f"  {counted(log.removed, 'segment')} before these {'was' if log.removed == 1 else 'were'} removed")
    for note in log.notes:
        say(f"  {printable(note)}")


def prove(
    event: Annotated[
        str, typer.Argument(metavar="ID", help="An event id, or the decision id that a caller was given.")
    ],
    paths: Folders = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where to write the proof; else stdout.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    key: TrailKeyOption = "",
    public_key: PublicKey = None,
) -> None:
    """Prove that one event is in the trail, to somebody who has the public key alone.

    The file holds that event and no other, its place in the log, and a signed checkpoint (C2SP tlog-proof).

    Example: `ext-authz audit prove 61dcd5ac14e9758b1b5498d5c7b1a3e7 -o denied.tlog-proof`
    """
    from ext_authz.audit.proof import ProofError
    from ext_authz.audit.proof import prove as proven
    from ext_authz.envelope.errors import AlteredError, UnsupportedError
    from ext_authz.envelope.files import replacing

    folders = _folders(paths, config)
    keys = _keys(public_key, config)
    try:
        made = proven(folders, event, open_trail_key(key, config), keys)
    except (ProofError, AlteredError, UnsupportedError) as error:
        raise CommandError(printable(str(error)), DOES_NOT_HOLD) from None
    if out is None:
        say(made.text().rstrip("\n"))
        return
    try:
        with replacing(out) as file:
            file.write(made.text().encode())
    except OSError as error:
        raise CommandError(f"cannot write `{out}`: {(error.strerror or 'failed').lower()}") from None
    say(printable(f"{out}: proof of event {made.index} of its log, and nothing of other events"))


def verify_proof(
    proof: Annotated[Path, typer.Argument(metavar="FILE", help="What `audit prove` wrote.")],
    public_key: PublicKey = None,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Check a proof: needs the public key, and neither the trail nor the server.

    Example: `ext-authz audit verify-proof denied.tlog-proof --public-key audit-signing.key.pub`
    """
    import orjson

    from ext_authz.audit.proof import MAX_BYTES, ProofError, Proven, check

    keys = _keys(public_key, config)
    if keys is None:
        raise CommandError("name the key to trust with `--public-key`")
    text = _read(proof, MAX_BYTES)
    try:
        event, head, by = check(Proven.parse(text), keys)
    except ProofError as error:
        raise CommandError(f"{proof}: not proven: {printable(str(error))}", DOES_NOT_HOLD) from None
    if json:
        made = {"event": event, "log": head.log_id, "index": event["seq"], "size": head.size, "key": str(by)}
        say_json(orjson.dumps(made, option=orjson.OPT_INDENT_2).decode())
        return
    say(printable(orjson.dumps(event, option=orjson.OPT_SORT_KEYS).decode()))
    complain(
        printable(
            f"proven: this is event {event['seq']} of the log {head.log_id},"
            f" whose first {head.size} events {by.name}+{by.id.hex()} signed"
        )
    )


def public_key(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print the verifier key of the trail's checkpoints: give it to whoever is to audit it.

    Example: `ext-authz audit public-key > audit.pub`
    """
    keys = _configured(config)
    if keys is None:
        raise CommandError("there is no signing key yet: the first start of the server makes it")
    say(str(keys[0]))


def _folders(paths: list[Path] | None, config: Path) -> list[Path]:
    from ext_authz.audit.reader import AUDIT_FOLDER

    found = []
    for path in trail_paths(paths, config):
        if not path.is_dir():
            why = "no such file or directory" if not path.exists() else "not a folder"
            raise CommandError(f"cannot read `{path}`: {why}")
        inner = path / AUDIT_FOLDER
        found.append(inner if inner.is_dir() else path)
    return found


def _keys(public_key: Path | None, config: Path) -> "Sequence[VerifierKey] | None":
    """Return the keys to trust: those of a file, else what the configuration signs with; None where there is none."""
    if public_key is None:
        return _configured(config)
    from ext_authz.audit.checkpoint import NoteError, parse_keys

    try:
        return parse_keys(_read(public_key, 1024 * 1024))
    except NoteError as error:
        raise CommandError(f"`{public_key}` {error}") from None


def _configured(config: Path) -> "list[VerifierKey] | None":
    if not config.exists() and config == DEFAULT_CONFIG:
        return None
    from ext_authz.audit.checkpoint import NoteError, parse_keys
    from ext_authz.audit.signing import PUBLIC_SUFFIX, open_signer
    from ext_authz.audit.trail_keys import TrailKeys
    from ext_authz.config import load
    from ext_authz.envelope.errors import KeyUnavailableError

    loaded = load(config, os.environ, frozenset({"run_dir", "audit"}))
    assert loaded.settings is not None  # noqa: S101  load raises otherwise
    reference = TrailKeys(loaded.settings.audit, loaded.base, loaded.settings.run_dir, os.environ).signing
    try:
        return [open_signer(reference, os.environ).key]
    except KeyUnavailableError as error:
        public = Path(reference.rest + PUBLIC_SUFFIX)
        if reference.scheme == "file" and public.is_file():
            # An auditor may read this one and not the private key.
            try:
                return parse_keys(_read(public, 1024 * 1024))
            except NoteError as problem:
                raise CommandError(f"`{public}` {problem}") from None
        if reference.scheme == "file" and not Path(reference.rest).exists():
            return None
        raise CommandError(f"the signing key: {printable(str(error))}") from None


def _anchors(paths: "Sequence[Path]", keys: "Sequence[VerifierKey] | None") -> "Anchors":
    from ext_authz.audit.anchors import Anchors, read_anchors
    from ext_authz.audit.checkpoint import NoteError

    made = Anchors()
    for path in paths:
        try:
            made.join(read_anchors(path, keys))
        except OSError as error:
            raise CommandError(f"cannot read `{path}`: {(error.strerror or 'failed').lower()}") from None
        except NoteError as error:
            raise CommandError(f"--against `{path}`: {printable(str(error))}", DOES_NOT_HOLD) from None
    return made


def _read(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise CommandError(f"cannot read `{path}`: {(error.strerror or 'failed').lower()}") from None
    if len(raw) > most:
        raise CommandError(f"`{path}` is too long for what it should be")
    return raw.decode("utf-8", "replace")
