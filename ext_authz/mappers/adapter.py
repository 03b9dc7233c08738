"""What a model-serving protocol is to us: a table of rows, each saying where the model is and what the call does.

Law: a path finds at most one row, by whole case-sensitive segments; what no
row knows is not routed. Non-goal: any one protocol.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from ext_authz.mappers.body import is_grpc
from ext_authz.mappers.path import CanonicalPath
from ext_authz.model import AttributeValue, Refusal, RequestFacts

GRPC: Final = "gRPC"
LIST_MODELS: Final = "list_models"
EVERY: Final = "*"
"""The id of a request that may name any model; also the method of a row that takes every method."""

_NOTHING: Final[Mapping[str, AttributeValue]] = MappingProxyType({})
_SLOT = re.compile(r"\{([a-z_]+)(\*\*)?\}(:[A-Za-z_]+)?\Z")


class Reads(StrEnum):
    """What a row takes from the body."""

    NOTHING = "nothing"
    LIMITS = "limits"  # attributes for limits only: a missing body refuses nothing
    MEANING = "meaning"  # the answer needs it


class HostStyle(StrEnum):
    """What a protocol needs of its route's `host`, because servers read a resource from it."""

    ANY = "any"
    EXACT = "exact"  # else the server may find in the host what we find in the path
    WILD = "wild"  # what stands for the `*` is a name


class Named(NamedTuple):
    """One access a call asks for."""

    type: str
    id: str
    version: str
    action: str


class Meaning(NamedTuple):
    """What one call means: at least one access, and what was found in it for limits."""

    named: tuple[Named, ...]
    attributes: Mapping[str, AttributeValue] = _NOTHING


class Call(NamedTuple):
    """One request at the row that its path found.

    `captured` holds the slots, decoded; `query` is verbatim; `host_part` is
    what stands for the `*` of the route's host, "" where there is none.
    """

    facts: RequestFacts
    row: "Row"
    captured: Mapping[str, str]
    route: str
    query: str
    max_request_bytes: int
    host_part: str = ""


Reader = Callable[[Call], Meaning | Refusal]
Told = Callable[[Call, str, str], Meaning | Refusal]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row's model is (`where`, in words for the reference) and the function that reads it.

    `told` gives what the row means when Envoy tells the id and version of the one model in the body; None where
    the body may name more than one thing.
    """

    where: str
    read: Reader
    reads: Reads = Reads.NOTHING
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a protocol's table.

    `method` is an HTTP method, `gRPC`, or EVERY. In `template` `{x}` is one
    segment, `{x}:verb` one that ends so, `{x**}` (last) one or more. `also`
    are further (type, action) that the reader may ask for. `lists` is the type
    of what the answer enumerates, "" where it enumerates nothing.
    """

    method: str
    template: str
    action: str
    place: Place
    type: str = "model"
    also: tuple[tuple[str, str], ...] = ()
    lists: str = ""

    def __post_init__(self) -> None:
        """Let a list of models enumerate models unless the row says otherwise."""
        if self.action == LIST_MODELS and not self.lists:
            object.__setattr__(self, "lists", "model")


class Found(NamedTuple):
    """A row and what its slots hold."""

    row: Row
    captured: dict[str, str]


@dataclass(slots=True)
class _Node:
    literals: dict[str, "_Node"] = field(default_factory=dict)
    verbs: dict[str, "_Node"] = field(default_factory=dict)
    slot: "_Node | None" = None
    rest: "_Node | None" = None
    rows: dict[str, tuple[Row, tuple[str, ...]]] = field(default_factory=dict)


