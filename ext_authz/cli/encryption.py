"""`encrypt`, `decrypt`, `rewrap` and `keyring`: files of any size under a key that a provider holds.

Law: an output file appears whole or not at all; of what is not authentic nothing is written, not to `-` either.
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ext_authz.cli.frame import (
    DEFAULT_CONFIG,
    DOES_NOT_HOLD,
    CommandError,
    ConfigOption,
    JsonOption,
    complain,
    say,
    say_json,
)
from ext_authz.documents import printable

if TYPE_CHECKING:
    from ext_authz.envelope.format import DataName, Header
    from ext_authz.envelope.keys import KeyProvider
    from ext_authz.envelope.stream import Moved, Sink

keyring = typer.Typer(
    help="Manage a local keyring (`--key file:PATH`).\n\nExample: `ext-authz keyring new data.keyring`",
    no_args_is_help=True,
)

STREAM: Final = "-"

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="What is read; `-` is stdin.")]
OutputOption = Annotated[
    str, typer.Option("-o", "--output", metavar="OUT", help="What is written, whole or not at all; `-` is stdout.")
]
IdOption = Annotated[str, typer.Option("--data-id", metavar="ID", help="Which data it is; bound to every byte.")]
TypeOption = Annotated[
    str, typer.Option("--data-type", metavar="TYPE", help="Such as `dataset` or `model`; bound too.")
]
KeyOption = Annotated[
    str, typer.Option("--key", metavar="KEY", help="`file:PATH`, `vault:[MOUNT/]KEY`, `awskms:KEY`, a `pkcs11:` URI.")
]
KeyringArgument = Annotated[Path, typer.Argument(metavar="PATH", help="The keyring's file.")]


def encrypt(
    file: FileArgument,
    output: OutputOption,
    data_id: IdOption,
    data_type: TypeOption,
    key: KeyOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Encrypt a file or stream of any size with AES-256-GCM under a fresh data key.

    Example: `ext-authz encrypt clicks.csv -o clicks.enc --data-id clicks --data-type dataset --key file:data.keyring`
    """
    from ext_authz.envelope.stream import seal

    name = _name(data_id, data_type)
    if output == STREAM and sys.stdout.isatty():
        raise CommandError("`-o -` is this terminal: what is written is no text, redirect it")

    def work(source: FileIO, sink: "Sink", provider: "KeyProvider", moved: "Moved") -> "Header":
        return seal(source, sink, provider, name, moved=moved)

    _transform(file, output, _key(key, config), work, "encrypting")


def decrypt(
    file: FileArgument,
    output: OutputOption,
    data_id: IdOption,
    data_type: TypeOption,
    key: KeyOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Decrypt what `encrypt` made; exit 1 where it was altered, cut off, or is other data than is said here.

    With `-o -` each chunk is authenticated before it is written, but only exit 0 says that nothing is missing.

    Example: `ext-authz decrypt clicks.enc -o clicks.csv --data-id clicks --data-type dataset --key file:data.keyring`
    """
    from ext_authz.envelope.format import HEADER_BYTES, read_header
    from ext_authz.envelope.rewrap import settled
    from ext_authz.envelope.stream import take, unseal_rest

    name = _name(data_id, data_type)

    def work(source: FileIO, sink: "Sink", provider: "KeyProvider", moved: "Moved") -> "Header":
        with settled(source.fileno()):
            header = read_header(take(source, HEADER_BYTES))
        return unseal_rest(source, sink, header, provider, name, moved=moved)

    header = _transform(file, output, _key(key, config), work, "decrypting")
    if header.unfinished:
        complain(f"warning: a `rewrap` of {printable(file)} was cut off: its old key may still open it, run it again")


def rewrap(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Encrypted files, changed in place; or segments (`.seg`) of the trail."),
    ],
    key: KeyOption = "",
    to: Annotated[
        str, typer.Option("--to", metavar="KEY", help="The key to move to. Without: the newest version of `--key`.")
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Move encrypted files to another key, or to the newest version of the same, without touching their data.

    Example: `ext-authz rewrap clicks.enc model.enc --key file:data.keyring --to awskms:alias/ml-data`
    """
    current = _key(key, config)
    target = _open(to, "--to") if to else current
    status = 0
    for file in files:
        try:
            _rewrap(file, current, target)
        except CommandError as error:
            complain(str(error))
            status = max(status, error.status)
    if status:
        raise typer.Exit(status)


def _rewrap(file: Path, current: "KeyProvider", target: "KeyProvider") -> None:
    from ext_authz.audit.trail import segment_of
    from ext_authz.envelope.rewrap import LockedFile
    from ext_authz.envelope.rewrap import rewrap as move

    shown = printable(str(file))
    if segment_of(file) is not None:
        _rewrap_segment(file, current, target)
        return
    with _mistakes(shown), _regular(file) as opened:
        try:
            with LockedFile(opened.fileno()) as disk:
                done = move(disk, current, target)
        except BlockingIOError:
            raise CommandError(f"{shown}: another rewrap is at work on it") from None
    say(f"{shown}: {printable(str(done.name))} from {printable(str(done.before))} to {printable(str(done.after))}")


def _rewrap_segment(file: Path, current: "KeyProvider", target: "KeyProvider") -> None:
    """Move a segment of the audit trail: its wrapped key stands in a file of its own."""
    from ext_authz.audit.sealing import rewrap_key
    from ext_authz.audit.segment import HEADER_BYTES, read_header

    shown = printable(str(file))
    with _mistakes(shown):
        with file.open("rb") as opened:
            header, _ = read_header(opened.read(HEADER_BYTES))
        before, after = rewrap_key(file, header, current, target)
    say(f"{shown}: {printable(header.log_id)} from {printable(str(before))} to {printable(str(after))}")


def _regular(file: Path) -> FileIO:
    opened = FileIO(os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK), "r+b")
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise CommandError(f"{printable(str(file))}: is not a regular file")
    return opened


