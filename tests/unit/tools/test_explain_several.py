"""What would have to change for a request that needs several grants: for all of them, or nothing is promised."""

import os

import pytest
from policy_support import ask, compiled, subject
from projects import project
from wire_requests import check_request

from ext_authz import wiring
from ext_authz.policy import explain as module
from ext_authz.state import EMPTY_STATE
from ext_authz.tools.explain import explain_request

NOW = 1_795_000_000_000_000_000
CONFIG = """\
identity:
  mtls: {trust_domains: [ml.example]}
resources: {routes: [{host: models.internal, protocol: open-inference}]}
policies: {files: [policies.yaml]}
"""
DEPLOYERS = """\
  - id: deploying
    subjects: [{role: deployer}]
    resources: [{type: model}]
    actions: [deploy_model]
    conditions: [{mfa_required: true}]
"""
REGISTRARS = """\
  - {id: registering, subjects: [{role: registrar}], resources: [{type: model}], actions: [register_model]}
"""
ANYBODY = "  - {id: anybody, subjects: [{any: true}], resources: [{type: model}], actions: [register_model]}\n"
NO_DEPLOYERS = """\
  - {id: apart, effect: deny, subjects: [{role: deployer}], resources: [{type: model}], actions: [register_model]}
"""


@pytest.mark.parametrize(
    ("policies", "wanted"),
    [
        (DEPLOYERS, []),
        (DEPLOYERS + ANYBODY, ["with role deployer and with MFA"]),
        (DEPLOYERS + REGISTRARS, ["with role deployer and with MFA and with role registrar"]),
        (
            DEPLOYERS + REGISTRARS + NO_DEPLOYERS,
            ["with role deployer and with MFA and with role registrar and without the deny policy apart"],
        ),
    ],
)
def test_a_load_that_registers_too_needs_both_grants(tmp_path, policies, wanted):
    load = check_request(
        "POST",
        "/v2/repository/models/fraud/load",
        host="models.internal",
        principal="spiffe://ml.example/ns/a/sa/b",
        body=b'{"parameters": {"config": "{}"}}',
    )
    _, snapshot = wiring.load(project(tmp_path, CONFIG, {"policies.yaml": "policies:\n" + policies}), os.environ)
    explained = explain_request(load, snapshot, EMPTY_STATE, NOW)
    assert explained["decision"] == "deny"
    assert len(explained["accesses"]) == 2
    assert explained["would_allow_if"] == wanted


def test_a_request_for_hundreds_of_things_with_many_ways_each_is_explained_in_bounded_work(monkeypatch):
    names = range(300)
    policies = compiled(
        "policies:\n"
        + "".join(
            f"  - {{id: p{n}-{way}, subjects: [{{role: r{n}-{way}}}], resources: [{{type: model, id: m{n}}}], actions: [infer]}}\n"
            for n in names
            for way in range(3)
        )
    )
    looked = []
    really = module._remedies
    monkeypatch.setattr(module, "_remedies", lambda *given: looked.append(1) or really(*given))
    alice = subject(roles=["nobody"])
    queries = [ask(alice, "model", f"m{n}", "infer") for n in names]
    assert module.would_allow(policies, queries) == ()
    assert len(looked) <= module.MAX_TRIED
    assert len(module.would_allow(policies, queries[:2])) == 9


def test_one_remedy_for_all_of_them_is_found_however_many_they_are():
    policies = compiled(
        "policies: [{id: p, subjects: [{role: r}], resources: [{type: model}], actions: [infer], conditions: [{mfa_required: true}]}]"
    )
    alice = subject(roles=[], mfa=False)
    queries = [ask(alice, "model", f"m{n}", "infer") for n in range(1000)]
    assert module.would_allow(policies, queries) == ("with role r and with MFA",)
