"""What envoy/listings.lua knows of paths, held to the protocols' tables."""

import re
from pathlib import Path

import pytest

from ext_authz.mappers.protocols import ADAPTERS

LUA = (Path(__file__).parents[3] / "envoy/listings.lua").read_text()
PATHS = set(re.findall(r"(\w+) = true", re.search(r"local PATHS = \{(.*?)\n\}", LUA, re.DOTALL).group(1)))


def templates(adapter, row):
    yield row.template
    for beginning, others in adapter.aliases.items():
        if row.template.startswith(beginning):
            yield from (other + row.template.removeprefix(beginning) for other in others)


# TorchServe's answer is JSON in a message: held back.
HELD_BACK = "/org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels"
LISTED = sorted(
    {(a.name, each) for a in ADAPTERS for row in a.rows if row.lists for each in templates(a, row)}
    - {("torchserve", HELD_BACK)}
)


@pytest.mark.parametrize(("protocol", "template"), LISTED)
def test_the_filter_has_every_listing_answered_plainly(protocol, template):
    assert re.search(r"([^/]*)/?$", template).group(1) in PATHS


def test_there_are_listings():
    assert len(LISTED) > 30
