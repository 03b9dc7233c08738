"""What a caller may see in a listing: patterns of ids, read off the compiled policies.

Law: never wider than the decisions. Every id that a pattern shows would be allowed now, to this caller, for one of
the SEEING actions; what cannot be told without the later request is not shown. Non-goal: whether the listing
itself is allowed, and applying the patterns (the proxy or the upstream does).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote

from ext_authz.model import AttributeValue, Context, Identity, Query, Resource
from ext_authz.policy.cel import Cel
from ext_authz.policy.conditions import Approved, Condition, Maximum
from ext_authz.policy.engine import CompiledPolicy, PolicySet, ResourceEntry

Attributes = Mapping[str, AttributeValue]

SEEING: Final = (
    "read_metadata",
    "infer",
    "generate",
    "embed",
    "rerank",
    "classify",
    "explain",
    "tokenize",
    "read_data",
)
"""Whoever may do one of these to a resource may know that it exists."""
NOTHING: Final = "!*"
MAX_TEXT: Final = 4096
"""Characters of the patterns together, commas included."""
MAX_TRIED: Final = 64
"""Conditions that look at the resource are tried on this many ids in one listing; beyond, nothing is shown by them."""
_REMEMBERED: Final = 1024
# Stands for whatever follows a prefix: no name in a request holds a control character.
_ANY_REST: Final = "\0"
_PLAIN: Final = "".join(map(chr, range(0x21, 0x7F))).translate({ord(c): None for c in "%,!*"})
_OF_THE_CALL: Final = ("request.method", "request.path", "request.protocol", "request.bytes", "request")


class Visible(NamedTuple):
    """`patterns`: ids and prefixes (`fraud-*`), `!` before what is hidden again; the longest that fits speaks.

    What none fits is hidden. `,`, `%`, `!`, `*`, spaces and what is not ASCII are percent-encoded (UTF-8) in them.
    Not `complete`: more may be seen, but would not fit.
    """

    patterns: tuple[str, ...]
    complete: bool = True

    @property
    def text(self) -> str:
        """The patterns as one header value."""
        return ",".join(self.patterns)


class Cells:
    """The ids of one resource type, parted so that policies tell no two ids of a part from each other.

    Every exact id and every prefix that a policy or the catalog mentions is a
    part: the id itself, or what begins so and is no longer part. Immutable.
    """

    def __init__(
        self, policies: PolicySet, kind: str, listed: Iterable[str], known: Callable[[str], Attributes]
    ) -> None:
        """Part the ids. `listed` are the catalog's of this type, `known` gives what the catalog knows of an id."""
        patterns = {"*", *listed}
        for policy in policies.policies:
            for entry in policy.resources or ():
                tests = dict(entry.tests)
                if "id" in tests and ("type" not in tests or tests["type"].accepts(kind)):
                    patterns.update(tests["id"].exact, (f"{prefix}*" for prefix in tests["id"].prefixes))
        self.kind: Final = kind
        # Of equal texts the prefix comes first: it holds the id.
        parts = sorted((text.removesuffix("*"), not text.endswith("*")) for text in patterns)
        self.texts: Final = tuple(text for text, _ in parts)
        self.exact: Final = tuple(exact for _, exact in parts)
        self.numbers: Final = {text: number for number, (text, exact) in enumerate(parts) if exact}
        self.above: Final = _above(parts)
        self.exacts: Final = sum(1 << number for number in self.numbers.values())
        alike: dict[frozenset[tuple[str, AttributeValue]], int] = {}
        for number in range(len(parts)):
            attributes = frozenset(known(self.name(number)).items())
            alike[attributes] = alike.get(attributes, 0) | 1 << number
        self.alike: Final = tuple((dict(attributes), bits) for attributes, bits in alike.items())

    def name(self, number: int) -> str:
        """Return an id of a part."""
        return self.texts[number] if self.exact[number] else self.texts[number] + _ANY_REST

    def below(self, prefix: str) -> int:
        """Return the parts whose every id begins with `prefix`, as bits."""
        first = bisect_left(self.texts, prefix)
        end = bisect_right(self.texts, prefix, key=lambda text: text[: len(prefix)])
        return (1 << end) - (1 << first)


