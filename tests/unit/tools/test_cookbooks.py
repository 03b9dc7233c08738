"""Every policy of the cookbooks does what its cases say, and the Rego beside it what the same cases say."""

import json
import os
import shutil
import subprocess
from datetime import datetime

import pytest
import yaml
from command_line import ran
from cookbooks import recipes
from projects import project

from ext_authz.tools.case_reader import load_cases

OPA = os.environ.get("EXT_AUTHZ_OPA") or shutil.which("opa")
AT = "2026-11-23T10:00:00Z"


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
    """Name, input and expected decision of every case."""
    for data in recipe.cases():
        yield data.pop("name"), typed(data), data.pop("expect")["decision"]


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
