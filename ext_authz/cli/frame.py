"""What every command shares: options, the console, and mistakes turned into exit statuses in one place.

Law: a user's mistake is one clear report on stderr and exit 2 (1 where the thing
checked does not hold); anything else is a bug, exit 70, one line.
Non-goal: commands.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ext_authz.documents import Diagnostic, DocumentError, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ext_authz.envelope.keys import KeyProvider, KeyReference

DONE: Final = 0
DOES_NOT_HOLD: Final = 1
USAGE: Final = 2
CANNOT_DECRYPT: Final = 3
INTERNAL: Final = 70
INTERRUPTED: Final = 130

DEFAULT_CONFIG: Final = Path("ext-authz.yaml")
DEBUG: Final = "EXT_AUTHZ_DEBUG"
MAX_YEARS: Final = 100
_MAX_SECONDS: Final = MAX_YEARS * 366 * 86_400

ConfigOption = Annotated[
    Path, typer.Option("-c", "--config", help="The configuration file.", metavar="FILE", show_default=True)
]
TrailKeyOption = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="KEY",
        help="The trail's key (`file:PATH`, `vault:KEY`, `awskms:KEY`, `pkcs11:…`); else the configured one.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 policy`, `2 policies`; `many` is `one` with an s unless it is given."""
    return f"{count} {one if count == 1 else many or one + 's'}"


class CommandError(Exception):
    """A command cannot do what it was asked to; the text is for the user."""

    def __init__(self, message: str, status: int = USAGE) -> None:
        super().__init__(message)
        self.status = status


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; never raises for a user's mistake."""
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="ext-authz", standalone_mode=False)
    except Exception as error:  # noqa: BLE001  the one place where a command's failure becomes an exit status
        return _failed(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            return _reader_gone()
        return error.code if isinstance(error.code, int) else USAGE
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_gone()
    return status if isinstance(status, int) and not isinstance(status, bool) else DONE


def _failed(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        return _reader_gone()
    if isinstance(error, DocumentError):
        report(error.diagnostics, error.texts)
        return USAGE
    if isinstance(error, CommandError):
        complain(str(error))
        return error.status
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return _misused(error)
    if type(error).__name__ == "KeyUnavailableError":
        complain(f"cannot decrypt: {printable(str(error))}")
        return CANNOT_DECRYPT
    if isinstance(error, PermissionError) and error.filename:
        complain(f"cannot use `{os.fsdecode(error.filename)}`: permission denied")
        return USAGE
    if type(error).__name__ == "Abort":
        return INTERRUPTED
    if os.environ.get(DEBUG) == "1":
        import traceback

        traceback.print_exception(error)
    text = " ".join(str(error).split())
    complain(f"internal error: {type(error).__name__}: {text} (set {DEBUG}=1 for where it happened)")
    return INTERNAL


def _misused(error: Exception) -> int:
    """Report what the argument parser refused, in the words of the house."""
    message = str(error.format_message()) if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    if message.strip():
        complain(_in_our_words(message))
        if context is not None:
            complain(f"  see `{context.command_path} --help`")
    elif hasattr(error, "show"):
        error.show()
    return USAGE


def _in_our_words(message: str) -> str:
    """Return the parser's message (of whichever library it asks about a value) as the rest of the program speaks."""
    text = " ".join(message.split()).rstrip(".")
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    return f"{text[:1].lower()}{text[1:]}"


_WORDS: Final = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"'([^']*)'", r"`\1`"),
        (r"Value error, ", ""),
        (r"Input should be a valid integer\b.*", "a whole number is wanted"),
        (r"Input should be a valid number\b.*", "a number is wanted"),
        (r"Input should be greater than or equal to (\S+)", r"at least \1 is wanted"),
        (r"Input should be greater than (\S+)", r"more than \1 is wanted"),
        (r"Input should be less than or equal to (\S+)", r"at most \1 is wanted"),
        (r"Input should be less than (\S+)", r"less than \1 is wanted"),
        (r"Input should be (?:a valid )?(.*)", r"\1 is wanted"),
    )
)


