"""The index: which policies could match a query, found without looking at the others.

Law: a superset of the policies whose subject, resource and action match; the
caller tests each one it gets. Each entry is filed under the rarest of its
tests, each axis (subject, resource, action) unites what it finds, the three
are intersected. Non-goal: conditions.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from ext_authz.model import Query, Resource
from ext_authz.policy.matching import Entry, Trait, names_several, resource_value, subject_values

# With this few policies left it is cheaper to test them than to intersect further.
FEW: Final = 8
# With this few policies at all it is cheaper to test each than to look any up.
FEWEST: Final = 4


class Filing(NamedTuple):
    """One policy's entries on one axis; None: it accepts anything. `open`: an unknown attribute matches."""

    entries: tuple[Entry, ...] | None
    open: bool


class Posting:
    """Ascending numbers of policies: as a tuple while few, else as a bit set."""

    __slots__ = ("bits", "count", "few")

    def __init__(self, numbers: Iterable[int]) -> None:
        ordered = sorted(set(numbers))
        self.count = len(ordered)
        self.few = tuple(ordered) if self.count <= FEW else ()
        self.bits = 0 if self.few else _bits(ordered)


class Term:
    """The postings of one attribute: by value, by prefix (per length), and where it is unknown."""

    __slots__ = ("absent", "exact", "prefixes")

    def __init__(self, filed: Iterable[tuple[int, Trait, bool]]) -> None:
        exact: dict[str, list[int]] = {}
        prefixes: dict[int, dict[str, list[int]]] = {}
        absent: list[int] = []
        for number, test, is_open in filed:
            for value in test.values:
                if value.endswith("*"):
                    prefix = value[:-1]
                    prefixes.setdefault(len(prefix), {}).setdefault(prefix, []).append(number)
                else:
                    exact.setdefault(value, []).append(number)
            if is_open:
                absent.append(number)
        self.exact = {value: Posting(numbers) for value, numbers in exact.items()}
        self.prefixes = tuple(
            (length, {prefix: Posting(numbers) for prefix, numbers in group.items()})
            for length, group in sorted(prefixes.items())
        )
        self.absent = Posting(absent)

    def collect(self, value: str, found: list[Posting]) -> None:
        """Add the postings that accept `value`."""
        posting = self.exact.get(value)
        if posting is not None:
            found.append(posting)
        for length, group in self.prefixes:
            posting = group.get(value[:length])
            if posting is not None and len(value) >= length:
                found.append(posting)


class Axis:
    """All that is filed about one of subject, resource and action."""

    __slots__ = ("terms", "wild")

    def __init__(self, filings: Sequence[Filing]) -> None:
        rarity = _Rarity(filings)
        filed: dict[str, list[tuple[int, Trait, bool]]] = {}
        wild: list[int] = []
        for number, filing in enumerate(filings):
            for entry in filing.entries if filing.entries is not None else ((),):
                if entry:
                    test = min(entry, key=rarity.of)
                    filed.setdefault(test.attribute, []).append((number, test, filing.open))
                else:
                    wild.append(number)
        self.wild = Posting(wild)
        self.terms = tuple((attribute, Term(each)) for attribute, each in filed.items())


class _Rarity:
    """How many policies a test would leave, judged by how often its alternatives are written."""

    def __init__(self, filings: Sequence[Filing]) -> None:
        self.total = len(filings)
        self.written: Counter[tuple[str, str]] = Counter()
        for filing in filings:
            for entry in filing.entries or ():
                self.written.update((test.attribute, value) for test in entry for value in test.values)

    def of(self, test: Trait) -> tuple[float, int]:
        cost = 0.0
        for value in test.values:
            cost += self.written[test.attribute, value]
            if value.endswith("*"):
                cost += self.total / len(value) ** 2
        return cost, len(test.values)


class Index:
    """Finds candidates among numbered policies."""

    __slots__ = ("_actions", "_everything", "_resources", "_subjects")

    def __init__(self, subjects: Sequence[Filing], resources: Sequence[Filing], actions: Sequence[Filing]) -> None:
        self._subjects = Axis(subjects)
        self._resources = Axis(resources)
        self._actions = Axis(actions)
        self._everything = tuple(range(len(actions))) if len(actions) <= FEWEST else None

    def candidates(self, query: Query) -> Collection[int]:
        """Return the numbers of the policies that could match, ascending."""
        if self._everything is not None:
            return self._everything
        axes: list[tuple[int, list[Posting]]] = []
        for found in (self._by_resource(query.resource), self._by_subject(query), self._by_action(query.action)):
            count = sum([posting.count for posting in found])
            if count == 0:
                return ()
            axes.append((count, found))
        count, found = min(axes, key=_count)
        if count <= FEW:
            return _merged(found)
        bits = -1
        for _, found in sorted(axes, key=_count):
            bits &= _united(found)
            if not bits:
                return ()
        return _numbers(bits)

    def of_subject(self, query: Query) -> Collection[int]:
        """Return the numbers of the policies whose subject could match, ascending."""
        return self._everything if self._everything is not None else _numbers(_united(self._by_subject(query)))

    def _by_subject(self, query: Query) -> list[Posting]:
        axis = self._subjects
        found = [axis.wild]
        for attribute, term in axis.terms:
            for value in subject_values(query.subject, attribute):
                term.collect(value, found)
        return found

    def _by_resource(self, resource: Resource) -> list[Posting]:
        axis = self._resources
        found = [axis.wild]
        for attribute, term in axis.terms:
            value = resource_value(resource, attribute)
            if value is not None:
                term.collect(value, found)
            # An id that may name several is as good as unknown to a deny on one of them.
            if value is None or (attribute == "id" and names_several(value)):
                found.append(term.absent)
        return found

    def _by_action(self, action: str) -> list[Posting]:
        axis = self._actions
        found = [axis.wild]
        for _, term in axis.terms:
            term.collect(action, found)
        return found


def _count(axis: tuple[int, list[Posting]]) -> int:
    return axis[0]


def _merged(found: list[Posting]) -> Collection[int]:
    lists = [posting.few for posting in found if posting.few]
    return lists[0] if len(lists) == 1 else sorted({number for few in lists for number in few})


def _united(found: list[Posting]) -> int:
    bits = 0
    for posting in found:
        bits |= posting.bits
        for number in posting.few:
            bits |= 1 << number
    return bits


def _bits(numbers: Sequence[int]) -> int:
    if not numbers:
        return 0
    packed = bytearray(numbers[-1] // 8 + 1)
    for number in numbers:
        packed[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(packed, "little")


def _numbers(bits: int) -> list[int]:
    numbers = []
    # From the top: finding the highest bit of a Python int takes no walk over it.
    while bits:
        number = bits.bit_length() - 1
        numbers.append(number)
        bits ^= 1 << number
    numbers.reverse()
    return numbers