def _above(parts: list[tuple[str, bool]]) -> tuple[int, ...]:
    """Return for each part the smallest prefix part round it; the first one (everything) has itself."""
    above: list[int] = []
    open_: list[int] = []
    for number, (text, exact) in enumerate(parts):
        while open_ and not text.startswith(parts[open_[-1]][0]):
            open_.pop()
        above.append(open_[-1] if open_ else number)
        if not exact:
            open_.append(number)
    return tuple(above)


class Listing:
    """What may be seen through one route entry, whose attributes are `route`. Shared by threads."""

    def __init__(self, policies: PolicySet, cells: Cells, route: Attributes) -> None:
        self.route: Final = route
        self._policies = policies
        self._cells = cells
        self._resources = tuple(
            (Resource(cells.kind, "", "", {**route, **own}), {**route, **own}, bits) for own, bits in cells.alike
        )
        self._hit: dict[int, int] = {}
        self._shown: dict[int, Visible] = {}

    def visible(self, identity: Identity, context: Context) -> Visible:
        """Return what the caller would be allowed to do one of the SEEING actions to, now."""
        asked = Query(identity, Resource(self._cells.kind, ""), "", context)
        concerned = [policy for policy in self._policies.of_subject(asked) if policy.in_force(context.now_ns)]
        tries = _Tries()
        allowed, denied = dict.fromkeys(SEEING, 0), dict.fromkeys(SEEING, 0)
        for policy in concerned:
            actions = () if policy.shadow else [action for action in SEEING if policy.action_matches(action)]
            found: int | None = None
            for action in actions:
                if found is None or _tells_actions_apart(policy):
                    found = self._matching(policy, Query(identity, asked.resource, action, context), tries)
                (denied if policy.deny else allowed)[action] |= found
        seen = 0
        for action in SEEING:
            seen |= allowed[action] & ~denied[action]
        shown = self._shown.get(seen)
        if shown is None:
            shown = _patterns(self._cells, seen)
            if len(self._shown) >= _REMEMBERED:
                self._shown = {}
            self._shown[seen] = shown
        return shown

    def _matching(self, policy: CompiledPolicy, query: Query, tries: "_Tries") -> int:
        """Return the parts that a policy certainly (an allow) or perhaps (a deny) matches."""
        bits = self._hit.get(id(policy))
        if bits is None:
            bits = self._hit[id(policy)] = self._hits(policy)
        looking: list[Condition] = []
        for condition in policy.conditions if bits else ():
            reads = _reads(condition)
            if reads is _CALL:
                if not policy.deny and not isinstance(condition, Maximum):
                    return 0
            elif reads is _RESOURCE:
                looking.append(condition)
            elif not policy.counts(condition.holds(query, policy)):
                return 0
        return self._looked(policy, looking, query, bits, tries) if looking else bits

    def _looked(
        self, policy: CompiledPolicy, conditions: list[Condition], query: Query, bits: int, tries: "_Tries"
    ) -> int:
        """Try conditions that look at the resource, id by id."""
        cells, found = self._cells, 0
        for resource, attributes, alike in self._resources:
            rest = bits & alike
            while rest:
                number = rest.bit_length() - 1
                rest ^= 1 << number
                # A prefix stands for many ids: a deny may hit any of them, an expression may tell them apart.
                certain = cells.exact[number] or all(isinstance(each, Approved) for each in conditions)
                if policy.deny and not cells.exact[number]:
                    found |= 1 << number
                elif tries.left() and certain:
                    one = Query(
                        query.subject,
                        Resource(resource.type, cells.name(number), "", attributes),
                        query.action,
                        query.context,
                    )
                    if all(policy.counts(condition.holds(one, policy)) for condition in conditions):
                        found |= 1 << number
                elif policy.deny:
                    found |= 1 << number
        return found

    def _hits(self, policy: CompiledPolicy) -> int:
        """Return the parts that a policy's resources match."""
        if policy.resources is None:
            return self._everything()
        bits = 0
        for entry in policy.resources:
            bits |= self._by_id(entry) & self._by_attributes(entry)
        return bits

    def _everything(self) -> int:
        return (1 << len(self._cells.texts)) - 1

    def _by_id(self, entry: ResourceEntry) -> int:
        bits = self._everything()
        for attribute, values in entry.tests:
            if attribute == "id":
                known = [self._cells.numbers[text] for text in values.exact if text in self._cells.numbers]
                found = sum(1 << number for number in known)
                for prefix in values.prefixes:
                    found |= self._cells.below(prefix)
                bits &= found
        return bits

    def _by_attributes(self, entry: ResourceEntry) -> int:
        rest = ResourceEntry(tuple(test for test in entry.tests if test[0] != "id"), entry.open)
        bits = 0
        for resource, _, alike in self._resources:
            if rest.matches(resource):
                bits |= alike
        return bits


