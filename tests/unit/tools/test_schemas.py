"""The JSON Schemas accept what loads, and every key in them is read or refused."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from projects import LAKE, MINIMAL, SEED_POLICIES, project

from ext_authz.config import Settings
from ext_authz.config.load import read
from ext_authz.policy.condition_reader import CONDITION_KINDS
from ext_authz.policy.matching import SUBJECT_KEYS
from ext_authz.policy.schema import POLICY_KEYS
from ext_authz.tools import schemas

ROOT = Path(__file__).parents[3]


def holds(schema, text):
    jsonschema.Draft202012Validator(schema).validate(yaml.load(text, Loader=yaml.BaseLoader))


def fails(schema, text):
    return not jsonschema.Draft202012Validator(schema).is_valid(yaml.safe_load(text))


@pytest.mark.parametrize(
    "schema", [schemas.config_schema, schemas.policy_schema, schemas.cases_schema, schemas.audit_schema]
)
def test_each_is_a_schema_and_plain_json(schema):
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    assert json.loads(json.dumps(made)) == made


def test_every_example_configuration_is_valid():
    schema = jsonschema.Draft202012Validator(schemas.config_schema())
    examples = [*ROOT.glob("docs/examples/*.yaml"), *ROOT.glob("envoy/**/ext-authz*.yaml")]
    assert examples
    for each in [yaml.safe_load(path.read_text()) for path in examples] + [yaml.safe_load(LAKE + MINIMAL)]:
        schema.validate(each)


def test_every_example_policy_and_test_is_valid():
    policy = jsonschema.Draft202012Validator(schemas.policy_schema())
    cases = jsonschema.Draft202012Validator(schemas.cases_schema())
    policy.validate(yaml.safe_load(SEED_POLICIES))
    for path in (ROOT / "policies").glob("*.yaml"):
        plain = json.loads(json.dumps(yaml.safe_load(path.read_text()), default=lambda each: each.isoformat() + "Z"))
        (cases if path.name.endswith("_test.yaml") else policy).validate(plain)


@pytest.mark.parametrize(
    "text",
    [
        "policies: {files: []}",
        "polices: {files: [a]}",
        "policies: {files: [a]}\nserver: {drian: 5s}",
        "policies: {files: [a]}\nserver: {drain: [5]}",
        "policies: {files: [a]}\nmonitor: {enumeratoin: {}}",
        "policies: {files: [a]}\nserver: {transport: carrier-pigeon}",
    ],
)
def test_an_editor_sees_the_common_mistakes(text):
    assert fails(schemas.config_schema(), text)


def test_variables_may_stand_wherever_a_value_may():
    text = "policies: {files: [a]}\nserver: {workers: '${N}', drain: '${D}', report_errors: '${file:x}'}"
    assert not fails(schemas.config_schema(), text)


def test_the_policy_schema_has_the_languages_keys():
    made = schemas.policy_schema()["$defs"]
    assert set(made["policy"]["properties"]) == set(POLICY_KEYS)
    assert set(made["condition"]["properties"]) == set(CONDITION_KINDS)
    assert set(made["subject"]["properties"]) == {*SUBJECT_KEYS, "any", "approval"}


def leaves(model, path=()):
    """Every key of the configuration, with its field."""
    from ext_authz.config.mistakes import _models

    for name, field in model.model_fields.items():
        yield (*path, name), field
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in [model for each in kinds for model in _models(each)]:
            yield from leaves(kind, (*path, name))


KEYS = list(leaves(Settings))


ONE_VALUE = {("state", "backend"), ("state", "on_stale")}
"""Keys that say what this version always does and take no other value."""


@pytest.mark.parametrize("path", sorted(ONE_VALUE), ids=".".join)
def test_a_key_that_says_what_is_always_done_takes_no_other_value(tmp_path, path):
    loaded = read(project(tmp_path, json.dumps({**_nested(path), "policies": {"files": ["policies.yaml"]}})), {})
    assert [each.mark.line for each in loaded.mistakes] == [1]


# What a key is read by is a test that depends on it; these are the names under which code reads the values.
@pytest.mark.parametrize("path", sorted({path for path, _ in KEYS} - ONE_VALUE), ids=".".join)
def test_every_key_is_read_by_code(path):
    """A key that no code outside the settings models names would be accepted and ignored."""
    name = path[-1]
    sources = "\n".join(_sources())
    assert f".{name}" in sources or f'"{name}"' in sources, f"`{'.'.join(path)}` is accepted and nothing reads it"


def _sources():
    for path in (ROOT / "ext_authz").rglob("*.py"):
        if "_pb" not in path.parts and path.name not in ("schema.py", "settings.py"):
            yield path.read_text()
    # Policies and resources have readers called schema.py of their own.
    yield (ROOT / "ext_authz/policy/schema.py").read_text()
    # Makes parameters of what was written.
    yield (ROOT / "ext_authz/monitor/settings.py").read_text()


def _nested(path):
    lists = {"jwt", "sinks", "role_bindings"}
    made = "x"
    for step in reversed(path):
        made = {step: [made] if step in lists else made}
    return made


def test_every_key_has_a_description():
    missing = [".".join(path) for path, field in KEYS if not field.description]
    assert missing == [] or all(each.startswith("audit.") for each in missing), missing
