"""What is known of each resource: attributes by type and id.

Law: for each attribute the most specific entry that gives it speaks (an exact
id before a longer prefix before a shorter one), and the catalog beats the
route. Of `*` and `a/*`, any resource or any below, only what is true of every
one is known.
Non-goal: which resources exist.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ext_authz.documents import Diagnostic, MappingNode, Mark, Node, Scalar, Sequence
from ext_authz.mappers.adapter import EVERY
from ext_authz.model import AttributeValue

Attributes = Mapping[str, AttributeValue]

ATTRIBUTE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
MAX_BELOW: Final = 256
RESERVED: Final = frozenset({"type", "id", "version"})
_NOTHING: Final[Attributes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One line of a catalog as written; `id` may end in `*`."""

    type: str
    id: str
    attributes: Attributes
    mark: Mark


@dataclass(frozen=True, slots=True)
class _Type:
    exact: Mapping[str, Attributes]
    prefixes: Mapping[int, Mapping[str, Attributes]]
    lengths: tuple[int, ...]
    values: Mapping[str, frozenset[AttributeValue]]
    ordered: tuple[tuple[str, Attributes], ...]

    def of(self, name: str) -> Attributes:
        found = self.exact.get(name)
        if found is not None:
            return found
        for length in self.lengths:
            found = self.prefixes[length].get(name[:length])
            if found is not None:
                return found
        return _NOTHING

    def certain(self, route: Attributes, prefix: str) -> dict[str, AttributeValue]:
        """Return what is true of every resource whose id begins with `prefix`."""
        known = dict(route)
        for length in self.lengths:
            found = self.prefixes[length].get(prefix[:length]) if length <= len(prefix) else None
            if found is not None:
                known.update(found)
                break
        below = self._below(prefix)
        return {key: value for key, value in known.items() if below.get(key, {value}) == {value}}

    def _below(self, prefix: str) -> Mapping[str, AbstractSet[AttributeValue]]:
        first = bisect_left(self.ordered, prefix, key=_id_of)
        # Beyond what a check has time for, what any resource has counts.
        last = first + MAX_BELOW
        if not prefix or (last < len(self.ordered) and self.ordered[last][0].startswith(prefix)):
            return self.values
        values: dict[str, set[AttributeValue]] = {}
        for name, attributes in self.ordered[first:last]:
            if not name.startswith(prefix):
                break
            for key, value in attributes.items():
                values.setdefault(key, set()).add(value)
        return values


class Catalog:
    """Attributes by (type, id), compiled. Safe to share: nothing changes after construction."""

    def __init__(self, entries: Iterable[CatalogEntry]) -> None:
        self.entries: Final = tuple(entries)
        by_type: dict[str, list[CatalogEntry]] = {}
        for entry in self.entries:
            by_type.setdefault(entry.type, []).append(entry)
        self._types: Final = {name: _compile(each) for name, each in by_type.items()}

    def attributes(self, kind: str, name: str, route: Attributes) -> Attributes:
        """Return what is known of a resource; `route` are the attributes its route gives."""
        known = self._types.get(kind)
        if known is None:
            return route
        if name.endswith(EVERY):
            return known.certain(route, name.removesuffix(EVERY))
        own = known.of(name)
        return {**route, **own} if route else own


def _compile(entries: list[CatalogEntry]) -> _Type:
    values: dict[str, set[AttributeValue]] = {}
    for entry in entries:
        for key, value in entry.attributes.items():
            values.setdefault(key, set()).add(value)
    # A prefix that matches an id is a prefix of every longer one that does, so each holds what it inherits.
    prefixes: dict[int, dict[str, Attributes]] = {}
    patterns = {entry.id.removesuffix(EVERY): entry.attributes for entry in entries if entry.id.endswith(EVERY)}
    for prefix in sorted(patterns, key=len):
        prefixes.setdefault(len(prefix), {})[prefix] = _inherit(prefixes, prefix, patterns[prefix])
    exact = {
        entry.id: _inherit(prefixes, entry.id, entry.attributes) for entry in entries if not entry.id.endswith(EVERY)
    }
    lengths = tuple(sorted(prefixes, reverse=True))
    ordered = tuple(sorted(((entry.id.removesuffix(EVERY), entry.attributes) for entry in entries), key=_id_of))
    return _Type(exact, prefixes, lengths, {key: frozenset(each) for key, each in values.items()}, ordered)


