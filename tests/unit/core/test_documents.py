import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.documents import DocumentError, MappingNode, Scalar, Sequence, did_you_mean, load, mark_at, to_plain


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load(text, "f.yaml")
    return str(caught.value).splitlines()


def test_a_scalar_stays_the_text_that_was_written():
    assert to_plain(load("a: 17:00\nb: 0123\nc: no\nd: 1e3\ne: 2026-11-23", "f")) == {
        "a": "17:00",
        "b": "0123",
        "c": "no",
        "d": "1e3",
        "e": "2026-11-23",
    }


def test_only_an_unquoted_null_is_null():
    assert to_plain(load("a: ~\nb: null\nc: ''\nd: 'null'\ne:", "f")) == {
        "a": None,
        "b": None,
        "c": "",
        "d": "null",
        "e": None,
    }


def test_every_duplicate_key_is_reported_at_its_place():
    assert problems("a: 1\na: 2\nb: {c: 1, c: 2}\n") == [
        "f.yaml:2:1: duplicate key `a`",
        "  a: 2",
        "  ^",
        "f.yaml:3:11: duplicate key `c`",
        "  b: {c: 1, c: 2}",
        "            ^",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: !!python/object:os.system x",
            "f.yaml:1:4: tags are not supported: `tag:yaml.org,2002:python/object:os.system`",
        ),
        ("a: &x {b: 1}\nc: {<<: *x}", "f.yaml:2:5: merge keys are not supported"),
        ("a: [1", "f.yaml:2:1: did not find expected ',' or ']'"),
        ("a:\n\tb: 1", "f.yaml:2:1: found character that cannot start any token (a tab: YAML is indented by spaces)"),
        ("a: {b: ${C}}", "f.yaml:1:9: did not find expected ',' or '}' (write `${…}` in quotes here)"),
        ("a: 1\n---\nb: 2", "f.yaml:3:1: a second document; a file holds one"),
        ("? [a, b]\n: 1", "f.yaml:1:3: a key must be text"),
        ("a: *nowhere", "f.yaml:1:4: unknown anchor `nowhere`"),
        ("a: \x00", "f.yaml:1:1: not YAML"),
    ],
)
def test_what_the_language_does_not_have_is_refused_with_its_place(text, said):
    assert problems(text)[0].startswith(said)


def test_an_alias_bomb_runs_into_the_node_budget():
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more than 4000000 nodes" in problems("\n".join(lines))[0]


def test_a_file_that_holds_itself_is_refused():
    assert "unknown anchor" in problems("a: &x [*x]")[0]


def test_nesting_is_bounded():
    assert "nested deeper than 64" in problems("[" * 100 + "]" * 100)[0]


def test_a_mark_names_the_deepest_place_that_exists():
    node = load("a:\n  - b: 1\n  - c: 2\n", "f")
    assert str(mark_at(node, ("a", 1, "c"))) == "f:3:8"
    assert str(mark_at(node, ("a", 1, "c"), key=True)) == "f:3:5"
    assert str(mark_at(node, ("a", 1, "missing"))) == "f:3:5"


def test_a_near_word_is_suggested_and_a_far_one_is_not():
    assert did_you_mean("inferr", ["infer", "embed"]) == ", did you mean `infer`?"
    assert did_you_mean("zzz", ["infer", "embed"]) == ""


@given(st.text())
def test_any_text_is_a_document_or_a_document_error(text):
    try:
        node = load(text, "f")
    except DocumentError as error:
        assert error.diagnostics  # noqa: PT017  both outcomes are right
    else:
        assert node is None or isinstance(node, (Scalar, Sequence, MappingNode))