def _name(data_id: str, data_type: str) -> "DataName":
    from ext_authz.envelope.format import DataName

    try:
        return DataName(data_type, data_id)
    except ValueError as error:
        option = "--data-type" if str(error).startswith("the data type") else "--data-id"
        raise CommandError(f"{option}: {error}") from None


def _key(text: str, config: Path) -> "KeyProvider":
    """Return the key of `--key`, else that of the configuration's `audit.encryption`."""
    if text:
        return _open(text, "--key")
    if config.exists():
        from ext_authz.config import load

        loaded = load(config, os.environ, frozenset({"audit"}))
        assert loaded.settings is not None  # noqa: S101  load raises otherwise
        if loaded.settings.audit.encryption is not None:
            return _open(str(loaded.settings.audit.encryption.key), "audit.encryption.key")
    raise CommandError("`--key` is missing, and no configuration names a key in `audit.encryption`")


def _open(text: str, option: str) -> "KeyProvider":
    from ext_authz.envelope.errors import KeyUnavailableError
    from ext_authz.envelope.keys import open_key, parse_reference

    try:
        return open_key(parse_reference(text), os.environ)
    except (ValueError, KeyUnavailableError) as error:
        raise CommandError(f"{option}: {printable(str(error))}") from None


Work = Callable[[FileIO, "Sink", "KeyProvider", "Moved"], "Header"]


def _transform(file: str, output: str, provider: "KeyProvider", work: Work, doing: str) -> "Header":
    """Do `work` between input and output."""
    from ext_authz.cli.progress import Meter

    shown = "stdin" if file == STREAM else printable(file)
    with (
        _mistakes(shown),
        _Input(file) as source,
        Meter(f"{doing} {shown}", source.size) as meter,
        _output(file, output) as sink,
    ):
        return work(source, sink, provider, meter.moved)


class _Input(FileIO):
    """The input; what goes wrong with it is told apart from what goes wrong with the output."""

    def __init__(self, file: str) -> None:
        self.shown = "stdin" if file == STREAM else printable(file)
        super().__init__(0 if file == STREAM else file, "rb", closefd=file != STREAM)

    @property
    def size(self) -> int | None:
        """Bytes, None where it is not known."""
        status = os.fstat(self.fileno())
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # narrower: ours alone call it
        try:
            got = super().readinto(buffer)
        except OSError as error:
            raise CommandError(f"cannot read `{self.shown}`: {_reason(error)}") from None
        if got is None:
            raise CommandError(f"cannot read `{self.shown}`: it is in non-blocking mode")
        return got


