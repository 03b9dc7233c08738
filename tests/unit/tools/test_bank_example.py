"""The larger example: loads without a warning, does what its tests say, all of it covered, and stays out of the demo."""

import json
from pathlib import Path

import jsonschema
import orjson
import pytest
import yaml
from command_line import ran

from ext_authz.tools import schemas

ROOT = Path(__file__).parents[3]
BANK = ROOT / "policies" / "examples" / "bank"
CONFIG = BANK / "ext-authz.yaml"


def plain(path):
    return json.loads(json.dumps(yaml.safe_load(path.read_text()), default=lambda each: each.isoformat() + "Z"))


def test_it_is_checked_without_a_warning(capfd):
    done = ran(capfd, "check", "--strict", "-c", CONFIG)
    assert (done.status, done.err) == (0, "")


def test_its_tests_pass_and_cover_every_policy_and_condition_both_ways(capfd):
    done = ran(capfd, "test", "-q", "-c", CONFIG, "--min-coverage", "100", "--min-condition-coverage", "100")
    assert (done.status, done.err) == (0, ""), done.out
    assert int(done.out.split()[0]) >= 60


@pytest.mark.parametrize("path", sorted(BANK.glob("policies/*.yaml")), ids=lambda path: path.name)
def test_its_files_are_valid_in_an_editor(path):
    schema = schemas.cases_schema() if path.name.endswith("_test.yaml") else schemas.policy_schema()
    jsonschema.Draft202012Validator(schema).validate(plain(path))


def test_its_configuration_is_valid_in_an_editor():
    jsonschema.Draft202012Validator(schemas.config_schema()).validate(plain(CONFIG))


def test_who_may_read_personal_data_is_who_the_readme_says(capfd):
    asked = ("--action", "read_data", "--resource", "dataset/customers", "--format", "json")
    rows = orjson.loads(ran(capfd, "access", "-c", CONFIG, *asked).out)["allowed"]
    assert [row["policy"] for row in rows] == ["personal_data_with_a_reason"]
    assert any("no_vendors_on_personal_data" in each for each in rows[0]["unless"])


def test_the_demo_does_not_see_it():
    assert not [path for path in (ROOT / "policies").glob("*.yaml") if "bank" in path.read_text()]
