"""Every rule is on the page, and every rule on the page exists."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def test_the_page_lists_every_rule():
    sources = "".join(path.read_text() for path in (ROOT / "ext_authz" / "envoy_config").glob("*.py"))
    coded = set(re.findall(r'"(EA[0-9]{3})"', sources))
    listed = set(re.findall(r"^\| (EA[0-9]{3}) \|", (ROOT / "docs" / "envoy.md").read_text(), re.MULTILINE))
    assert coded == listed


def test_the_mesh_example_is_yaml_of_the_kinds_it_says():
    documents = list(yaml.safe_load_all((ROOT / "envoy" / "istio.yaml").read_text()))
    assert [each["kind"] for each in documents] == ["ServiceEntry", "PeerAuthentication", "AuthorizationPolicy"]