class Adapter:
    """A protocol: its name, its table (compiled to a trie), the shape of its errors, the headers it reads.

    `aliases` are beginnings of templates (with both slashes) and the further
    ones under which their rows are served. `slash_slots` are the slots in which an encoded slash may stand under
    `encoded_slash: true`. Safe to share: nothing changes after construction.
    """

    def __init__(
        self,
        name: str,
        rows: Iterable[Row],
        *,
        error_shape: str = "",
        header_names: Iterable[str] = (),
        slash_slots: Iterable[str] = ("model",),
        aliases: Mapping[str, tuple[str, ...]] | None = None,
        host_style: HostStyle = HostStyle.ANY,
    ) -> None:
        self.name: Final = name
        self.rows: Final = tuple(rows)
        self.error_shape: Final = error_shape
        self.header_names: Final = frozenset(header_names)
        self.slash_slots: Final = frozenset(slash_slots)
        self.host_style: Final = host_style
        self._root: Final = _Node()
        self.aliases: Final = dict(aliases or {})
        for row in self.rows:
            self._insert(row, row.template)
            for beginning, others in self.aliases.items():
                if row.template.startswith(beginning):
                    for other in others:
                        self._insert(row, other + row.template.removeprefix(beginning))

    @property
    def yields(self) -> frozenset[tuple[str, str]]:
        """Every (resource type, action) that a row may ask for."""
        return frozenset((row.type, row.action) for row in self.rows).union(*(row.also for row in self.rows))

    @property
    def lists(self) -> frozenset[str]:
        """Every resource type that a row's answer enumerates."""
        return frozenset(row.lists for row in self.rows) - {""}

    @property
    def first_segments(self) -> frozenset[str]:
        """The literal first segments of the table."""
        return frozenset(self._root.literals)

    def find(self, facts: RequestFacts, segments: Sequence[str]) -> Found | None:
        """Return the row of a method and decoded path segments, or None."""
        values: list[str] = []
        node = _walk(self._root, segments, 0, values)
        if node is None:
            return None
        entry = node.rows.get(facts.method) or node.rows.get(EVERY)
        if entry is None and GRPC in node.rows and is_grpc(facts):
            entry = node.rows[GRPC]
        if entry is None:
            return None
        row, names = entry
        return Found(row, dict(zip(names, values, strict=True)))

    def slash_problem(self, facts: RequestFacts, path: CanonicalPath, skip: int, found: Found) -> str | None:
        """Say why the encoded slashes of `path` (whose first `skip` segments are the mount's) cannot stand, or None."""
        segments = path.segments[skip:]
        rest = found.row.template.endswith("**}")
        for position, (name, value) in enumerate(found.captured.items()):
            several = rest and position == len(found.captured) - 1
            if ("%2F" in value) if several else ("/" in value and name not in self.slash_slots):
                return "an encoded slash outside a model name"
        if any(index < skip for index in path.slashed):
            return "an encoded slash outside a model name"
        # A server that decodes before it routes must not find another row (Starlette, Werkzeug and Netty do).
        decoded = [part for segment in segments for part in segment.split("/")]
        if self.find(facts, decoded) is not None:
            return "an encoded slash that, decoded, is another call"
        return None

    def _insert(self, row: Row, template: str) -> None:
        node = self._root
        names: list[str] = []
        for token in template[1:].split("/"):
            slot = _SLOT.match(token)
            if slot is None:
                node = node.literals.setdefault(token, _Node())
                continue
            names.append(slot.group(1))
            if slot.group(2):
                node.rest = node = node.rest or _Node()
            elif slot.group(3):
                node = node.verbs.setdefault(slot.group(3), _Node())
            else:
                node.slot = node = node.slot or _Node()
        if row.method in node.rows:
            raise ValueError(f"{row.method} {template} stands twice")
        node.rows[row.method] = (row, tuple(names))


def _walk(node: _Node, segments: Sequence[str], index: int, values: list[str]) -> _Node | None:
    """Return the node of segments[index:] that has rows: literals before verbs before slots before the rest."""
    if index == len(segments):
        return node if node.rows else None
    segment = segments[index]
    following = node.literals.get(segment)
    if following is not None:
        reached = _walk(following, segments, index + 1, values)
        if reached is not None:
            return reached
    if segment == "":
        return None
    mark = len(values)
    name, colon, verb = segment.rpartition(":")
    if node.verbs and name and colon + verb in node.verbs:
        values.append(name)
        reached = _walk(node.verbs[colon + verb], segments, index + 1, values)
        if reached is not None:
            return reached
        del values[mark:]
    if node.slot is not None:
        values.append(segment)
        reached = _walk(node.slot, segments, index + 1, values)
        if reached is not None:
            return reached
        del values[mark:]
    if node.rest is not None and node.rest.rows and segments[-1] != "":
        # Slashes inside a segment stay visible, so that no two paths share a name.
        values.append("/".join(part.replace("/", "%2F") for part in segments[index:]))
        return node.rest
    return None
