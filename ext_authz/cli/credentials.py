"""`apikey` and `token`: credentials that this installation issues itself.

Law: a key or token is printed once, on stdout, alone; everything said about it goes to stderr.
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ext_authz.cli.changes import open_store, operator
from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    DOES_NOT_HOLD,
    CommandError,
    ConfigOption,
    JsonOption,
    clock_text,
    complain,
    say,
    say_json,
    seconds_of,
    show_table,
)
from ext_authz.documents import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ext_authz.authn.api_key import ApiKey
    from ext_authz.settings import Network
    from ext_authz.state.changes import Change

apikey = typer.Typer(
    help="Manage the hashed API key file.\n\nExample: `ext-authz apikey new --subject batch-7 --role scorer`",
    no_args_is_help=True,
)
token = typer.Typer(
    help="Mint tokens of this installation.\n\nExample: `ext-authz token issue --subject alice --ttl 15m`",
    no_args_is_help=True,
)

_ID_BYTES: Final = 6


@apikey.command()
def new(
    subject: Annotated[str, typer.Option("--subject", metavar="S", help="Whose key it is; the principal is `key:S`.")],
    config: ConfigOption = DEFAULT_CONFIG,
    role: Annotated[list[str] | None, typer.Option("--role", metavar="R", help="A role it grants; repeatable.")] = None,
    org: Annotated[str, typer.Option("--org", metavar="O", help="Its organisation.")] = "",
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="TIME", help="How long it is valid: `90d`. Without: no end.")
    ] = "",
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="For people.")] = "",
    cidr: Annotated[
        list[str] | None,
        typer.Option("--cidr", metavar="NET", help="A network it is good in; repeatable. Without: anywhere."),
    ] = None,
) -> None:
    """Make a key, add its hash to the file, and print the key: once, here, never again.

    Example: `ext-authz apikey new --subject batch-7 --role scorer --ttl 90d`
    """
    from ext_authz.authn.api_key_file import add_key, new_key

    path = _key_file(config)
    now = int(time.time())
    with _user_mistakes(path):
        key, record = new_key(
            subject=subject,
            secret=secrets.token_bytes(32),
            key_id=secrets.token_hex(_ID_BYTES),
            now=now,
            lifetime=seconds_of(ttl, "--ttl") if ttl else None,
            roles=role or [],
            org=org,
            note=note,
            cidrs=[_network(each) for each in cidr or []],
        )
        with open_store(config) as store:
            add_key(path, record)
            store.append(_change(record))
    ends = f"until {clock_text(record.expires)}" if record.expires is not None else "without an end"
    complain(f"key {record.id} for key:{printable(subject)}, valid {ends}, added to {path}")
    say(key)


@apikey.command("list")
def list_(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """List the keys: whose they are, how long they hold, and when servers of this `run_dir` last saw them used.

    Example: `ext-authz apikey list --json`
    """
    from ext_authz.authn.api_key_file import list_keys

    path = _key_file(config)
    with _user_mistakes(path):
        keys = list_keys(path)
    used = _last_uses(config)
    if json:
        import orjson

        plain = [
            {
                "id": key.id,
                "subject": f"key:{key.subject}",
                "roles": sorted(key.roles),
                "org": key.org,
                "cidrs": [str(each) for each in key.cidrs],
                "created": clock_text(key.created) or None,
                "expires": clock_text(key.expires) or None,
                "revoked": clock_text(key.revoked) or None,
                "last_used": clock_text(used.get(key.id)) or None,
                "note": key.note,
            }
            for key in keys
        ]
        say_json(orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode())
        return
    if not keys:
        say("no keys")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "id", "subject", "roles", "org", "networks", "expires", "revoked", "last used", "note", box=None, pad_edge=False
    )
    for key in keys:
        cells = (
            key.id,
            f"key:{key.subject}",
            ", ".join(sorted(key.roles)),
            key.org,
            ", ".join(map(str, key.cidrs)),
            clock_text(key.expires) or "never",
            clock_text(key.revoked),
            clock_text(used.get(key.id)),
            key.note,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    show_table(table)


@apikey.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `apikey list` prints it.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Withdraw a key in the file; running servers reload it.

    Example: `ext-authz apikey revoke 4f1d2c3b5a69`
    """
    from ext_authz.authn.api_key_file import list_keys, revoke_key

    path = _key_file(config)
    with _user_mistakes(path), open_store(config) as store:
        before = {key.id for key in list_keys(path) if key.revoked is not None}
        record = revoke_key(path, key_id, int(time.time()))
        if record.id not in before:
            store.append(_change(record))
    say(f"revoked {record.id} of key:{printable(record.subject)} at {clock_text(record.revoked)}")


