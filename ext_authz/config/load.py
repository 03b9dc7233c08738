"""The configuration file's text to typed settings, with every mistake in it at once.

Law: what is wrong is cut out and the rest is still looked at, so one mistake
hides no other; settings made from a file with mistakes never leave for a server.
Non-goal: reading anything but that one file (and what its variables name).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Final

from pydantic import ValidationError

from ext_authz.config.mistakes import diagnostics, error_path, prune
from ext_authz.config.rules import broken_rules
from ext_authz.config.schema import Settings
from ext_authz.config.variables import Resolve, UnsetError, environment, substitute
from ext_authz.documents import (
    Diagnostic,
    DocumentError,
    MappingNode,
    Mark,
    Node,
    Path,
    Scalar,
    Sequence,
    to_plain,
)
from ext_authz.documents import load as load_document

MAX_FILE_BYTES: Final = 64 * 2**20
_ROUNDS: Final = 16
_VERBATIM: Final = frozenset({("resources", "routes"), ("resources", "catalog")})


@dataclass(frozen=True, slots=True)
class Loaded:
    """One configuration file, read. `settings` are of what is right in it; None where nothing can be made of it.

    `node` is the marked tree with variables put in; `values` what was put in
    by name; `base` the folder that relative paths start from ("" for here).
    """

    file: str
    text: str
    settings: Settings | None
    node: MappingNode | None
    values: Mapping[str, str]
    mistakes: tuple[Diagnostic, ...]
    # False: `settings.policies` is a stand-in for what was wrong or missing.
    names_policies: bool = True

    @property
    def base(self) -> FilePath:
        """The folder that relative paths start from."""
        return FilePath(self.file).parent


def load(path: FilePath, environ: Mapping[str, str], only: frozenset[str] | None = None) -> Loaded:
    """Read the configuration file. Raises DocumentError with every mistake in it.

    With `only`, nothing but these top-level keys is looked at: an operator
    revokes a token also where the server's variables are not set.
    """
    loaded = read(path, environ, only)
    if loaded.mistakes or loaded.settings is None:
        raise DocumentError(loaded.mistakes, {loaded.file: loaded.text})
    return loaded


def read(path: FilePath, environ: Mapping[str, str], only: frozenset[str] | None = None) -> Loaded:
    """Read the configuration file and what its variables name; mistakes are in the result."""
    file = str(path)
    try:
        text = decode(read_bytes(path), file)
    except OSError as error:
        return _nothing(file, "", Diagnostic(None, f"cannot read `{file}`: {reason(error)}"))
    except DocumentError as error:
        return _nothing(file, "", *error.diagnostics)

    def included(name: str) -> str:
        try:
            return read_bytes(path.parent / name).decode()
        except UnicodeDecodeError:
            raise UnsetError(f"`{name}` is not UTF-8 text") from None
        except OSError as error:
            raise UnsetError(f"cannot read `{name}`: {reason(error)}") from None

    return parse(text, file, environment(environ, included), only)


def parse(text: str, file: str, resolve: Resolve, only: frozenset[str] | None = None) -> Loaded:
    """Make settings of the file's text; no I/O but what `resolve` does."""
    try:
        written = load_document(text, file)
    except DocumentError as error:
        return _nothing(file, text, *error.diagnostics)
    if written is None:
        written = MappingNode((), Mark(file, 1, 1))
    if not isinstance(written, MappingNode):
        return _nothing(file, text, Diagnostic(written.mark, "the file must hold a mapping of keys"))
    if only is not None:
        written = _stand_in(_part(written, only), written.mark)
    node, found = substitute(written, resolve, templates=_is_template, verbatim=_VERBATIM)
    mapping = node if isinstance(node, MappingNode) else written
    mistakes = list(found.mistakes)
    nulls = _nulls(mapping, ())
    mistakes += [Diagnostic(mark, f"`{path[-1]}` has no value") for path, mark in nulls]
    unfilled = found.unset | {path for path, _ in nulls}
    valid = _validate(prune(mapping, unfilled), mapping, file, found.places, follows=bool(unfilled))
    mistakes += valid.mistakes
    if valid.settings is not None:
        mistakes += broken_rules(valid.settings, valid.node, valid.gone | unfilled)
    whole = only is None and not valid.stood_in
    return Loaded(file, text, valid.settings, mapping, found.values, tuple(mistakes), names_policies=whole)


