"""`bundle …`: make, sign, verify, look at and fetch signed archives of policies.

Law: what is written appears whole or not at all; a private key is made 0600 and never printed.
Non-goal: distributing an archive (any web server does).
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    DOES_NOT_HOLD,
    CommandError,
    ConfigOption,
    JsonOption,
    counted,
    moment_of,
    say,
    say_json,
    seconds_of,
)
from ext_authz.documents import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ext_authz.bundle.manifest import Manifest

app = typer.Typer(
    help="Signed archives of policies and resources for many sidecars.\n\n"
    "Example: `ext-authz bundle build . --name ml-prod --revision 17 -o ml-prod.tar.gz`",
    no_args_is_help=True,
)

SECOND: Final = 1_000_000_000
_MAX_ARCHIVE: Final = 2**30

ArchiveArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The archive (`.tar.gz`).")]
PrivateKey = Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key (PEM) to sign with.")]
NameOption = Annotated[
    str, typer.Option("--name", metavar="NAME", help="The bundle's name, as `policies.bundle.name` has it.")
]


@app.command()
def key(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where the private key goes; FILE.pub is the public one.")
    ],
) -> None:
    """Make an Ed25519 key pair: FILE (0600) signs bundles, FILE.pub goes to `policies.bundle.public_keys`.

    Example: `ext-authz bundle key bundle-2026.pem`
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ext_authz.bundle.keys import key_id

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    beside = file.with_name(file.name + ".pub")
    for path in (file, beside):
        if path.exists() or path.is_symlink():
            raise CommandError(f"`{printable(str(path))}` is there already")
    _write(file, pem, 0o600)
    _write(beside, public, 0o644)
    say(f"{file} (0600) and {beside}: key {key_id(private.public_key())}")


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Holds `policies/` and perhaps `resources/`.")],
    name: NameOption,
    revision: Annotated[
        int,
        typer.Option("--revision", metavar="N", help="Larger than that of every one before, such as a build number."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="The archive to write.")] = Path(
        "bundle.tar.gz"
    ),
    valid: Annotated[str, typer.Option("--valid", metavar="TIME", help="How long a server takes it.")] = "30d",
    created: Annotated[
        str,
        typer.Option("--created", metavar="TIME", help="When it was made (RFC 3339), so that the bytes are the same."),
    ] = "",
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Sign it at once with this private key.")
    ] = None,
) -> None:
    """Make an archive of the policies, tests and resources below FOLDER, once they load.

    Example: `ext-authz bundle build . --name ml-prod --revision 17 --key bundle-2026.pem -o ml-prod.tar.gz`
    """
    from ext_authz.bundle import build as making
    from ext_authz.bundle.manifest import name_problem, time_text
    from ext_authz.bundle.problems import BundleError
    from ext_authz.tools.bundles import check_files

    problem = name_problem(name)
    if problem is not None:
        raise CommandError(f"--name: `{printable(name)}` {problem}")
    made_at = moment_of(created, "--created") // SECOND if created else int(time.time())
    ends = made_at + seconds_of(valid, "--valid")
    private = None if key is None else _private(key)
    try:
        files = making.collect(folder)
        count = check_files(files)
        archive = making.build(files, name, revision, made_at, ends)
        if private is not None:
            archive = making.add_signature(archive, private)
    except BundleError as error:
        raise CommandError(str(error), status=DOES_NOT_HOLD) from None
    except OSError as error:
        raise CommandError(f"cannot read `{folder}`: {(error.strerror or str(error)).lower()}") from None
    _write(output, archive, 0o644)
    signed = "" if private is not None else "; nobody has signed it yet (`ext-authz bundle sign`)"
    say(f"{output}: `{name}` revision {revision}, {_content(count, len(files))}, until {time_text(ends)}{signed}")


@app.command()
def sign(file: ArchiveArgument, key: PrivateKey) -> None:
    """Add a signature to an archive (in place), beside those it has; its files are held against its manifest first.

    Example: `ext-authz bundle sign ml-prod.tar.gz --key bundle-2026.pem`
    """
    from ext_authz.bundle import build as making
    from ext_authz.bundle.keys import key_id
    from ext_authz.bundle.problems import BundleError

    private = _private(key)
    try:
        signed = making.add_signature(_archive(file), private)
    except BundleError as error:
        raise CommandError(f"{file}: {error} ({error.problem})", status=DOES_NOT_HOLD) from None
    _write(file, signed, 0o644)
    say(f"{file}: signed with key {key_id(private.public_key())}")