class Visibility:
    """The listings of one snapshot. `kinds`: per resource type the catalog's ids, and what it knows of an id."""

    def __init__(
        self, policies: PolicySet, kinds: Mapping[str, tuple[Iterable[str], Callable[[str], Attributes]]]
    ) -> None:
        self._policies = policies
        self._cells = {kind: Cells(policies, kind, *catalog) for kind, catalog in kinds.items()}
        self._listings: dict[tuple[str, int], Listing] = {}

    def listing(self, kind: str, route: Attributes) -> Listing:
        """Return the listing of a type through routes with these attributes (this mapping, not an equal one)."""
        key = kind, id(route)
        found = self._listings.get(key)
        if found is None or found.route is not route:
            found = self._listings[key] = Listing(self._policies, self._cells[kind], route)
        return found


class _Tries:
    """How many ids may still be tried in one listing."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = MAX_TRIED

    def left(self) -> bool:
        self._count -= 1
        return self._count >= 0


def _tells_actions_apart(policy: CompiledPolicy) -> bool:
    return any(isinstance(condition, Cel) and "action" in condition.reads for condition in policy.conditions)


_CALL, _RESOURCE, _NEITHER = "call", "resource", "neither"


def _reads(condition: Condition) -> str:
    """Return what a condition needs that a listing does not have: the later call, one resource, or neither."""
    if isinstance(condition, Maximum):
        return _CALL
    if isinstance(condition, Approved):
        return _RESOURCE
    if isinstance(condition, Cel):
        if condition.reads.intersection(_OF_THE_CALL):
            return _CALL
        if any(name.partition(".")[0] == "resource" for name in condition.reads - {"resource.type"}):
            return _RESOURCE
    return _NEITHER


def _patterns(cells: Cells, seen: int) -> Visible:
    """Return the shortest patterns for the parts `seen`; what does not fit is left out with all that belongs to it."""
    shown: list[str] = []
    length, complete = 0, True
    group: list[str] = []

    def close() -> None:
        nonlocal length, complete
        size = sum(map(len, group)) + len(group)
        if group and length + size <= MAX_TEXT + 1:
            shown.extend(group)
            length += size
        elif group:
            complete = False
        group.clear()

    outer = ""
    for number, text in enumerate(cells.texts):
        above = cells.above[number]
        now = seen >> number & 1
        before = 0 if above == number else seen >> above & 1
        if now == before:
            continue
        if not group or not (outer.endswith("*") and text.startswith(outer[:-1])):
            close()
            outer = text if cells.exact[number] else f"{text}*"
        group.append(("" if now else "!") + quote(text, safe=_PLAIN) + ("" if cells.exact[number] else "*"))
    close()
    return Visible(tuple(shown) or (NOTHING,), complete)
