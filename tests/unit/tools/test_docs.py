"""What is built is documented, and what is documented is built."""

import re
import shutil
from pathlib import Path

import config_docs
import credentials as made
import pytest
import typer

from ext_authz import wiring
from ext_authz.cli.app import app
from ext_authz.config import Settings
from ext_authz.model import Reason
from ext_authz.tools.case_reader import load_cases
from ext_authz.tools.lint import examine

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


def commands(command, path=()):
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name)) if hasattr(child, "commands") else [(*path, name)]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_a_heading(reason):
    assert f"### `{reason.value}`\n" in (DOCS / "reasons.md").read_text()


def test_no_other_reason_is_documented():
    headings = re.findall(r"^### `(\w+)`$", (DOCS / "reasons.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(each.value for each in Reason)


def test_statuses_in_the_headings_are_the_real_ones():
    text = (DOCS / "reasons.md").read_text()
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        whole = re.match(r".*\((\d{3})\)$", section.splitlines()[0])
        for name, body in re.findall(r"^### `(\w+)`\n(.*)$", section, re.MULTILINE):
            own = re.match(r"(\d{3})\.", body)
            status = own or whole
            assert status is not None, name
            assert Reason(name).http_status == int(status[1])


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_every_command_is_documented(path):
    text = (DOCS / "cli.md").read_text()
    assert f"`ext-authz {' '.join(path)}" in text


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_every_option_is_documented_or_common(path):
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    text = (DOCS / "cli.md").read_text()
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--") and option not in ("--help", "--config"):
                assert option in text, f"{' '.join(path)} {option}"


def test_the_configuration_reference_is_written_from_the_settings():
    assert config_docs.FILE.read_text() == config_docs.written(), "run: python tests/support/config_docs.py"


def test_every_key_of_the_configuration_is_in_the_reference():
    text = config_docs.FILE.read_text()
    for name in Settings.model_fields:
        assert f"| `{name}` |" in text


@pytest.fixture
def example(tmp_path):
    """The example with the keys that it names, and nothing else changed."""
    folder = tmp_path / "docs" / "examples"
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    shutil.copy(DOCS / "examples" / "ext-authz.yaml", folder)
    files = {
        "admin.token": b"0123456789abcdef0123456789abcdef\n",
        "ca.pem": made.root().pem,
        "jwks.json": made.jwks(made.jwk(made.rsa_key(), kid="rsa-0")),
        "api-keys.yaml": b"",
        "assertion.pem": made.private_pem(made.ed_key(1)),
        "tokens.pem": made.private_pem(made.ed_key(2)),
    }
    for name, content in files.items():
        (folder / name).touch(0o600)
        (folder / name).write_bytes(content)
    return folder / "ext-authz.yaml"


ENVIRONMENT = {"ENVOY_GROUP": "envoy", "OPAQUE_SECRET": "not-so-secret"}


def test_the_example_loads(example):
    inputs, snapshot = wiring.load(example, ENVIRONMENT)
    assert inputs.settings.server.socket_group == "envoy"
    assert [each.id for each in snapshot.policies.policies] == [
        "data_scientist_training",
        "production_model_deployment",
    ]


def test_the_example_is_not_warned_of_for_what_it_says_itself(example):
    findings = examine(example, ENVIRONMENT, made.NOW_NS)
    assert {each.code for each in findings.diagnostics if each.mark and each.mark.file == str(example)} == set()


def test_the_example_says_every_key_or_that_it_comes_later():
    text = (DOCS / "examples" / "ext-authz.yaml").read_text()
    for key in re.findall(r"^\| `([^`]+)` \|", config_docs.reference(), re.MULTILINE):
        name = key.rpartition(".")[2].removesuffix("[]")
        assert re.search(rf"\b{name}\b", text), key


def test_the_documented_policy_tests_load():
    text = (DOCS / "cli.md").read_text()
    block = text.partition("## Policy tests")[2].partition("```yaml\n")[2].partition("```")[0]
    assert [case.name for case in load_cases({"cli.md": block})] == [
        "a data scientist reads low-sensitivity data in office hours",
        "a whole request",
    ]