def _change(record: "ApiKey") -> "Change":
    """Return what the audit trail is told of a key that was made or withdrawn."""
    from ext_authz.state.changes import Change, Kind

    withdrawn = record.revoked is not None
    return Change(
        kind=Kind.API_KEY,
        by=operator(),
        at_ns=time.time_ns(),
        reason=record.note,
        withdraw=withdrawn,
        subject=f"key:{record.subject}",
        key_id=record.id,
        expires_at=None if withdrawn else record.expires,
    )


def _network(text: str) -> "Network":
    from pydantic_core import PydanticCustomError

    from ext_authz.settings import parse_cidr

    try:
        return parse_cidr(text)
    except PydanticCustomError as error:
        raise CommandError(f"--cidr: {error.message()}") from None


def _last_uses(config: Path) -> "Mapping[str, int]":
    from ext_authz.config import load
    from ext_authz.server.last_use import last_uses

    loaded = load(config, os.environ, frozenset({"run_dir"}))
    assert loaded.settings is not None  # noqa: S101  load raises otherwise
    return last_uses(loaded.settings.run_dir)


def _key_file(config: Path) -> Path:
    from ext_authz.config import load

    loaded = load(config, os.environ, frozenset({"identity"}))
    keys = loaded.settings.identity.api_keys if loaded.settings is not None else None
    if keys is None:
        raise CommandError(f"{config}: `identity.api_keys.file` is not configured")
    return keys.file


@contextmanager
def _user_mistakes(path: Path) -> Iterator[None]:
    """Turn what a user can cause into a line for the user."""
    try:
        yield
    except KeyError as error:
        raise CommandError(f"{path}: no key has the id `{error.args[0]}`", DOES_NOT_HOLD) from None
    except UnicodeDecodeError:
        raise CommandError(f"{path}: is not UTF-8 text") from None
    except ValueError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"cannot use `{path}`: {(error.strerror or str(error)).lower()}") from None


@token.command()
def issue(
    subject: Annotated[
        str, typer.Option("--subject", metavar="S", help="Whose token it is; the principal is `sub:S`.")
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    role: Annotated[list[str] | None, typer.Option("--role", metavar="R", help="A role it grants; repeatable.")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", metavar="G", help="A group; repeatable.")] = None,
    org: Annotated[str, typer.Option("--org", metavar="O", help="The organisation.")] = "",
    permission: Annotated[
        list[str] | None,
        typer.Option("--permission", metavar="P", help="Into the claim `permissions`, which grants nothing by itself."),
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long it holds, at most 1h.")] = "15m",
    mfa: Annotated[bool, typer.Option("--mfa", help="Say that more than one factor was used (`amr: [mfa]`).")] = False,
    bind: Annotated[
        Path | None,
        typer.Option("--bind", metavar="CERT", help="Bind it to this client certificate (PEM; RFC 8705)."),
    ] = None,
) -> None:
    """Mint a short-lived JWT signed with `tokens.private_key`, and print it.

    Example: `ext-authz token issue --subject alice --role data_scientist --ttl 15m`
    """
    from ext_authz import wiring
    from ext_authz.authn.tokens import issue as mint
    from ext_authz.authn.tokens import new_token_id
    from ext_authz.config import load_inputs

    inputs = load_inputs(config, os.environ)
    settings = inputs.settings.tokens
    if settings is None:
        raise CommandError(f"{config}: `tokens` is not configured")
    key = wiring.signing_key(inputs)
    now = int(time.time())
    lifetime = seconds_of(ttl, "--ttl")
    try:
        text = mint(
            key,
            settings,
            subject=subject,
            now=now,
            lifetime=lifetime,
            token_id=new_token_id(),
            roles=role or [],
            groups=group or [],
            org=org,
            permissions=permission or [],
            amr=["mfa"] if mfa else [],
            fingerprint=_fingerprint(bind) if bind is not None else "",
        )
    except ValueError as error:
        raise CommandError(str(error)) from None
    complain(f"token for sub:{printable(subject)}, valid until {clock_text(now + lifetime)}")
    say(text)


def _fingerprint(path: Path) -> str:
    """Return the SHA-256 of a PEM certificate in hexadecimal."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CommandError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise CommandError(f"{path}: holds no PEM certificate") from None
    return certificate.fingerprint(hashes.SHA256()).hex()
