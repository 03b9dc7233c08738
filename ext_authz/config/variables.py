"""`${NAME}` and `${file:PATH}` in the configuration file's strings, put in after parsing.

Law: an unset name is a mistake at its place; what was put in is never parsed
again and never shown; routes and catalogs, also inline ones, are left as written.
Non-goal: templates. Any other `${a.b}` is allowed where the caller says so and left alone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ext_authz.documents import Diagnostic, MappingNode, Mark, Node, Path, Scalar, Sequence, did_you_mean

_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")
_NAME: Final = re.compile(r"[A-Z0-9_]+\Z")
_FILE_PREFIX: Final = "file:"

Resolve = Callable[[str], str]
"""Give the value of `NAME` or `file:PATH`; raises UnsetError with the message for the user."""


class UnsetError(LookupError):
    """A variable has no value; the text is the message for the user."""


@dataclass(slots=True)
class Substitution:
    """What one pass over a file found.

    `values` maps what stands between the braces to what was put in; `places`
    says of each scalar that holds such a value what is written there;
    `unset` are the paths of those that could not be filled.
    """

    values: dict[str, str] = field(default_factory=dict)
    places: dict[Mark, str] = field(default_factory=dict)
    unset: set[Path] = field(default_factory=set)
    mistakes: list[Diagnostic] = field(default_factory=list)


def environment(environ: Mapping[str, str], read: Callable[[str], str]) -> Resolve:
    """Resolve names from `environ`, and `file:PATH` through `read(PATH)` less its last newline."""

    def resolve(name: str) -> str:
        if name.startswith(_FILE_PREFIX):
            text = read(name.removeprefix(_FILE_PREFIX))
            if "\0" in text:
                raise UnsetError(f"`${{{name}}}` is not text")
            return text.removesuffix("\n").removesuffix("\r")
        if name not in environ:
            raise UnsetError(f"environment variable `{name}` is not set{did_you_mean(name, environ)}")
        return environ[name]

    return resolve


def recorded(values: Mapping[str, str]) -> Resolve:
    """Resolve from what an earlier pass put in."""

    def resolve(name: str) -> str:
        if name not in values:
            raise UnsetError(f"`{name}` has no recorded value")
        return values[name]

    return resolve


def substitute(
    node: Node | None, resolve: Resolve, *, templates: Callable[[Path], bool], verbatim: frozenset[Path]
) -> tuple[Node | None, Substitution]:
    """Return the tree with every variable put in, and what was found.

    `templates(path)` says whether a value may hold `${a.b}` templates;
    `verbatim` are paths beneath which nothing is substituted.
    """
    found = Substitution()
    walk = _Walk(resolve, templates, verbatim, found)
    return (walk.node(node, ()) if node is not None else None), found


@dataclass(frozen=True, slots=True)
class _Walk:
    resolve: Resolve
    templates: Callable[[Path], bool]
    verbatim: frozenset[Path]
    found: Substitution

    def node(self, node: Node, path: Path) -> Node:
        if isinstance(node, Scalar):
            return self._scalar(node, path)
        if isinstance(node, Sequence):
            return Sequence(tuple(self.node(item, (*path, index)) for index, item in enumerate(node.items)), node.mark)
        return MappingNode(tuple((key, self.node(value, (*path, key.text))) for key, value in node.entries), node.mark)

    def _scalar(self, node: Scalar, path: Path) -> Scalar:
        if "${" not in node.text:
            return node
        if any(path[: len(root)] == root for root in self.verbatim):
            self._mistake(node, path, "`${…}` is not put into routes and catalogs")
            return node
        template = self.templates(path)
        parts: list[str] = []
        at = 0
        for match in _VARIABLE.finditer(node.text):
            parts.append(node.text[at : match.start()])
            parts.append(self._value(match, node, path, template=template))
            at = match.end()
        parts.append(node.text[at:])
        if not template and any("${" in part for part in parts[::2]):
            self._mistake(node, path, "`${` is not closed by `}`")
        # A value that was put in is text, whatever it looks like, but may be a number or a flag if the place wants one.
        return Scalar("".join(parts), node.plain, node.mark)

    def _value(self, match: re.Match[str], node: Scalar, path: Path, *, template: bool) -> str:
        whole, name = match.group(0), match.group(1)
        if not (_NAME.match(name) or name.startswith(_FILE_PREFIX)):
            if not template:
                self._mistake(
                    node,
                    path,
                    f"`{whole}` is neither an environment variable (A-Z, 0-9, `_`) nor `file:PATH`; "
                    "templates stand only in header and audience values",
                )
            return whole
        try:
            value = self.found.values[name] if name in self.found.values else self.resolve(name)
        except UnsetError as unset:
            self._mistake(node, path, str(unset))
            return whole
        if template and "${" in value:
            self._mistake(node, path, f"the value of `{whole}` holds `${{`, which would be read as a template")
            return ""
        self.found.values[name] = value
        self.found.places[node.mark] = node.text
        return value

    def _mistake(self, node: Scalar, path: Path, message: str) -> None:
        self.found.mistakes.append(Diagnostic(node.mark, message))
        self.found.unset.add(path)
