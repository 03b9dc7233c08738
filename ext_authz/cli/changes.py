"""Commands that change or list the shared state: approvals, revocations, quarantines.

Law: each change is one row of the append-only store of `run_dir`, with who and
why; a configuration that does not load elsewhere does not stop a revocation.
Non-goal: telling the workers (they look by themselves within a second).
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import os
import pwd
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    CommandError,
    ConfigOption,
    JsonOption,
    clock_text,
    complain,
    moment_of,
    say,
    say_json,
    seconds_of,
    show_table,
)
from ext_authz.documents import printable

if TYPE_CHECKING:
    from ext_authz.state.changes import Change, Kind
    from ext_authz.state.replicator import Replicator
    from ext_authz.state.sqlite import SqliteStore

SECOND: Final = 1_000_000_000
_PARTS: Final = frozenset({"run_dir", "state"})

WithdrawOption = Annotated[bool, typer.Option("--withdraw", help="Take back what was recorded with these very values.")]
WithdrawId = Annotated[
    int | None,
    typer.Option("--withdraw", metavar="ID", help="Take back the entry with this number instead of listing."),
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded.")]


def revoke(
    config: ConfigOption = DEFAULT_CONFIG,
    jti: Annotated[
        str, typer.Option("--jti", metavar="J", help="The token with this id (of `--issuer`, or of any).")
    ] = "",
    issuer: Annotated[
        str, typer.Option("--issuer", metavar="I", help="An issuer: with `--jti`, or with `--before`.")
    ] = "",
    subject: Annotated[
        str,
        typer.Option("--subject", metavar="S", help="Everything of this subject; with `--before`, its older tokens."),
    ] = "",
    before: Annotated[
        str, typer.Option("--before", metavar="T", help="Tokens issued up to this time (RFC 3339, or `now`).")
    ] = "",
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", metavar="F", help="The certificate with this SHA-256.")
    ] = "",
    serial: Annotated[
        str, typer.Option("--serial", metavar="N", help="The certificate with this serial (hexadecimal).")
    ] = "",
    issuer_dn: Annotated[str, typer.Option("--issuer-dn", metavar="D", help="Issuer of `--serial` (RFC 4514).")] = "",
    key_id: Annotated[str, typer.Option("--key-id", metavar="K", help="The API key with this id.")] = "",
    reason: ReasonOption = "",
    withdraw: WithdrawOption = False,
) -> None:
    """Refuse a credential from now on, wherever it is presented.

    Example: `ext-authz revoke --subject alice --before 2026-11-23T10:00:00Z --reason "laptop stolen"`
    """
    from ext_authz.state.changes import Change, Kind

    say_kind(config, subject)
    now_ns = time.time_ns()
    change = Change(
        kind=Kind.REVOCATION,
        by=operator(),
        at_ns=now_ns,
        reason=reason,
        withdraw=withdraw,
        subject=subject_of(subject) if subject else "",
        token_id=jti,
        issuer=issuer,
        before=_before(before, now_ns) if before else None,
        fingerprint=fingerprint,
        serial=serial,
        issuer_dn=_issuer_dn(issuer_dn) if issuer_dn else "",
        key_id=key_id,
    )
    record(config, change)


def _before(text: str, now_ns: int) -> int:
    return now_ns // SECOND if text == "now" else moment_of(text, "--before") // SECOND


def revocations(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False, withdraw: WithdrawId = None) -> None:
    """List the revocations that hold.

    Example: `ext-authz revocations --json`
    """
    from ext_authz.state.changes import Kind

    _list_or_withdraw(config, Kind.REVOCATION, json=json, withdraw=withdraw, columns=("what", "by", "at", "reason"))


def quarantine(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="Typed name; a bare one means `sub:`.")],
    config: ConfigOption = DEFAULT_CONFIG,
    length: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: `10m`, `1h`.")] = "",
    reason: ReasonOption = "",
    withdraw: WithdrawOption = False,
) -> None:
    """Deny everything to a verified subject for a while.

    Example: `ext-authz quarantine alice --for 10m --reason "unusual volume"`
    """
    from ext_authz.state.changes import Change, Kind

    say_kind(config, subject)
    if withdraw:
        ends = None
    elif not length or not reason:
        raise CommandError("a quarantine needs `--for` and `--reason`")
    else:
        ends = time.time_ns() // SECOND + seconds_of(length, "--for")
    change = Change(
        kind=Kind.QUARANTINE,
        by=operator(),
        at_ns=time.time_ns(),
        reason=reason,
        withdraw=withdraw,
        subject=subject_of(subject),
        expires_at=ends,
    )
    record(config, change)


def quarantines(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False, withdraw: WithdrawId = None) -> None:
    """List the quarantines that hold.

    Example: `ext-authz quarantines`
    """
    from ext_authz.state.changes import Kind

    columns = ("subject", "until", "by", "reason")
    _list_or_withdraw(config, Kind.QUARANTINE, json=json, withdraw=withdraw, columns=columns)


def approvals(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False, withdraw: WithdrawId = None) -> None:
    """List the approvals that hold.

    Example: `ext-authz approvals --json`
    """
    from ext_authz.state.changes import Kind

    columns = ("policy", "group", "subject", "resource", "until", "by", "reason")
    _list_or_withdraw(config, Kind.APPROVAL, json=json, withdraw=withdraw, columns=columns)


def subject_of(name: str) -> str:
    """Return the typed name of a subject in the one spelling that identities have; a bare name means `sub:`.

    Raises CommandError where no subject can be called so: what never matches must not look recorded.
    """
    from ext_authz.authn.subjects import subject_named

    try:
        return subject_named(name)
    except ValueError as error:
        raise CommandError(f"`{printable(name)}` {error}") from None


def say_kind(config: Path, name: str) -> None:
    """Warn where a bare name, which means `sub:`, is an API key's: it must not look as if that were hit."""
    from ext_authz.authn.api_key_file import read_keys
    from ext_authz.config import load
    from ext_authz.documents import DocumentError
    from ext_authz.state.changes import typed_subject

    if not name or typed_subject(name) == name:
        return
    try:
        settings = load(config, os.environ, frozenset({"identity"})).settings
        keys = None if settings is None else settings.identity.api_keys
        found = () if keys is None else read_keys(keys.file.read_text(encoding="utf-8"), str(keys.file))
    except (DocumentError, OSError, ValueError):
        return  # whatever is wrong there, it holds up no quarantine
    if any(each.subject == name for each in found):
        shown = printable(name)
        complain(f"warning: `{shown}` means `sub:{shown}`; the API key of this name is `key:{shown}`")