@contextmanager
def _output(file: str, output: str) -> Iterator["Sink"]:
    """Yield where to write; what goes wrong with it names the output."""
    from ext_authz.envelope.files import replacing

    shown = "stdout" if output == STREAM else printable(output)
    try:
        if output == STREAM:
            yield FileIO(1, "wb", closefd=False)
            return
        path = Path(output)
        if file != STREAM and path.exists() and path.samefile(file):
            raise CommandError(f"`{shown}` is the file that is read")
        with replacing(path) as sink:
            yield sink
    except BrokenPipeError:
        raise CommandError("whoever read the output left before its end") from None
    except OSError as error:
        raise CommandError(f"cannot write `{shown}`: {_reason(error)}") from None


@contextmanager
def _mistakes(shown: str) -> Iterator[None]:
    """Turn what a user can cause into a line for the user: 1 what the data says, 2 what the surroundings say."""
    from ext_authz.envelope.errors import AlteredError, EnvelopeError

    try:
        yield
    except AlteredError as error:
        raise CommandError(f"{shown}: {printable(str(error))}", DOES_NOT_HOLD) from None
    except EnvelopeError as error:
        raise CommandError(f"{shown}: {printable(str(error))}") from None
    except OSError as error:
        raise CommandError(f"cannot use `{shown}`: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


@keyring.command()
def new(path: KeyringArgument) -> None:
    """Make a keyring (mode 0600) with one fresh 256-bit key; nothing that exists is overwritten.

    Example: `ext-authz keyring new data.keyring`
    """
    from ext_authz.envelope.keys.keyring import ID_BYTES, KEY_BYTES, create_keyring

    with _keyring_mistakes(path):
        made = create_keyring(path, keyring_id=os.urandom(ID_BYTES), key=os.urandom(KEY_BYTES), now=int(time.time()))
    say(f"made {printable(str(path))}: keyring {made.id}, version {made.current}")
    complain("keep a copy elsewhere: what it encrypts cannot be read without it")


@keyring.command()
def rotate(path: KeyringArgument) -> None:
    """Add a fresh version and make it current; older versions go on opening what they wrapped.

    Example: `ext-authz keyring rotate data.keyring && ext-authz rewrap *.enc --key file:data.keyring`
    """
    from ext_authz.envelope.keys.keyring import KEY_BYTES, rotate_keyring

    with _keyring_mistakes(path):
        made = rotate_keyring(path, key=os.urandom(KEY_BYTES), now=int(time.time()))
    say(f"{printable(str(path))}: keyring {made.id}, version {made.current} is current")


@keyring.command("list")
def list_(path: KeyringArgument, json: JsonOption = False) -> None:
    """List the versions; never the keys.

    Example: `ext-authz keyring list data.keyring --json`
    """
    from ext_authz.envelope.keys.keyring import read_keyring

    with _keyring_mistakes(path):
        found = read_keyring(path)
    if json:
        import orjson

        versions = [{"version": n, "created": each.created} for n, each in sorted(found.versions.items())]
        plain = {"id": found.id, "current": found.current, "versions": versions}
        say_json(orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode())
        return
    say(f"keyring {found.id}")
    for number, each in sorted(found.versions.items()):
        say(f"version {number}  made {each.created}{'  current' if number == found.current else ''}")


@keyring.command()
def remove(
    path: KeyringArgument,
    version: Annotated[int, typer.Option("--version", metavar="N", min=1, help="Which; not the current one.")],
) -> None:
    """Destroy an old version: what is still wrapped under it can never be read again.

    Example: `ext-authz keyring remove data.keyring --version 1`
    """
    from ext_authz.envelope.keys.keyring import remove_version

    with _keyring_mistakes(path):
        made = remove_version(path, version)
    say(f"{printable(str(path))}: version {version} is gone, version {made.current} is current")


@contextmanager
def _keyring_mistakes(path: Path) -> Iterator[None]:
    from ext_authz.envelope.errors import KeyUnavailableError

    try:
        yield
    except (KeyUnavailableError, ValueError) as error:
        raise CommandError(printable(str(error))) from None
    except OSError as error:
        raise CommandError(f"cannot use `{printable(str(path))}`: {_reason(error)}") from None
