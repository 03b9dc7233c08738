"""YAML text to marked nodes, and mistakes to `FILE:LINE:COL: message` with a caret.

Law: a scalar is the text as written (`17:00`, `0123` and `no` stay what they
look like); the reader that wants another type parses that text. Duplicate
keys, tags and merge keys are mistakes. Non-goal: knowing any schema.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Self

import yaml

MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_NODES: Final = 4_000_000
MAX_REPORTED: Final = 10_000
_SHOWN: Final = 160
"""Characters of a source line that are shown around a mistake: a file may be one line of many megabytes."""
_MISLEADING: Final = re.compile("[\x85\u2028-\u202e\u2066-\u2069]|\r(?!\n)")
"""What shows a person another text than the parser reads: breaks that few editors know, turns of direction."""
_PIN: Final = re.compile(r"""(pin-value(?:=|%3[Dd]))[^\s&"']+""")
"""A PIN in a `pkcs11:` URI (RFC 7512), which is refused and must not be in the refusal, that is, in logs."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file; line and column count from 1 (a column is a character)."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake or warning. `code` names a lint ("" for mistakes)."""

    mark: Mark | None
    message: str
    warning: bool = False
    code: str = ""

    def render(self, texts: Mapping[str, str] | None = None) -> str:
        """Return `FILE:LINE:COL: message`, with the source line and a caret where `texts` has the file.

        What cannot be printed is escaped in the first line and a `?` in the second.
        """
        message = f"warning: {self.message}" if self.warning else self.message
        head = printable(f"{self.mark}: {message}" if self.mark else message)
        if self.mark is None or texts is None or self.mark.file not in texts:
            return head
        lines = _lines(texts[self.mark.file])
        if not 0 < self.mark.line <= len(lines):
            return head
        line, at = lines[self.mark.line - 1], self.mark.column - 1
        if len(line) > _SHOWN:
            start = max(0, min(at - _SHOWN // 2, len(line) - _SHOWN))
            line, at = line[start : start + _SHOWN], at - start
        line = "".join([c if c.isprintable() else " " if c == "\t" else "?" for c in line])
        return f"{head}\n  {line}\n  {' ' * at}^"


def printable(text: str) -> str:
    """Return text in which nothing acts on a terminal or ends the line: what cannot be printed is escaped."""
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])


@lru_cache(maxsize=2)
def _lines(text: str) -> list[str]:
    """Return the lines of a text: ten thousand mistakes in one file ask for them ten thousand times."""
    return [_PIN.sub(r"\1…", line) for line in text.splitlines()]


