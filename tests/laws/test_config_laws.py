"""Laws of the configuration: whatever is written, it loads whole or says what is wrong, and gives no secret away."""

import contextlib
import re

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.config import Settings
from ext_authz.config.load import parse
from ext_authz.config.variables import environment
from ext_authz.documents import DocumentError
from ext_authz.tools.case_reader import load_cases
from ext_authz.tools.cases import CASE_KEYS, CONTEXT_KEYS, EXPECT_KEYS, SUBJECT_KEYS
from ext_authz.tools.schemas import config_schema

SECRET = "5c7f0b6e-hunter2-secret"


def known_keys(node):
    for name, each in node.get("properties", {}).items():
        yield name
        yield from known_keys(each)
    for each in node.get("$defs", {}).values():
        yield from known_keys(each)


KEYS = sorted(set(known_keys(config_schema())))
WORDS = st.sampled_from([
    "true", "false", "10s", "1h", "0", "7", "1MiB", "auto", "127.0.0.1:0", "0.0.0.0:1", "unix:/x/{worker}.sock", "10.0.0.0/8",
    "spiffe://a/b", "${SECRET}", "x${SECRET}", "${NOT_SET}", "${file:x}", "${subject.id}", "${", "stdout", "file", "sqlite",
    "native", "*", "sub:a", "", "~", "policies.yaml", "eak_", "none", "RS256", "x-h",
])  # fmt: skip
SCALARS = WORDS | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
FILES = st.dictionaries(st.sampled_from([*Settings.model_fields, "polices"]), VALUES, max_size=6)


def shaped(draw, schema, node, depth=0):
    """Something that looks like what the schema wants, with the odd surprise in it."""
    if draw(st.integers(0, 11)) == 0:
        return draw(VALUES)
    if "$ref" in node:
        return shaped(draw, schema, schema["$defs"][node["$ref"].rpartition("/")[2]], depth)
    if "anyOf" in node or "oneOf" in node:
        return shaped(draw, schema, draw(st.sampled_from(node.get("anyOf") or node["oneOf"])), depth)
    if node.get("type") == "object" and "properties" in node:
        names = [
            name for name in node["properties"] if name in node.get("required", []) or draw(st.integers(0, 3)) == 0
        ]
        return {name: shaped(draw, schema, node["properties"][name], depth + 1) for name in names}
    if node.get("type") == "array":
        return [shaped(draw, schema, node.get("items", {}), depth + 1) for _ in range(draw(st.integers(0, 2)))]
    return draw(st.sampled_from(node["enum"])) if "enum" in node else draw(SCALARS)


SCHEMA = config_schema()


@st.composite
def shapes(draw):
    schema = SCHEMA
    return shaped(draw, schema, schema)


def read(text):
    def no_file(name):
        from ext_authz.config.variables import UnsetError

        raise UnsetError(f"cannot read `{name}`")

    return parse(text, "ext-authz.yaml", environment({"SECRET": SECRET}, no_file))


def holds(text):
    loaded = read(text)
    assert loaded.mistakes or loaded.settings is not None
    assert loaded.mistakes or loaded.names_policies
    lines = text.splitlines() or [""]
    for each in loaded.mistakes:
        assert each.message
        assert SECRET not in each.message, each
        assert each.mark is None or 1 <= each.mark.line <= len(lines) + 1
    return loaded


@given(st.text(max_size=200))
def test_any_text_loads_or_says_what_is_wrong(text):
    holds(text)


@given(st.binary(max_size=100))
def test_any_bytes_are_text_or_a_placed_mistake(data):
    from ext_authz.config.load import decode

    with contextlib.suppress(DocumentError):
        decode(data, "x")


@settings(max_examples=100)
@given(FILES)
def test_any_tree_loads_or_says_what_is_wrong_and_keeps_secrets(tree):
    holds(yaml.safe_dump(tree))


@settings(max_examples=150)
@given(shapes())
def test_nearly_right_files_load_or_say_what_is_wrong_and_keep_secrets(tree):
    holds(yaml.safe_dump(tree))


GOOD = {
    "server": ["{drain: 5s}", "{workers: 2}", '{listen: ["unix:/${SECRET}/{worker}.sock"], socket_group: "${SECRET}"}'],
    "admin": ['{listen: "[::1]:9"}', '{token_file: "${SECRET}"}'],
    "run_dir": ["state", "/var/${SECRET}"],
    "identity": [
        "{unsafe_anonymous: true}",
        '{mtls: {trust_domains: [ml.example]}, role_bindings: [{role: r, members: ["sub:a", "spiffe://ml.example/*"]}]}',
        '{jwt: [{issuer: "https://${SECRET}", audiences: ["0123", no], jwks_file: a.json}]}',
    ],
    "resources": ["{files: [a.yaml]}", "{routes: [], catalog: []}"],
    "response": ["{headers: {x-a: '${subject.id}-${SECRET}'}}", "{remove: [x-b], forward_credentials: true}"],
    "audit": ["{sinks: [{type: stdout}]}", "{sinks: []}"],
    "state": ["{max_age: 7s}", "{backend: sqlite}"],
}
CHOICES = st.fixed_dictionaries({}, optional={name: st.sampled_from(texts) for name, texts in GOOD.items()})


@settings(max_examples=100)
@given(CHOICES)
def test_what_loads_loads_again_from_what_was_recorded(sections):
    from ext_authz.config.variables import recorded

    text = "".join(f"{name}: {value}\n" for name, value in sections.items()) + "policies: {files: [a]}\n"
    loaded = read(text)
    assert loaded.mistakes == ()
    again = parse(text, "ext-authz.yaml", recorded(loaded.values))
    assert (again.settings, again.mistakes) == (loaded.settings, ())


@settings(max_examples=100)
@given(shapes(), st.sampled_from(KEYS), st.text(alphabet="abcxyz", min_size=1, max_size=3))
def test_no_misspelt_key_is_ever_ignored(tree, key, noise):
    if not isinstance(tree, dict) or key + noise in Settings.model_fields:
        return
    tree = {**tree, key + noise: "x"}
    loaded = read(yaml.safe_dump(tree))
    assert any(re.search(f"unknown key `{key}{noise}`", each.message) for each in loaded.mistakes)


CASES = st.lists(
    st.dictionaries(
        st.sampled_from(CASE_KEYS),
        SCALARS
        | st.sampled_from(["2026-11-23T10:00:00Z", "allow"])
        | st.dictionaries(
            st.sampled_from([*SUBJECT_KEYS, *CONTEXT_KEYS, *EXPECT_KEYS, "type", "id"]), VALUES, max_size=4
        ),
        max_size=8,
    ),
    max_size=3,
)


@settings(max_examples=100)
@given(CASES)
def test_any_test_file_gives_cases_or_placed_mistakes(cases):
    text = yaml.safe_dump({"tests": cases}, allow_unicode=True)
    mistakes = ()
    try:
        load_cases({"x_test.yaml": text})
    except DocumentError as error:
        mistakes = error.diagnostics or (None,)
    assert all(each.mark is not None for each in mistakes)
