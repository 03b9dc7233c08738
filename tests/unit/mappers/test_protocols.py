"""What holds for every protocol's table."""

import re

import pytest
from mapping_support import ask, facts, table

from ext_authz.mappers.adapter import GRPC, HostStyle, Reads
from ext_authz.mappers.protocols import ADAPTERS, PROTOCOLS
from ext_authz.model import ACTIONS, Reason, Refusal, Target
from ext_authz.response import ERROR_SHAPES

ROUTES = table(
    "routes:\n"
    + "".join(
        f"  - {{name: {a.name}, host: '{'*.' if a.host_style is HostStyle.WILD else ''}{a.name}', protocol: {a.name}}}\n"
        for a in ADAPTERS
    )
)
ROWS = [pytest.param(a, row, id=f"{a.name} {row.method} {row.template}") for a in ADAPTERS for row in a.rows]


def request(adapter, row):
    path = re.sub(r"\{(\w+)(\*\*)?\}", r"\1-x", row.template)
    return facts(
        "POST" if row.method == GRPC else row.method.replace("*", "GET"),
        path,
        f"x.{adapter.name}" if adapter.host_style is HostStyle.WILD else adapter.name,
        headers={"content-type": "application/grpc"} if row.method == GRPC else None,
    )


@pytest.mark.parametrize(("adapter", "row"), ROWS)
def test_every_row_is_found_by_its_own_template(adapter, row):
    asked = request(adapter, row)
    found = adapter.find(asked, asked.path[1:].split("/"))
    assert found is not None
    assert found.row is row
    assert all(value == f"{name}-x" for name, value in found.captured.items())


@pytest.mark.parametrize(("adapter", "row"), ROWS)
def test_a_row_yields_only_what_its_table_says_and_needs_a_body_only_where_it_says_so(adapter, row):
    asked = ask(ROUTES, request(adapter, row))
    if isinstance(asked, Refusal):
        assert asked.reason is Reason.AMBIGUOUS_BODY
        assert row.place.reads is Reads.MEANING or re.search("query|header", row.place.where)
        return
    assert isinstance(asked, Target)
    assert asked.accesses
    assert {(a.resource.type, a.action) for a in asked.accesses} <= {(row.type, row.action), *row.also}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_a_protocol_speaks_the_contracts_words(adapter):
    assert {action for _, action in adapter.yields} <= ACTIONS
    assert adapter.error_shape in ERROR_SHAPES


def test_names_are_unique():
    assert len(PROTOCOLS) == len(ADAPTERS)