def _issuer_dn(text: str) -> str:
    """Return an issuer's name with its escapes resolved; the store compares it whichever end it begins with."""
    from ext_authz.authn.certificate import CertificateError, canonical_dn

    if text.startswith("/"):
        raise CommandError(f"--issuer-dn: `{printable(text)}` is OpenSSL's old form; write it as `CN=ca,O=Acme`")
    parts = (each.partition("=") for each in re.split(r"(?<!\\),", text))
    try:
        return canonical_dn(",".join(f"{kind.strip()}={value.strip()}" for kind, _, value in parts))
    except CertificateError:
        return text


def operator() -> str:
    """Return `os:USER` of whoever runs this process (the real user id; an unnamed one is its number)."""
    uid = os.getuid()
    try:
        return f"os:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"os:{uid}"


@contextmanager
def open_store(config: Path, *, create: bool = True) -> Iterator["SqliteStore"]:
    """Open the state store of the configuration's `run_dir`. Raises DocumentError or CommandError."""
    from ext_authz.config import load, prepare_run_dir
    from ext_authz.documents import mark_at
    from ext_authz.state import StoreError
    from ext_authz.state.opening import open_replicator
    from ext_authz.state.opening import open_store as opened

    loaded = load(config, os.environ, _PARTS)
    assert loaded.settings is not None  # noqa: S101  load raises otherwise
    run_dir = loaded.settings.run_dir
    prepare_run_dir(run_dir, mark_at(loaded.node, ("run_dir",)))
    state = loaded.settings.state
    try:
        store = opened(state, run_dir, create=create)
        replicator = open_replicator(state, run_dir)
    except StoreError as error:
        raise CommandError(str(error)) from None
    try:
        problem = "" if replicator is None else _sync(replicator)
        before = store.version()
        try:
            yield store
        finally:
            changed = store.version() != before
            if replicator is not None and changed:
                problem = _sync(replicator)
            if problem:
                mine = "only this host knows, until its sidecar reaches the shared store"
                others = "other hosts may know more, since this one does not reach the shared store"
                complain(f"note: {mine if changed else others}: {printable(problem)}")
    except StoreError as error:
        raise CommandError(str(error)) from None
    finally:
        store.close()


