"""Every policy of the cookbooks does what its cases say, and the Rego beside it what the same cases say."""

import json
import os
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from command_line import ran
from projects import MINIMAL, project

from ext_authz.documents import load, to_plain
from ext_authz.policy.reader import Reader
from ext_authz.tools.case_reader import load_cases
from ext_authz.tools.case_tables import read_fixtures, spelled_out

DOCS = Path(__file__).parents[3] / "docs"
OPA = os.environ.get("EXT_AUTHZ_OPA") or shutil.which("opa")
AT = "2026-11-23T10:00:00Z"


class Recipe(NamedTuple):
    title: str
    blocks: tuple[tuple[str, str], ...]
    differs: frozenset[str]

    def yaml(self, key):
        """The text of the one YAML block that has `key` at its top; None where there is none."""
        found = [text for kind, text in self.blocks if kind == "yaml" and key in yaml.safe_load(text)]
        assert len(found) <= 1, key
        return found[0] if found else None

    def ours(self):
        """Policies and configuration; a configuration's `policies` names files."""
        texts = [text for kind, text in self.blocks if kind == "yaml"]
        (policies,) = [text for text in texts if isinstance(yaml.safe_load(text).get("policies"), list)]
        configs = [text for text in texts if isinstance(yaml.safe_load(text).get("policies"), dict)]
        return policies, configs[0] if configs else MINIMAL


def recipes(page):
    sections = re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE)[1:]
    return [
        Recipe(
            section.splitlines()[0],
            tuple(re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)),
            frozenset(re.findall(r"^<!-- differs: (.*) -->$", section, re.MULTILINE)),
        )
        for section in sections
    ]


ALL = [(page, recipe) for page in ("cookbook-opa.md", "cookbook-istio.md") for recipe in recipes(page)]
REGO = [recipe for page, recipe in ALL if page == "cookbook-opa.md"]


@pytest.mark.parametrize(("page", "recipe"), ALL, ids=[f"{page}-{recipe.title}" for page, recipe in ALL])
def test_the_policy_does_what_its_cases_say(page, recipe, tmp_path, capfd, monkeypatch):
    policies, config = recipe.ours()
    project(tmp_path, config, {"policies.yaml": policies, "policies_test.yaml": recipe.yaml("tests")})
    monkeypatch.chdir(tmp_path)
    done = ran(capfd, "test", "policies_test.yaml")
    assert done.status == 0, done.out + done.err


@pytest.mark.parametrize(("page", "recipe"), ALL, ids=[f"{page}-{recipe.title}" for page, recipe in ALL])
def test_a_recipe_shows_an_allow_and_where_it_can_a_denial(page, recipe):
    decisions = {case.expect.decision for case in load_cases({"t.yaml": recipe.yaml("tests")})}
    assert "allow" in decisions
    assert "deny" in decisions or "shadow" in recipe.yaml("tests")


@pytest.mark.parametrize(
    "recipe", [each for page, each in ALL if page == "cookbook-istio.md"], ids=lambda each: each.title
)
def test_what_stands_beside_is_an_authorization_policy(recipe):
    theirs = yaml.safe_load(recipe.yaml("apiVersion"))
    assert theirs["kind"] == "AuthorizationPolicy"
    assert theirs["spec"]["action"] in ("ALLOW", "DENY")


def inputs(recipe):
    """Name, input and expected decision of every case, tables spelled out by the very code that runs them here."""
    root = load(recipe.yaml("tests"), "t.yaml")
    reader = Reader()
    fixtures = read_fixtures(reader, root)
    for test in root.get("tests"):
        for case in spelled_out(reader, test, fixtures):
            data = to_plain(case)
            yield data.pop("name"), typed(data), data.pop("expect")["decision"]
    assert not reader.mistakes


def typed(data):
    asked = {key: value for key, value in data.items() if key in ("subject", "resource", "action", "attributes")}
    if "attributes" in asked:
        asked["attributes"] = {key: int(value) for key, value in asked["attributes"].items()}
    subject = {"roles": [], **asked["subject"]}
    subject["mfa"] = subject.get("mfa") == "true"
    at = data.get("at", AT)
    assert datetime.fromisoformat(at).tzinfo is not None
    return {**asked, "subject": subject, "context": {**data.get("context", {}), "time": at}}


@pytest.mark.skipif(OPA is None, reason="the program `opa` is not installed (EXT_AUTHZ_OPA names another place)")
@pytest.mark.parametrize("recipe", REGO, ids=lambda each: each.title)
def test_the_rego_does_what_the_same_cases_say(recipe, tmp_path):
    (rego,) = [text for kind, text in recipe.blocks if kind == "rego"]
    cases = list(inputs(recipe))
    (tmp_path / "recipe.rego").write_text(rego)
    query = "[result | some asked in input; result := data.recipe.allow with input as asked]"
    command = [
        str(OPA),
        "eval",
        "--format",
        "raw",
        "--strict",
        "--data",
        str(tmp_path / "recipe.rego"),
        "--stdin-input",
        query,
    ]
    done = subprocess.run(
        command,
        input=json.dumps([asked for _, asked, _ in cases]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for (name, _, decision), allowed in zip(cases, json.loads(done.stdout), strict=True):
        assert allowed == ((decision == "allow") is not (name in recipe.differs)), name
    assert recipe.differs <= {name for name, _, _ in cases}
