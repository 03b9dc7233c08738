"""Tables and fixtures of policy test files: what is written once and used by many cases, spelled out.

Law: what comes out is a test as it could have been written by hand, every part
at the place where it was written. Non-goal: reading the tests (case_reader.py).
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from ext_authz.documents import MappingNode, Mark, Node, Scalar, did_you_mean
from ext_authz.policy.reader import Reader

EACH: Final = "each"
NAME: Final = "name"
FIXTURES: Final = {"subjects": "subject", "resources": "resource"}
"""Sections of a test file that name subjects and resources, and the key of a test that may say such a name."""
_MERGED: Final = ("subject", "resource", "context", "attributes")

Fixtures = Mapping[str, Mapping[str, MappingNode]]
"""Key of a test to name to what it stands for."""


def read_fixtures(reader: Reader, file: MappingNode) -> dict[str, dict[str, MappingNode]]:
    """Return the named subjects and resources of a test file; mistakes go to the reader."""
    found: dict[str, dict[str, MappingNode]] = {key: {} for key in FIXTURES.values()}
    for section, key in FIXTURES.items():
        node = file.get(section)
        mapping = None if node is None else reader.mapping(node, f"`{section}`")
        for name, value in mapping or ():
            inner = reader.mapping(value, f"{key} `{name.text}`")
            if inner is not None:
                found[key][name.text] = inner
    return found


def spelled_out(reader: Reader, test: MappingNode, fixtures: Fixtures) -> Iterator[MappingNode]:
    """Yield the test, or one for each row of its table, with fixtures put in.

    A row's `subject`, `resource`, `context` and `attributes` change single
    keys of the test's own; anything else takes its place.
    """
    table = test.get(EACH)
    base = _with_fixtures(reader, _without(test, EACH), fixtures)
    if table is None:
        yield base
        return
    for number, item in enumerate(reader.sequence(table, f"`{EACH}`") or (), 1):
        row = reader.mapping(item, "a row of `each`")
        if row is None:
            continue
        if row.get(EACH) is not None:
            reader.mistake(row.key_mark(EACH), "a row has no `each` of its own")
            continue
        # Another fixture takes the place of the test's own whole.
        instead = {key.text for key, value in row if isinstance(value, Scalar)}
        yield _merged(base, _with_fixtures(reader, row, fixtures), number, instead)


def _with_fixtures(reader: Reader, test: MappingNode, fixtures: Fixtures) -> MappingNode:
    entries = []
    for key, value in test:
        known = fixtures.get(key.text)
        put: Node = value
        if known is not None and isinstance(value, Scalar) and not value.is_null:
            fixture = known.get(value.text)
            if fixture is None:
                reader.mistake(
                    value, f"no {key.text} is called `{value.text}`{did_you_mean(value.text, sorted(known))}"
                )
            # Where it is unknown the test is about nobody; the mistake keeps it from being run.
            put = fixture if fixture is not None else _nothing(key.text, value.mark)
        entries.append((key, put))
    return MappingNode(tuple(entries), test.mark)


def _nothing(key: str, mark: Mark) -> MappingNode:
    name = "id" if key == FIXTURES["subjects"] else "type"
    return MappingNode(((Scalar(name, plain=True, mark=mark), Scalar("unknown", plain=True, mark=mark)),), mark)


def _merged(base: MappingNode, row: MappingNode, number: int, instead: Collection[str]) -> MappingNode:
    own = {key.text: (key, value) for key, value in row}
    entries = {key.text: (key, value) for key, value in base}
    for name, (key, value) in own.items():
        there = entries.get(name)
        if (
            name in _MERGED
            and name not in instead
            and there is not None
            and isinstance(there[1], MappingNode)
            and isinstance(value, MappingNode)
        ):
            merged = {inner.text: (inner, each) for inner, each in (*there[1], *value)}
            value = MappingNode(tuple(merged.values()), value.mark)  # noqa: PLW2901
        entries[name] = (key, value)
    entries[NAME] = _named(base, row, number)
    return MappingNode(tuple(entries.values()), row.mark)


def _named(base: MappingNode, row: MappingNode, number: int) -> tuple[Scalar, Node]:
    """Return `TEST: ROW`, or `TEST: 3` for a third row without a name. Without a name for the test there is none."""
    whole, part = base.get(NAME), row.get(NAME)
    mark: Mark = row.mark
    if not isinstance(whole, Scalar) or not (part is None or isinstance(part, Scalar)):
        return Scalar(NAME, True, mark), whole if whole is not None else Scalar("", True, mark)
    last = part.text if part is not None else str(number)
    return Scalar(NAME, True, mark), Scalar(f"{whole.text}: {last}", False, whole.mark)


def _without(mapping: MappingNode, name: str) -> MappingNode:
    return MappingNode(tuple(entry for entry in mapping.entries if entry[0].text != name), mapping.mark)