def _id_of(pair: tuple[str, Attributes]) -> str:
    return pair[0]


def _inherit(prefixes: Mapping[int, Mapping[str, Attributes]], name: str, own: Attributes) -> Attributes:
    for length in sorted(prefixes, reverse=True):
        inherited = prefixes[length].get(name[:length]) if length <= len(name) else None
        if inherited is not None:
            return MappingProxyType({**inherited, **own})
    return MappingProxyType(dict(own))


def read_catalog(node: Node, mistakes: list[Diagnostic]) -> list[CatalogEntry]:
    """Read the list under `catalog:`; every mistake is appended to `mistakes`."""
    if not isinstance(node, Sequence):
        if not (isinstance(node, Scalar) and node.is_null):
            mistakes.append(Diagnostic(node.mark, "`catalog` is a list of resources"))
        return []
    entries: list[CatalogEntry] = []
    for item in node:
        if not isinstance(item, MappingNode):
            mistakes.append(Diagnostic(item.mark, "a catalog entry is a mapping: `{type: …, id: …, ATTRIBUTE: VALUE}`"))
            continue
        entry = _read_entry(item, mistakes)
        if entry is not None:
            entries.append(entry)
    return entries


def duplicates(entries: Iterable[CatalogEntry]) -> list[Diagnostic]:
    """Return a mistake for each (type, id) that stands twice."""
    seen: dict[tuple[str, str], Mark] = {}
    found: list[Diagnostic] = []
    for entry in entries:
        first = seen.setdefault((entry.type, entry.id), entry.mark)
        if first is not entry.mark:
            found.append(Diagnostic(entry.mark, f"`{entry.type}/{entry.id}` is in the catalog already, at {first}"))
    return found


def _read_entry(node: MappingNode, mistakes: list[Diagnostic]) -> CatalogEntry | None:
    before = len(mistakes)
    kind, name = text_of(node, "type", mistakes), text_of(node, "id", mistakes)
    if EVERY in kind:
        mistakes.append(Diagnostic(node.key_mark("type"), "a catalog entry is of one type: `type` holds no `*`"))
    if EVERY in name[:-1]:
        mistakes.append(Diagnostic(node.key_mark("id"), f"`{name}`: a `*` stands at the end of an id only"))
    attributes = read_attributes(node, frozenset({"type", "id"}), mistakes)
    return CatalogEntry(kind, name, attributes, node.mark) if len(mistakes) == before else None


def text_of(node: MappingNode, key: str, mistakes: list[Diagnostic]) -> str:
    """Return the non-empty text under `key`; "" and a mistake when there is none."""
    value = node.get(key)
    if isinstance(value, Scalar) and not value.is_null and value.text:
        return value.text
    mark = node.mark if value is None else value.mark
    mistakes.append(Diagnostic(mark, f"`{key}` is missing" if value is None else f"`{key}` is a non-empty text"))
    return ""


def read_attributes(node: MappingNode, skip: frozenset[str], mistakes: list[Diagnostic]) -> dict[str, AttributeValue]:
    """Return the attributes of a mapping, keys in `skip` left out; values are the text as written."""
    attributes: dict[str, AttributeValue] = {}
    for key, value in node:
        if key.text in skip:
            continue
        if key.text in RESERVED:
            mistakes.append(Diagnostic(key.mark, f"`{key.text}` comes from the request, not from here"))
        elif not ATTRIBUTE.match(key.text):
            mistakes.append(Diagnostic(key.mark, f"`{key.text}` is not an attribute name (letters, digits, `_`, `-`)"))
        elif not isinstance(value, Scalar) or value.is_null or not value.text:
            mistakes.append(Diagnostic(value.mark, f"`{key.text}` needs one value, a non-empty text"))
        elif "{" in value.text or "}" in value.text:
            mistakes.append(Diagnostic(value.mark, "`{x}` from the path may stand in `id` and `version` only"))
        else:
            attributes[key.text] = value.text
    return attributes