def _nothing(file: str, text: str, *mistakes: Diagnostic) -> Loaded:
    return Loaded(file, text, None, None, {}, mistakes)


def _part(node: MappingNode, only: frozenset[str]) -> MappingNode:
    known = Settings.model_fields
    return MappingNode(tuple(e for e in node.entries if e[0].text in only or e[0].text not in known), node.mark)


@dataclass(frozen=True, slots=True)
class _Valid:
    """What was left after cutting out the paths `gone`; `stood_in`: something took the place of `policies`."""

    settings: Settings | None
    node: Node
    mistakes: list[Diagnostic]
    gone: frozenset[Path]
    stood_in: bool


def _validate(left: Node | None, whole: MappingNode, file: str, places: Mapping[Mark, str], *, follows: bool) -> _Valid:
    """Validate, and on mistakes cut them out until the rest is right; only the first round's mistakes are reported."""
    context = {"base": FilePath(file).parent}
    node: Node = left if left is not None else MappingNode((), whole.mark)
    wrong: list[Diagnostic] | None = None
    first_gone: frozenset[Path] = frozenset()
    stood_in = False
    for _ in range(_ROUNDS):
        try:
            settings = Settings.model_validate(to_plain(node), context=context)
            return _Valid(settings, node, wrong or [], first_gone, stood_in)
        except ValidationError as error:
            details = error.errors(include_url=False)
            gone = frozenset(error_path(node, each) for each in details)
            if wrong is None:
                wrong, first_gone = diagnostics(error, Settings, node, whole, places, follows=follows), gone
        node = prune(node, [path for path in gone if path]) or MappingNode((), whole.mark)
        if () in gone:
            # Something required at the top is missing, and only `policies` is required.
            node, stood_in = _stand_in(node, whole.mark), True
    return _Valid(None, node, wrong or [], first_gone, stood_in)


def _stand_in(node: Node | None, mark: Mark) -> MappingNode:
    """Put something valid where `policies` would be."""
    files = Sequence((Scalar("none", plain=False, mark=mark),), mark)
    policies = MappingNode(((Scalar("files", plain=True, mark=mark), files),), mark)
    kept = node.entries if isinstance(node, MappingNode) else ()
    others = tuple(entry for entry in kept if entry[0].text != "policies")
    return MappingNode((*others, (Scalar("policies", plain=True, mark=mark), policies)), mark)


def _is_template(path: Path) -> bool:
    return path[:2] == ("response", "headers") or path == ("response", "assertion", "audience")


def _nulls(node: Node, path: Path) -> list[tuple[Path, Mark]]:
    if path in _VERBATIM:
        return []
    if isinstance(node, Scalar):
        return [(path, node.mark)] if node.is_null and path else []
    if isinstance(node, Sequence):
        return [each for index, item in enumerate(node.items) for each in _nulls(item, (*path, index))]
    return [each for key, value in node.entries for each in _nulls(value, (*path, key.text))]


def read_bytes(path: FilePath) -> bytes:
    """Read a file of at most MAX_FILE_BYTES. Raises OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(0, f"larger than {MAX_FILE_BYTES} bytes")
    return data


def decode(data: bytes, file: str) -> str:
    """Return the text of a UTF-8 file, less a byte order mark. Raises DocumentError at the first bad byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise DocumentError([Diagnostic(Mark(file, line, column), "is not UTF-8 text")]) from None


def reason(error: OSError) -> str:
    """Say why a file could not be read, in the words of the house."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