def _sync(replicator: "Replicator") -> str:
    """Carry changes between this host and the shared store; return why that failed, else nothing."""
    from ext_authz.state import StoreError

    try:
        replicator.sync()
    except (StoreError, ValueError) as error:
        return str(error)
    finally:
        replicator.drop()
    return ""


def record(config: Path, change: "Change") -> None:
    """Store the change and say so."""
    problem = change.problem()
    if problem is not None:
        raise CommandError(problem)
    with open_store(config) as store:
        held = _held(store, change) if change.withdraw else []
        stored = store.append(change)
    verb, numbers = ("withdrew", held) if change.withdraw else ("recorded", [stored.id])
    noun = f"{change.kind.value}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
    say(f"{verb} {noun}: {printable(_what(change))}; every worker knows within 1 s")


def _held(store: "SqliteStore", change: "Change") -> list[int]:
    """Return the numbers of what a withdrawal takes back, as the lists show them. Raises CommandError for nothing."""
    from ext_authz.state.book import read_book

    now_ns = time.time_ns()
    numbers = [
        each.id
        for each in read_book(store).active(now_ns)
        if each.kind is change.kind and each.key == change.key and change.resource in ("", each.resource)
    ]
    if not numbers:
        raise CommandError(f"no {change.kind.value} that holds says: {_what(change)}", status=1)
    return numbers


def _list_or_withdraw(config: Path, kind: "Kind", *, json: bool, withdraw: int | None, columns: Sequence[str]) -> None:
    from ext_authz.state.book import read_book

    with open_store(config) as store:
        held = [each for each in read_book(store).active(time.time_ns()) if each.kind is kind]
    if withdraw is not None:
        found = next((each for each in held if each.id == withdraw), None)
        if found is None:
            raise CommandError(f"no {kind.value} {withdraw} holds", status=1)
        record(config, _withdrawal(found))
        return
    if json:
        import orjson

        say_json(orjson.dumps([{"id": each.id, **each.record()} for each in held], option=orjson.OPT_INDENT_2).decode())
        return
    if not held:
        say(f"no {kind.value}s")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("id", *columns, box=None, pad_edge=False)
    for each in held:
        table.add_row(str(each.id), *(Text(printable(_CELLS[column](each))) for column in columns))
    show_table(table)


def _withdrawal(change: "Change") -> "Change":
    from dataclasses import replace

    from ext_authz.state.changes import Kind

    # A quarantine or approval is taken back by its key alone; its end is no part of that.
    ends = change.expires_at if change.kind is Kind.REVOCATION else None
    return replace(change, id=0, by=operator(), at_ns=time.time_ns(), reason="", withdraw=True, expires_at=ends)


def _what(change: "Change") -> str:
    names = (
        "policy",
        "group",
        "subject",
        "resource",
        "token_id",
        "issuer",
        "fingerprint",
        "serial",
        "issuer_dn",
        "key_id",
    )
    parts = [
        f"{name.replace('token_id', 'jti').replace('_', '-')} {getattr(change, name)}"
        for name in names
        if getattr(change, name)
    ]
    if change.before is not None:
        parts.append(f"issued up to {clock_text(change.before)}")
    if change.expires_at is not None:
        parts.append(f"until {clock_text(change.expires_at)}")
    return ", ".join(parts)


_CELLS: Final[dict[str, Callable[["Change"], str]]] = {
    "what": _what,
    "by": lambda change: change.by,
    "at": lambda change: clock_text(change.at_ns // SECOND),
    "reason": lambda change: change.reason,
    "subject": lambda change: change.subject,
    "until": lambda change: clock_text(change.expires_at),
    "policy": lambda change: change.policy,
    "group": lambda change: change.group,
    "resource": lambda change: change.resource,
}
