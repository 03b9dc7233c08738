"""The recipes of the cookbook pages: their blocks, and their cases as plain data."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from projects import MINIMAL

from ext_authz.documents import load, to_plain
from ext_authz.policy.reader import Reader
from ext_authz.tools.case_tables import read_fixtures, spelled_out

DOCS = Path(__file__).parents[2] / "docs"


class Recipe(NamedTuple):
    """`differs` names the cases in which the other side answers otherwise, as the page says."""

    title: str
    blocks: tuple[tuple[str, str], ...]
    differs: frozenset[str]

    def yaml(self, key: str) -> str | None:
        """The text of the one YAML block that has `key` at its top; None where there is none."""
        found = [text for kind, text in self.blocks if kind == "yaml" and key in yaml.safe_load(text)]
        assert len(found) <= 1, key
        return found[0] if found else None

    def ours(self) -> tuple[str, str]:
        """Policies and configuration; a configuration's `policies` names files."""
        texts = [text for kind, text in self.blocks if kind == "yaml"]
        (policies,) = [text for text in texts if isinstance(yaml.safe_load(text).get("policies"), list)]
        configs = [text for text in texts if isinstance(yaml.safe_load(text).get("policies"), dict)]
        return policies, configs[0] if configs else MINIMAL

    def cases(self) -> Iterator[dict[str, Any]]:
        """Every case, tables spelled out by the very code that runs them here."""
        root = load(self.yaml("tests"), "t.yaml")
        reader = Reader()
        fixtures = read_fixtures(reader, root)
        for test in root.get("tests"):
            yield from map(to_plain, spelled_out(reader, test, fixtures))
        assert not reader.mistakes


def recipes(page: str) -> list[Recipe]:
    sections = re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE)[1:]
    return [
        Recipe(
            section.splitlines()[0],
            tuple(re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)),
            frozenset(re.findall(r"^<!-- differs: (.*) -->$", section, re.MULTILINE)),
        )
        for section in sections
    ]
