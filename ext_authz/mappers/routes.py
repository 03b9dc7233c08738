"""The route table: which entry a request falls under, and what it then means.

Law: the first entry that matches speaks, and from the first matching protocol
entry on only protocol entries are looked at; no entry, no route.
Non-goal: whether anybody may do it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from types import MappingProxyType
from typing import Final, NamedTuple

from ext_authz.documents import Diagnostic, DocumentError, MappingNode, Mark, Node, Scalar, did_you_mean
from ext_authz.mappers import body
from ext_authz.mappers.adapter import Call, Found, Named
from ext_authz.mappers.catalog import Attributes, Catalog, CatalogEntry, duplicates, read_catalog
from ext_authz.mappers.entries import Entry, duplicate_names, read_routes
from ext_authz.mappers.path import CanonicalPath, canonicalise
from ext_authz.mappers.places import version_problem
from ext_authz.model import Access, Reason, Refusal, RequestFacts, Resource, Source, Target

ROUTE_EXTENSION: Final = "ext_authz_route"
DEFAULT_MAX_REQUEST_BYTES: Final = 1024 * 1024
HTTP: Final = "http"


def _spellings(*names: str) -> frozenset[str]:
    """Return the names with each `-` perhaps an `_`, which WSGI and CGI servers read alike."""
    return frozenset("".join(each) for name in names for each in product(*("-_" if c == "-" else c for c in name)))


_METHOD_OVERRIDES: Final = _spellings("x-http-method-override", "x-http-method", "x-method-override")
_PATH_OVERRIDES: Final = _spellings("x-original-url", "x-rewrite-url")
_OVERRIDES: Final = _METHOD_OVERRIDES | _PATH_OVERRIDES
_UPGRADE: Final = "upgrade"
MATCHED_HEADERS: Final = frozenset({_UPGRADE, *_METHOD_OVERRIDES, *_PATH_OVERRIDES})
"""What `match` reads of the headers beside content-type, by which it tells gRPC."""
_KEYS: Final = ("routes", "catalog")
_NOTHING: Final[Attributes] = MappingProxyType({})


class RouteMatch(NamedTuple):
    """The entry a request falls under. `found` is the protocol's row, None where it has none for this path."""

    name: str
    path: CanonicalPath
    public: bool
    protocol: str
    error_shape: str
    entry: Entry
    found: Found | None = None
    captured: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Yields:
    """What the routes can ask policies about.

    `accesses` are pairs of resource type and action, `attributes` the keys
    that routes or catalog give.
    """

    accesses: frozenset[tuple[str, str]]
    attributes: frozenset[str]

    @property
    def types(self) -> frozenset[str]:
        """The resource types."""
        return frozenset(kind for kind, _ in self.accesses)

    @property
    def actions(self) -> frozenset[str]:
        """The actions."""
        return frozenset(action for _, action in self.accesses)


