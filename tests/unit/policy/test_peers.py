"""What the public test suites of comparable engines ask of a decision, in our words: named by suite and case.

Where we mean something else on purpose the case says so.
"""

from typing import NamedTuple

import pytest
from policy_support import ask, compiled, subject

from ext_authz.model import Auth, ShadowMatch

ANY = 'resources: [{type: "*"}], actions: ["*"]'
LEAVE = """
policies:
  - id: owner_views
    subjects: [{role: employee}]
    resources: [{type: leave_request}]
    actions: [view, delete]
    conditions: [{cel: resource.owner == subject.name}]
  - id: manager_approves
    subjects: [{role: manager}]
    resources: [{type: leave_request, status: PENDING_APPROVAL}]
    actions: [approve]
    conditions: [{cel: subject.claims.managed_geographies == resource.geography}, {cel: resource.owner != subject.name}]
  - id: not_donald
    effect: deny
    subjects: [{id: donald}]
    resources: [{type: salary_record, dev_record: "true"}]
  - id: employees_see_salaries
    subjects: [{role: employee}]
    resources: [{type: salary_record}]
    actions: ["view*"]
  - {id: open_books, subjects: [{any: true}], resources: [{type: handbook}], actions: [view]}
"""
RBAC = """
policies:
  - {id: readers, subjects: [{role: reader}], resources: [{type: page}], actions: [read], headers: {x-reader: "yes"}, ttl: 5m}
  - {id: writers, subjects: [{role: writer}], resources: [{type: page}], actions: [read, write]}
"""


class Peer(NamedTuple):
    """One case: the peer's name for it, the policies, the question, the reason of the answer, who names it."""

    name: str
    text: str
    query: object
    reason: str
    policy: str | None = None


def leave(who, kind="leave_request", action="view", *, claims=None, roles=("employee",), **attributes):
    return ask(subject(f"sub:{who}", roles=roles, claims=claims or {}), kind, "XX125", action, attributes=attributes)


def mesh(name, action="infer", **rest):
    return ask(subject(name, Auth.MTLS, workload=name), action=action, **rest)


GB = {"managed_geographies": "GB"}
PENDING = {"owner": "john", "geography": "GB", "status": "PENDING_APPROVAL"}
HTTPBIN = "spiffe://td1/ns/foo/sa/httpbin"
DENY_AND_ALLOW = f"""
policies:
  - {{id: httpbin-deny, effect: deny, subjects: [{{id: "spiffe://td1/ns/a/sa/deny"}}]}}
  - {{id: httpbin-allow, subjects: [{{id: ["spiffe://td1/ns/a/sa/allow", "spiffe://td1/ns/a/sa/deny"]}}], {ANY}}}
"""
WILDCARDS = f"""
policies:
  - {{id: exact, subjects: [{{id: "{HTTPBIN}"}}], {ANY}}}
  - {{id: prefix, subjects: [{{id: "spiffe://td1/ns/bar/*"}}], {ANY}}}
  - {{id: presence, subjects: [{{auth: mtls}}], resources: [{{type: probe}}], actions: ["*"]}}
"""
MULTIPLE = """
policies:
  - {id: methods, subjects: [{any: true}], resources: [{type: "*"}], actions: [read_data, infer]}
  - {id: paths, subjects: [{any: true}], resources: [{type: "*", id: [v1, v2]}], actions: ["*"]}
  - {id: principals, subjects: [{id: "spiffe://td1/ns/a/sa/one"}], resources: [{type: "*"}], actions: ["*"]}
  - id: blocks
    subjects: [{any: true}]
    resources: [{type: "*"}]
    actions: ["*"]
    conditions: [{ip_range: [1.2.3.4, 5.6.7.0/24]}]
"""
BLOCKS = f"""
policies:
  - {{id: in, subjects: [{{any: true}}], {ANY}, conditions: [{{ip_range: 5.6.0.0/16}}]}}
  - {{id: not, effect: deny, conditions: [{{ip_range: [9.0.0.1, 9.2.0.0/16]}}]}}
"""
NESTED = f"policies: [{{id: p, subjects: [{{claim: {{nested1.nested2: [nested, 'nested-prefix-*']}}}}], {ANY}}}]"


def claimed(value):
    return ask(subject(claims={"nested1": {"nested2": value}}))