class DocumentError(Exception):
    """One or more mistakes in what a user wrote; `diagnostics` is sorted by place, at most MAX_REPORTED.

    `texts` maps file names to their text, for the caret lines.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic], texts: Mapping[str, str] | None = None) -> None:
        found = sorted(
            diagnostics, key=lambda d: (d.mark is not None, str(d.mark.file) if d.mark else "", d.mark or _TOP)
        )
        if len(found) > MAX_REPORTED:
            more = len(found) - MAX_REPORTED
            found[MAX_REPORTED:] = [Diagnostic(found[MAX_REPORTED].mark, f"and {more} more mistakes from here on")]
        self.diagnostics = tuple(found)
        self.texts = dict(texts or {})
        super().__init__(self.diagnostics, self.texts)

    def __str__(self) -> str:
        return "\n".join(each.render(self.texts) for each in self.diagnostics)


_TOP = Mark("", 0, 0)

Event = Any
"""One of libyaml's or PyYAML's parse events; their stubs share no useful base."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar as written. `plain`: not quoted, so `null`, `true` and numbers may be meant."""

    text: str
    plain: bool
    mark: Mark

    @property
    def is_null(self) -> bool:
        """Whether it is YAML's null (nothing, `~` or `null`, unquoted)."""
        return self.plain and self.text in ("", "~", "null")


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of nodes."""

    items: tuple["Node", ...]
    mark: Mark

    def __iter__(self) -> Iterator["Node"]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class MappingNode:
    """A mapping in order of writing; keys are scalars and unique."""

    entries: tuple[tuple[Scalar, "Node"], ...]
    mark: Mark
    _index: dict[str, "Node"] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._index.update((key.text, value) for key, value in self.entries)

    def get(self, key: str) -> "Node | None":
        """Return the value of `key`, or None."""
        return self._index.get(key)

    def key_mark(self, key: str) -> Mark:
        """Return where `key` is written (the mapping's own mark when it is not)."""
        return next((k.mark for k, _ in self.entries if k.text == key), self.mark)

    def __iter__(self) -> Iterator[tuple[Scalar, "Node"]]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


Node = Scalar | Sequence | MappingNode


class Text(str):
    """A scalar in plain data: the text, remembering whether it was written unquoted."""

    __slots__ = ("plain",)
    plain: bool

    def __new__(cls, text: str, *, plain: bool) -> Self:
        """Make a text; `plain` as in Scalar."""
        made = super().__new__(cls, text)
        made.plain = plain
        return made


Path = tuple[str | int, ...]


@dataclass(slots=True)
class Budget:
    """How many nodes files that are held together may have together: some 230 bytes of memory each."""

    spent: int = 0


def load(text: str, file: str, budget: Budget | None = None) -> Node | None:
    """Parse one YAML document; None when it is empty. `budget` is shared by several files, else it is this one's.

    Raises DocumentError with every duplicate key, tag, merge key or alias bomb
    found, or with the first syntax error.
    """
    texts = {file: text}
    if len(text) > MAX_DOCUMENT_BYTES:
        raise DocumentError([Diagnostic(Mark(file, 1, 1), f"larger than {MAX_DOCUMENT_BYTES} bytes")])
    if misleading := _misleading(text, file):
        raise DocumentError(misleading, texts)
    builder = _Builder(file, budget or Budget())
    try:
        node = builder.build(text)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(file, at.line + 1, at.column + 1) if at else Mark(file, 1, 1)
        raise DocumentError([Diagnostic(mark, (error.problem or "not YAML") + _hint(text, at))], texts) from None
    except yaml.YAMLError as error:
        raise DocumentError([Diagnostic(Mark(file, 1, 1), f"not YAML: {error}".splitlines()[0])], texts) from None
    if builder.mistakes:
        raise DocumentError(builder.mistakes, texts)
    return node


def _misleading(text: str, file: str) -> list[Diagnostic]:
    """Return the places where a reader of the file would see something else than what is loaded.

    YAML 1.1 ends a line, and so a comment, where few editors do: `# a note`, U+2028, `- {id: hidden, …}` is a policy
    in what looks like a comment. Source: Unicode TR 36 3.1, UAX 9 section 2 ("Trojan Source").
    """
    found: list[Diagnostic] = []
    for each in _MISLEADING.finditer(text):
        at = each.start()
        mark = Mark(file, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
        character = f"U+{ord(each[0]):04X}"
        found.append(Diagnostic(mark, f"holds {character}, which makes a file look like something else than it says"))
        if len(found) == _MANY:
            break
    return found


_MANY: Final = 100


def _hint(text: str, at: yaml.Mark | None) -> str:
    """Return what two frequent mistakes look like to those who did not write the YAML parser."""
    lines = text.split("\n")
    if at is None or at.line >= len(lines):
        return ""
    line = lines[at.line]
    if line[at.column : at.column + 1] == "\t":
        return " (a tab: YAML is indented by spaces)"
    if line[max(0, at.column - 1) : at.column + 1] == "${":
        return " (write `${…}` in quotes here)"
    return ""


class _Builder:
    """Builds nodes from libyaml's events; aliases are expanded within a budget."""

    def __init__(self, file: str, budget: Budget) -> None:
        self.file = file
        self.budget = budget
        self.mistakes: list[Diagnostic] = []
        self.anchors: dict[str, tuple[Node, int, int]] = {}
        self.count = 0
        self.deepest = 0

    def build(self, text: str) -> Node | None:
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        root: Node | None = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                first = next(self.events)
                if documents > 1:
                    self._mistake(first, "a second document; a file holds one")
                    return None
                node = self._node(first, 0)
                empty = isinstance(node, Scalar) and node.is_null
                root = None if empty else node
        return root

    def _mark(self, event: Event) -> Mark:
        at = event.start_mark
        return Mark(self.file, at.line + 1, at.column + 1)

    def _mistake(self, event: Event, message: str) -> None:
        self.mistakes.append(Diagnostic(self._mark(event), message))

    def _spend(self, event: Event, nodes: int, depth: int) -> None:
        self.count += nodes
        self.budget.spent += nodes
        if self.budget.spent > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES} nodes", problem_mark=event.start_mark)
        if depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=event.start_mark)
        self.deepest = max(self.deepest, depth)

    def _alias(self, event: Event, depth: int) -> Node:
        known = self.anchors.get(event.anchor)
        if known is None:
            raise yaml.MarkedYAMLError(problem=f"unknown anchor `{event.anchor}`", problem_mark=event.start_mark)
        # What it stands for is as deep below it as where it was written.
        self._spend(event, known[1], depth + known[2])
        return known[0]

    def _node(self, event: Event, depth: int) -> Node:
        self._spend(event, 1, depth)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if event.tag is not None and event.tag != "!":
            self._mistake(event, f"tags are not supported: `{event.tag}`")
        before, outer, self.deepest = self.count, self.deepest, depth
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(event.value, event.style in (None, ""), self._mark(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(child := next(self.events), yaml.SequenceEndEvent):
                items.append(self._node(child, depth + 1))
            node = Sequence(tuple(items), self._mark(event))
        else:
            node = self._mapping(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, self.count - before, self.deepest - depth)
        self.deepest = max(self.deepest, outer)
        return node

    def _mapping(self, event: Event, depth: int) -> MappingNode:
        entries: list[tuple[Scalar, Node]] = []
        seen: set[str] = set()
        while not isinstance(child := next(self.events), yaml.MappingEndEvent):
            key = self._node(child, depth + 1)
            value = self._node(next(self.events), depth + 1)
            if not isinstance(key, Scalar):
                self._mistake(child, "a key must be text")
            elif key.text == "<<" and key.plain:
                self._mistake(child, "merge keys are not supported")
            elif key.text in seen:
                self._mistake(child, f"duplicate key `{key.text}`")
            else:
                seen.add(key.text)
                entries.append((key, value))
        return MappingNode(tuple(entries), self._mark(event))


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def to_plain(node: Node | None) -> Any:  # noqa: ANN401  plain data has no one type
    """Turn nodes into dicts, lists, `Text` and None (for pydantic or JSON)."""
    if node is None or (isinstance(node, Scalar) and node.is_null):
        return None
    if isinstance(node, Scalar):
        return Text(node.text, plain=node.plain)
    if isinstance(node, Sequence):
        return [to_plain(item) for item in node.items]
    return {key.text: to_plain(value) for key, value in node.entries}


def mark_at(node: Node | None, path: Path, *, key: bool = False) -> Mark | None:
    """Return the mark of the deepest node of `path` that exists; with `key`, of the last key itself."""
    mark = node.mark if node is not None else None
    for depth, step in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, MappingNode):
            found = node.get(str(step))
            if found is None:
                break
            mark = node.key_mark(str(step)) if key and last else found.mark
            node = found
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            mark = node.mark
        else:
            break
    return mark


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean `x`?` for the nearest of `known`, or ""."""
    near = nearest(word, known)
    return "" if near is None else f", did you mean `{near}`?"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the nearest of `known`, or None where none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)