class _Bucket:
    """Entries in order, by the first literal segment they need."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        ordered = tuple(entries)
        firsts = {_first(entry) for entry in ordered} - {None}
        self.by_first = {first: tuple(entry for entry in ordered if _first(entry) in (first, None)) for first in firsts}
        self.others = tuple(entry for entry in ordered if _first(entry) is None)

    def get(self, path: CanonicalPath) -> tuple[Entry, ...]:
        return self.by_first.get(path.segments[0], self.others)


def _first(entry: Entry) -> str | None:
    if entry.path is not None:
        return entry.path.first
    return entry.mount[0] if entry.mount else None


class RouteTable:
    """Frozen after construction.

    `header_names` are the request headers that matching and mapping read, `sources` what they read of Envoy's own
    metadata and context extensions.
    """

    def __init__(
        self, entries: Iterable[Entry], catalog: Catalog, max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES
    ) -> None:
        self.entries: Final = tuple(entries)
        self.catalog: Final = catalog
        self.max_request_bytes: Final = max_request_bytes
        names = {*MATCHED_HEADERS, *body.HEADER_NAMES}
        for entry in self.entries:
            if entry.adapter is not None:
                names |= entry.adapter.header_names
        self.header_names: Final = frozenset(names)
        told = [entry.named_by.sources for entry in self.entries if entry.named_by is not None]
        self.sources: Final[frozenset[Source]] = frozenset().union(*told)
        self._by_name: Final = {entry.name: entry for entry in self.entries if entry.named}
        reachable = [entry for entry in self.entries if not entry.by_name]
        hosts = {entry.host.text for entry in reachable if entry.host is not None and not entry.host.wild}
        self._by_host: Final = {host: _Bucket(_on_host(reachable, host)) for host in hosts}
        self._elsewhere: Final = _Bucket(entry for entry in reachable if entry.host is None or entry.host.wild)

    def match(self, facts: RequestFacts) -> RouteMatch | Refusal | None:
        """Return the entry a request falls under; None: no route. A path of several readings is a refusal."""
        if facts.path == "" and facts.method == "CONNECT":
            return None
        if facts.path == "*" and facts.method == "OPTIONS":
            return None
        path = canonicalise(facts.path)
        if isinstance(path, Refusal):
            return path
        overridden = _override(facts)
        if overridden is not None:
            return overridden
        if facts.method == "CONNECT":
            return None
        name = facts.context_extensions.get(ROUTE_EXTENSION)
        candidates: tuple[Entry, ...] = ()
        if name is None:
            candidates = (self._by_host.get(facts.host) or self._elsewhere).get(path)
        elif name in self._by_name:
            candidates = (self._by_name[name],)
        match = _select(candidates, facts, path)
        problem = _slash_problem(match, facts, path) if path.slashed else None
        if problem is not None:
            return Refusal(Reason.AMBIGUOUS_PATH, problem)
        if match is None:
            return None
        if _UPGRADE in facts.headers and not _may_upgrade(match.entry, facts.headers[_UPGRADE]):
            return None
        if match.found is not None and "version" in match.found.captured:
            problem = version_problem(match.found.captured["version"])
        return Refusal(Reason.AMBIGUOUS_PATH, problem) if problem else match

    def target(self, match: RouteMatch, facts: RequestFacts) -> Target | Refusal:
        """Return what the request means, catalog applied; refuses `no_route` and `ambiguous_body`."""
        entry = match.entry
        if entry.adapter is None:
            return self._templated(match)
        if match.found is None:
            return Refusal(Reason.NO_ROUTE, f"{entry.adapter.name} has no such call")
        row = match.found.row
        part = "" if entry.host is None else entry.host.part(facts.host)
        call = Call(facts, row, match.found.captured, entry.name, match.path.query, self.max_request_bytes, part)
        meaning = row.place.read(call) if entry.named_by is None else entry.named_by.meaning(call)
        if isinstance(meaning, Refusal):
            return meaning
        accesses = tuple([self._access(named, entry) for named in meaning.named])
        return Target(accesses, entry.name, entry.adapter.name, meaning.attributes)

    def lint(self) -> tuple[Diagnostic, ...]:
        """Return warnings: entries that are never reached, and hosts whose names anybody can own."""
        return (*_shadowed([entry for entry in self.entries if not entry.by_name]), *_ownable(self.entries))

    def yields(self) -> Yields:
        """Return what the routes can ask policies about."""
        accesses: set[tuple[str, str]] = set()
        attributes: set[str] = {key for known in self.catalog.entries for key in known.attributes}
        for entry in self.entries:
            attributes |= entry.attributes.keys()
            if entry.adapter is not None:
                accesses |= entry.adapter.yields
            elif entry.resource is not None:
                accesses.add((entry.resource.type, entry.action))
                attributes |= entry.resource.attributes.keys()
        return Yields(frozenset(accesses), frozenset(attributes))

    def listed(self) -> dict[str, tuple[list[str], Callable[[str], Attributes]]]:
        """Return per resource type that a route's answers enumerate: the catalog's ids, and what it knows of an id."""
        kinds = frozenset().union(*(entry.adapter.lists for entry in self.entries if entry.adapter is not None))
        return {
            kind: (
                [known.id for known in self.catalog.entries if known.type == kind],
                partial(self.catalog.attributes, kind, route=_NOTHING),
            )
            for kind in kinds
        }

    def _access(self, named: Named, entry: Entry) -> Access:
        known = self.catalog.attributes(named.type, named.id, entry.attributes)
        return Access(Resource(named.type, named.id, named.version, known), named.action)

    def _templated(self, match: RouteMatch) -> Target | Refusal:
        entry = match.entry
        template = entry.resource
        if template is None:
            return Refusal(Reason.NO_ROUTE, "a public entry names no resource")
        own = {**entry.attributes, **template.attributes} if template.attributes else entry.attributes
        name = template.id.render(match.captured)
        known = self.catalog.attributes(template.type, name, own)
        resource = Resource(template.type, name, template.version.render(match.captured), known)
        return Target((Access(resource, entry.action),), entry.name, HTTP)


def _on_host(entries: Iterable[Entry], host: str) -> list[Entry]:
    return [entry for entry in entries if entry.host is None or entry.host.matches(host)]


def _select(candidates: Sequence[Entry], facts: RequestFacts, path: CanonicalPath) -> RouteMatch | None:
    owner: Entry | None = None
    for entry in candidates:
        if entry.methods is not None and facts.method not in entry.methods:
            continue
        if entry.host is not None and not entry.host.matches(facts.host):
            continue
        if entry.path is not None:
            if owner is not None:
                continue
            captured = entry.path.match(path)
            if captured is not None:
                return RouteMatch(entry.name, path, entry.public, HTTP, "", entry, None, captured)
        elif entry.adapter is not None:
            depth = len(entry.mount)
            if depth and path.segments[:depth] != entry.mount:
                continue
            found = entry.adapter.find(facts, path.segments[depth:] if depth else path.segments)
            if found is not None:
                return RouteMatch(
                    entry.name,
                    path,
                    public=False,
                    protocol=entry.adapter.name,
                    error_shape=entry.adapter.error_shape,
                    entry=entry,
                    found=found,
                )
            owner = owner or entry
    if owner is None or owner.adapter is None:
        return None
    return RouteMatch(owner.name, path, False, owner.adapter.name, owner.adapter.error_shape, owner)


def _override(facts: RequestFacts) -> Refusal | None:
    """Refuse headers by which some servers let a caller replace what was checked."""
    headers = facts.headers
    if _OVERRIDES.isdisjoint(headers):
        return None
    for name in sorted(_OVERRIDES.intersection(headers)):
        if name in _METHOD_OVERRIDES and headers[name] != (facts.method,):
            return Refusal(Reason.AMBIGUOUS_PATH, f"the header {name} names another method")
        if name in _PATH_OVERRIDES and headers[name] != (facts.path,):
            return Refusal(Reason.AMBIGUOUS_PATH, f"the header {name} names another path")
    return None


def _may_upgrade(entry: Entry, values: tuple[str, ...]) -> bool:
    return len(values) == 1 and values[0].lower() in entry.upgrade


def _slash_problem(match: RouteMatch | None, facts: RequestFacts, path: CanonicalPath) -> str | None:
    if match is None or not match.entry.encoded_slash:
        return "an encoded slash, and no route allows one here"
    entry = match.entry
    if entry.path is not None:
        if not entry.path.slots.issuperset(path.slashed):
            return "an encoded slash outside a `{x}`"
        return None
    if entry.adapter is None or match.found is None:
        return "an encoded slash outside a model name"
    return entry.adapter.slash_problem(facts, path, len(entry.mount), match.found)


def load_resources(
    sources: Sequence[tuple[Node | None, str]],
    *,
    inline: Node | None = None,
    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
) -> RouteTable:
    """Compile routes and catalog.

    `inline` is the configuration's `resources:` node (its `files` are the
    caller's to open) and comes first; `sources` are (document, file name) of
    the resource files in order. Raises DocumentError with every mistake.
    """
    mistakes: list[Diagnostic] = []
    entries: list[Entry] = []
    known: list[CatalogEntry] = []
    if inline is not None:
        _read(inline, (*_KEYS, "files"), entries, known, mistakes)
    for node, file in sources:
        if node is None:
            mistakes.append(Diagnostic(Mark(file, 1, 1), "the file is empty; it holds `routes:` and `catalog:`"))
        else:
            _read(node, _KEYS, entries, known, mistakes)
    mistakes += duplicate_names(entries) + duplicates(known)
    if mistakes:
        raise DocumentError(mistakes)
    return RouteTable(entries, Catalog(known), max_request_bytes)


def _read(
    node: Node,
    keys: tuple[str, ...],
    entries: list[Entry],
    known: list[CatalogEntry],
    mistakes: list[Diagnostic],
) -> None:
    if not isinstance(node, MappingNode):
        if not (isinstance(node, Scalar) and node.is_null):
            mistakes.append(Diagnostic(node.mark, "resources are a mapping with `routes:` and `catalog:`"))
        return
    for key, value in node:
        if key.text == "routes":
            entries += read_routes(value, mistakes)
        elif key.text == "catalog":
            known += read_catalog(value, mistakes)
        elif key.text not in keys:
            mistakes.append(Diagnostic(key.mark, f"unknown key `{key.text}`{did_you_mean(key.text, keys)}"))


def _ownable(entries: Iterable[Entry]) -> list[Diagnostic]:
    return [
        Diagnostic(
            entry.mark,
            f"the host `{entry.host.text}` of route `{entry.name}` ends in `*`: anybody can own such a name",
            warning=True,
            code="host_anybody_can_own",
        )
        for entry in entries
        if entry.host is not None and entry.host.anybody
    ]


def _shadowed(entries: Sequence[Entry]) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    before: dict[str, list[Entry]] = {"": []}
    for later in entries:
        host = later.host.text if later.host is not None and not later.host.wild else ""
        same = before.setdefault(host, [])
        earlier = next((entry for entry in chain(before[""], same) if _covers(entry, later)), None)
        same.append(later)
        if earlier is not None:
            found.append(
                Diagnostic(
                    later.mark,
                    f"route `{later.name}` is never reached: `{earlier.name}` at {earlier.mark} matches first",
                    warning=True,
                    code="shadowed_route",
                )
            )
    return found


def _covers(earlier: Entry, later: Entry) -> bool:
    if earlier.host is not None and (later.host is None or not earlier.host.covers(later.host)):
        return False
    if earlier.methods is not None and (later.methods is None or not earlier.methods >= later.methods):
        return False
    if earlier.path is not None:
        if later.path is not None:
            return earlier.path.covers(later.path)
        # A protocol's paths are many; only `/**` above its mount takes them all (but those that end in `/`).
        return earlier.path.tokens == ("**",)
    if later.path is None:
        return earlier.adapter is later.adapter and later.mount == earlier.mount
    return later.path.tokens[: len(earlier.mount)] == earlier.mount