def _reader_gone() -> int:
    """Whoever read our output has left (`| head`); that is their right."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return DONE


def complain(line: str) -> None:
    """Write one message to stderr; what a terminal would act on is escaped, as most messages quote something."""
    sys.stderr.write("\n".join(map(printable, line.split("\n"))) + "\n")


def say(line: str = "") -> None:
    """Write one line to stdout."""
    sys.stdout.write(line + "\n")


def say_json(text: str) -> None:
    """Write JSON to stdout: to a terminal with every character that could control it as its JSON escape."""
    if sys.stdout.isatty():
        text = "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)
    say(text)


def _escaped(character: str) -> str:
    """JSON has these inside of strings only."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def report(diagnostics: Sequence[Diagnostic], texts: Mapping[str, str]) -> None:
    """Write diagnostics to stderr with their caret lines."""
    for each in diagnostics:
        complain(each.render(texts))


def console(*, stderr: bool = False) -> "Console":
    """Return a rich console: colours on a terminal, plain text elsewhere, never wrapped to a guessed width."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 160, soft_wrap=True)


def show_table(table: "Table", to: "Console | None" = None) -> None:
    """Print a table with every cell whole, and without blanks at the ends of lines where no terminal shows it."""
    for column in table.columns:
        # A name that is cut off is no name: what is too long for its column goes on in the next line.
        column.overflow = "fold"
    out = to or console()
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as held:
        out.print(table)
    out.file.write("".join(f"{line.rstrip()}\n" for line in held.get().splitlines()))


def seconds_of(text: str, option: str) -> int:
    """Return the whole seconds of a duration such as `2h`. Raises CommandError."""
    from pydantic_core import PydanticCustomError

    from ext_authz.settings import parse_seconds

    try:
        seconds = parse_seconds(text)
    except PydanticCustomError as error:
        raise CommandError(f"{option}: {error.message()}") from None
    if seconds <= 0:
        raise CommandError(f"{option}: `{text}` is no time at all")
    if seconds > _MAX_SECONDS:
        raise CommandError(f"{option}: `{text}` is longer than {MAX_YEARS} years")
    return seconds


def moment_of(text: str, option: str) -> int:
    """Return the Unix nanoseconds of an RFC 3339 time with its offset. Raises CommandError."""
    from ext_authz.policy.reader import moment_ns

    moment = moment_ns(text)
    if moment is None:
        raise CommandError(f"{option}: `{text}` is not a time with an offset such as `2026-11-23T10:00:00Z`")
    return moment


def clock_text(seconds: int | None) -> str:
    """Return Unix seconds as RFC 3339 in UTC, "" for None."""
    if seconds is None:
        return ""
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # recorded by another version: no reason to list nothing at all
        return "after the year 9999"


def trail_paths(paths: Sequence[Path] | None, config: Path) -> Sequence[Path]:
    """Return the paths given, else the trail in the configuration's `run_dir`.

    Raises CommandError where there is none yet, DocumentError for mistakes in the configuration.
    """
    if paths:
        return paths
    from ext_authz.audit.reader import AUDIT_FOLDER
    from ext_authz.config import load

    loaded = load(config, os.environ, frozenset({"run_dir"}))
    assert loaded.settings is not None  # noqa: S101  load raises otherwise
    folder = loaded.settings.run_dir / AUDIT_FOLDER
    if not folder.is_dir():
        raise CommandError(f"there is no audit trail at {folder} yet")
    return [folder]


def trail_key(text: str, config: Path) -> "KeyReference":
    """Return the key of a trail: `--key`, else the one that a server with this configuration uses.

    Raises CommandError (exit 3 where there is neither), DocumentError for mistakes in the configuration.
    """
    from ext_authz.envelope.keys import parse_reference

    if text:
        try:
            return parse_reference(text)
        except ValueError as error:
            raise CommandError(f"--key: {printable(str(error))}") from None
    if not config.exists() and config == DEFAULT_CONFIG:
        raise CommandError(
            f"the trail is encrypted: name its key with `--key`, or its configuration with `-c` (there is no {config})",
            CANNOT_DECRYPT,
        )
    from ext_authz.audit.trail_keys import TrailKeys
    from ext_authz.config import load

    loaded = load(config, os.environ, frozenset({"run_dir", "audit"}))
    assert loaded.settings is not None  # noqa: S101  load raises otherwise
    return TrailKeys(loaded.settings.audit, loaded.base, loaded.settings.run_dir, os.environ).encryption


def open_trail_key(text: str, config: Path) -> "Callable[[], KeyProvider]":
    """Return what opens the key of a trail once an encrypted segment is met; raises as `trail_key` does, then."""

    def opened() -> "KeyProvider":
        from ext_authz.envelope.keys import open_key

        return open_key(trail_key(text, config), os.environ)

    return opened