@app.command()
def verify(
    file: ArchiveArgument,
    keys: Annotated[
        list[Path], typer.Option("--key", metavar="FILE", help="A public key (PEM) that is trusted; repeatable.")
    ],
    name: NameOption = "",
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="As of this time (RFC 3339); without, now.")] = "",
) -> None:
    """Verify an archive as the server does: signature, expiry, every file; exit 1 where it does not hold.

    What only a server knows is not looked at: the newest revision that it had before.

    Example: `ext-authz bundle verify ml-prod.tar.gz --key bundle-2026.pem.pub --name ml-prod`
    """
    from ext_authz.bundle.build import look
    from ext_authz.bundle.keys import KeyFileError, load_public
    from ext_authz.bundle.manifest import time_text
    from ext_authz.bundle.problems import BundleError
    from ext_authz.tools.bundles import check_files

    publics = []
    for path in keys:
        try:
            publics.append(load_public(_read(path)))
        except KeyFileError as error:
            raise CommandError(f"--key: `{path}` {error}") from None
    now = moment_of(at, "--at") / SECOND if at else time.time()
    try:
        found = look(_archive(file), publics, name=name, now=now)
    except BundleError as error:
        raise CommandError(f"{file}: {error} ({error.problem})", status=DOES_NOT_HOLD) from None
    count = check_files(found.files)
    made = found.manifest
    signers = ", ".join(each[:16] for each in found.signed_by)
    say(
        f"{file}: whole; `{made.name}` revision {made.revision}, {_content(count, len(made.files))}, "
        f"until {time_text(made.expires_at)}, signed by {signers}"
    )


@app.command()
def inspect(file: ArchiveArgument, json: JsonOption = False) -> None:
    """Show what an archive says of itself. Nothing of it is verified.

    Example: `ext-authz bundle inspect ml-prod.tar.gz`
    """
    from ext_authz.bundle.archive import unverified
    from ext_authz.bundle.keys import read_signatures
    from ext_authz.bundle.manifest import parse
    from ext_authz.bundle.problems import BundleError

    try:
        data, signatures, _ = unverified(_archive(file))
        manifest, signed = parse(data), sorted(read_signatures(signatures))
    except BundleError as error:
        raise CommandError(f"{file}: {error} ({error.problem})", status=DOES_NOT_HOLD) from None
    plain = _plain(manifest, signed)
    if json:
        import orjson

        say_json(orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode())
        return
    for name in ("name", "revision", "created_at", "expires_at"):
        say(f"{name:<12}{plain[name]}")
    for each in signed or ["nobody"]:
        say(f"{'signed by':<12}{printable(each)}")
    for entry in manifest.files:
        say(f"{entry.size:>10}  {entry.sha256[:16]}  {entry.path}")
    say("not verified: `ext-authz bundle verify` does that")


@app.command()
def fetch(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Fetch the configuration's bundle, verify and load it, and keep it in `run_dir`, where a running server finds it.

    Example: `ext-authz bundle fetch -c ext-authz.yaml`
    """
    from ext_authz.bundle.problems import BundleError
    from ext_authz.config import load, prepare_run_dir
    from ext_authz.documents import mark_at
    from ext_authz.server.bundles import fetch_and_adopt

    loaded = load(config, os.environ)
    settings = loaded.settings
    assert settings is not None  # noqa: S101  load raises otherwise
    if settings.policies.bundle is None:
        raise CommandError(f"{config}: names no `policies.bundle`")
    prepare_run_dir(settings.run_dir, mark_at(loaded.node, ("run_dir",)))
    try:
        inputs = fetch_and_adopt(config, os.environ, settings.policies.bundle)
    except BundleError as error:
        raise CommandError(f"bundle refused ({error.problem}): {error}", status=DOES_NOT_HOLD) from None
    facts = None if inputs is None else inputs.bundle
    assert facts is not None  # noqa: S101  a bundle was adopted
    say(f"bundle `{facts.name}` revision {facts.revision} is kept in {settings.run_dir}")


def _content(policies: int, files: int) -> str:
    return f"{counted(policies, 'policy', 'policies')} in {counted(files, 'file')}"


def _plain(manifest: "Manifest", signed: list[str]) -> dict[str, Any]:
    from ext_authz.bundle.manifest import time_text

    return {
        "name": manifest.name,
        "revision": manifest.revision,
        "created_at": time_text(manifest.created_at),
        "expires_at": time_text(manifest.expires_at),
        "signed_by": signed,
        "files": [{"path": each.path, "size": each.size, "sha256": each.sha256} for each in manifest.files],
    }


def _private(path: Path) -> "Ed25519PrivateKey":
    from ext_authz.bundle.keys import KeyFileError, load_private

    try:
        return load_private(_read(path))
    except KeyFileError as error:
        raise CommandError(f"--key: `{path}` {error}") from None


def _archive(path: Path) -> bytes:
    return _read(path, _MAX_ARCHIVE)


def _read(path: Path, limit: int = 64 * 1024) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CommandError(f"cannot read `{printable(str(path))}`: {(error.strerror or str(error)).lower()}") from None
    if len(data) > limit:
        raise CommandError(f"`{printable(str(path))}` has more than {limit} bytes")
    return data


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write the file whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CommandError(f"cannot write `{printable(str(path))}`: {(error.strerror or str(error)).lower()}") from None
