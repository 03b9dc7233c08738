"""An issuer that is asked may name roles: neither lint nor who-can may say that nobody holds them."""

import pytest
from projects import MINIMAL, project

from ext_authz.config import load_inputs
from ext_authz.tools.access_facts import holders_of

ENTRY = "issuer: i, audiences: [a], url: 'https://i.example/x', client_id: c, client_secret: s"


@pytest.mark.parametrize(("claims", "expected"), [("", False), (", claims: {roles: roles}", True)])
def test_an_asked_issuer_that_grants_roles_counts_as_one(tmp_path, claims, expected):
    path = project(tmp_path, f"identity: {{introspection: [{{{ENTRY}{claims}}}]}}\n" + MINIMAL)
    assert holders_of(load_inputs(path, {})).tokens is expected