CASES = [
    # github.com/cerbos/cerbos internal/test/testdata/engine
    Peer(
        "cerbos engine case_01: one sees one's own request",
        LEAVE,
        leave("john", owner="john"),
        "allowed",
        "owner_views",
    ),
    Peer(
        "cerbos engine case_01: and cannot approve it", LEAVE, leave("john", action="approve", **PENDING), "no_policy"
    ),
    Peer(
        "cerbos engine case_01, further: not as a manager either",
        LEAVE,
        leave("john", action="approve", roles=("employee", "manager"), claims=GB, **PENDING),
        "conditions_not_met",
        "manager_approves",
    ),
    Peer(
        "cerbos engine case_02: the manager approves what is pending",
        LEAVE,
        leave("sally", action="approve", roles=("manager",), claims=GB, **PENDING),
        "allowed",
        "manager_approves",
    ),
    Peer(
        "cerbos engine case_02: but no draft",
        LEAVE,
        leave("sally", action="approve", roles=("manager",), claims=GB, **{**PENDING, "status": "DRAFT"}),
        "no_policy",
    ),
    Peer(
        "cerbos engine: nor in another geography",
        LEAVE,
        leave("betty", action="approve", roles=("manager",), claims={"managed_geographies": "FR"}, **PENDING),
        "conditions_not_met",
        "manager_approves",
    ),
    Peer(
        "cerbos engine case_05: a denial of one person beats the role's grant",
        LEAVE,
        leave("donald", "salary_record", "view:public", dev_record=True),
        "denied_by_policy",
        "not_donald",
    ),
    Peer(
        "cerbos engine case_05: others have it",
        LEAVE,
        leave("daisy", "salary_record", "view:public", dev_record=True),
        "allowed",
        "employees_see_salaries",
    ),
    Peer(
        "cerbos engine case_05, otherwise here: a denial whose attribute is missing holds, there it is skipped",
        LEAVE,
        leave("donald", "salary_record", "view:public"),
        "denied_by_policy",
        "not_donald",
    ),
    Peer(
        "cerbos engine case_14: any role, and a key that is missing elsewhere spoils nothing",
        LEAVE,
        leave("john", "handbook", roles=("whatever",)),
        "allowed",
        "open_books",
    ),
    Peer("cerbos engine: a missing owner is not one's own", LEAVE, leave("john"), "conditions_not_met", "owner_views"),
    Peer("cerbos engine: a kind that no policy names", LEAVE, leave("john", "payslip"), "no_policy"),
    Peer("cerbos engine: no role at all", LEAVE, leave("john", roles=(), owner="john"), "no_policy"),
    # github.com/istio/istio pilot/pkg/security/authz/builder/testdata/http
    Peer(
        "istio allow-nil-rule: an ALLOW without rules allows nothing",
        "policies: [{id: d, effect: deny, actions: [x]}]",
        ask(),
        "no_policy",
    ),
    Peer(
        "istio allow-empty-rule: everything",
        f"policies: [{{id: all, subjects: [{{any: true}}], {ANY}}}]",
        ask(),
        "allowed",
        "all",
    ),
    Peer(
        "istio deny-empty-rule: nothing, whatever is allowed",
        f"policies: [{{id: all, subjects: [{{any: true}}], {ANY}}}, {{id: none, effect: deny}}]",
        ask(),
        "denied_by_policy",
        "none",
    ),
    Peer(
        "istio deny-and-allow: the allowed",
        DENY_AND_ALLOW,
        mesh("spiffe://td1/ns/a/sa/allow"),
        "allowed",
        "httpbin-allow",
    ),
    Peer(
        "istio deny-and-allow: denied first",
        DENY_AND_ALLOW,
        mesh("spiffe://td1/ns/a/sa/deny"),
        "denied_by_policy",
        "httpbin-deny",
    ),
    Peer("istio deny-and-allow: a third", DENY_AND_ALLOW, mesh("spiffe://td1/ns/a/sa/other"), "no_policy"),
    Peer("istio simple-policy-principal-with-wildcard: exact", WILDCARDS, mesh(HTTPBIN), "allowed", "exact"),
    Peer(
        "istio simple-policy-principal-with-wildcard: a prefix",
        WILDCARDS,
        mesh("spiffe://td1/ns/bar/sa/x"),
        "allowed",
        "prefix",
    ),
    Peer(
        "istio simple-policy-principal-with-wildcard: none", WILDCARDS, mesh("spiffe://td1/ns/barr/sa/x"), "no_policy"
    ),
    Peer(
        "istio simple-policy-principal-with-wildcard: presence",
        WILDCARDS,
        mesh("spiffe://td9/x", kind="probe"),
        "allowed",
        "presence",
    ),
    Peer("istio simple-policy-principal-with-wildcard: a token is no peer", WILDCARDS, ask(kind="probe"), "no_policy"),
    Peer(
        "istio trust-domains, otherwise here: an id names its trust domain",
        WILDCARDS,
        mesh("spiffe://td2/ns/foo/sa/httpbin"),
        "no_policy",
    ),
    Peer(
        "istio multiple-policies: one that matches is enough",
        MULTIPLE,
        ask(name="v2", action="admin", ip="9.9.9.9"),
        "allowed",
        "paths",
    ),
    Peer(
        "istio multiple-policies: by address",
        MULTIPLE,
        ask(name="x", action="admin", ip="5.6.7.8"),
        "allowed",
        "blocks",
    ),
    Peer(
        "istio multiple-policies: none",
        MULTIPLE,
        ask(name="x", action="admin", ip="5.6.8.8"),
        "conditions_not_met",
        "blocks",
    ),
    Peer("istio allow-full-rule ipBlocks", BLOCKS, ask(ip="5.6.200.1"), "allowed", "in"),
    Peer("istio allow-full-rule notIpBlocks", BLOCKS, ask(ip="9.2.3.4"), "denied_by_policy", "not"),
    Peer(
        "istio allow-full-rule request.auth.claims[nested1][nested2]: a text", NESTED, claimed("nested"), "allowed", "p"
    ),
    Peer(
        "istio allow-full-rule request.auth.claims[nested1][nested2]: an item",
        NESTED,
        claimed(["a", "nested-prefix-b"]),
        "allowed",
        "p",
    ),
    Peer("istio allow-full-rule request.auth.claims[nested1][nested2]: another", NESTED, claimed("nest"), "no_policy"),
    Peer(
        "istio allow-full-rule request.auth.claims[nested1][nested2]: a mapping",
        NESTED,
        claimed({"nested": 1}),
        "no_policy",
    ),
    # github.com/open-policy-agent/opa-envoy-plugin internal/internal_test.go
    Peer("opa-envoy TestCheckAllow", RBAC, ask(subject(roles=["reader"]), "page", action="read"), "allowed", "readers"),
    Peer("opa-envoy TestCheckDeny", RBAC, ask(subject(roles=["reader"]), "page", action="write"), "no_policy"),
    Peer(
        "opa-envoy TestCheckDeny: a role nobody wrote a rule for",
        RBAC,
        ask(subject(roles=["guest"]), "page", action="read"),
        "no_policy",
    ),
    Peer(
        "opa-envoy TestCheckAllow, otherwise here: two rules that both answer are no conflict, the first one names it",
        RBAC,
        ask(subject(roles=["reader", "writer"]), "page", action="read"),
        "allowed",
        "readers",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_of_a_peers_suite(case):
    verdict = compiled(case.text).decide(case.query)
    assert verdict.reason == case.reason
    assert (verdict.policy.id if verdict.policy else None) == case.policy


def test_opa_envoy_test_check_allow_object_decision_headers_come_from_the_rule_that_allows():
    policies = compiled(RBAC)
    both = policies.decide(ask(subject(roles=["reader", "writer"]), "page", action="read"))
    assert [name for name, _ in both.policy.headers] == ["x-reader"]
    assert both.policies == ("readers", "writers")
    writer = policies.decide(ask(subject(roles=["writer"]), "page", action="read"))
    assert writer.policy.headers == ()
    assert policies.injectable == {"x-reader"}, "so that a caller cannot send what another rule would have set"


def test_istio_dry_run_allow_and_deny_and_opa_envoy_dry_run_are_recorded_and_change_nothing():
    verdict = compiled(
        f"""
policies:
  - {{id: would-allow, mode: shadow, subjects: [{{any: true}}], {ANY}}}
  - {{id: would-deny, effect: deny, mode: shadow}}
  - {{id: infers, subjects: [{{any: true}}], resources: [{{type: "*"}}], actions: [infer]}}
"""
    )
    allowed, denied = verdict.decide(ask(action="infer")), verdict.decide(ask(action="admin"))
    shadow = (ShadowMatch("would-allow", "allow"), ShadowMatch("would-deny", "deny"))
    assert (allowed.reason, allowed.shadow) == ("allowed", shadow)
    assert (denied.reason, denied.shadow) == ("no_policy", shadow)


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("resource.tags.exists(t, t == 'gold')", None),
        ("'a' in subject.roles && !('z' in subject.roles)", True),
        ("subject.roles.all(r, r in ['a', 'b', 'c'])", True),
        ("size(subject.roles) == 2", True),
        ("subject.roles.exists_one(r, r.startsWith('a'))", True),
        ("context.time > timestamp('2026-01-01T00:00:00Z')", True),
        ("context.time - timestamp('2026-11-23T11:00:00Z') < duration('2h')", True),
        ("subject.id.matches('^sub:[a-z]+$')", True),
        ("has(resource.owner) ? resource.owner == 'x' : true", True),
        ("resource.owner == 'x' || true", True),
        ("resource.owner == 'x'", None),
        ("1 / (request.bytes) > 0", None),
    ],
)
def test_cerbos_conditions(expression, holds):
    """internal/conditions: lists, sets, times, presence; and an error is neither true nor false."""
    written = expression.replace('"', "'")
    text = f'policies: [{{id: p, subjects: [{{any: true}}], {ANY}, conditions: [{{cel: "{written}"}}]}}]'
    stop = f'policies: [{{id: all, subjects: [{{any: true}}], {ANY}}}, {{id: p, effect: deny, conditions: [{{cel: "{written}"}}]}}]'
    query = ask(subject(roles=["a", "b"]))
    assert (compiled(text).decide(query).reason == "allowed") is (holds is True)
    assert (compiled(stop).decide(query).reason == "denied_by_policy") is (holds is not False)
