"""Each warning where it belongs, and none where it does not."""

from dataclasses import replace

import policy_strategies as made
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from policy_support import load, ns

from ext_authz.model import Reason
from ext_authz.policy import overlap
from ext_authz.policy.document import PolicyDocument
from ext_authz.policy.lint import lint

NOW = ns("2026-11-23T12:00:00+00:00")
ANY = 'resources: [{type: "*"}], actions: ["*"]'
EVERYBODY = f"subjects: [{{any: true}}], {ANY}"


def warnings(text, *, roles=None, actions=None, resource_types=None, attributes=None):
    known = {"roles": roles, "actions": actions, "resource_types": resource_types, "attributes": attributes}
    found = lint(load(text), **known, now_ns=NOW)
    assert all(each.warning for each in found)
    return [(each.code, f"{each.mark.line}:{each.mark.column}" if each.mark else "", each.message) for each in found]


def codes(*policies, **known):
    return [code for code, _, _ in warnings("policies:\n" + "".join(f"- {{{each}}}\n" for each in policies), **known)]


def test_a_sound_policy_has_no_warning():
    assert codes(f"id: p, {EVERYBODY}") == []
    assert codes(f"id: p, {EVERYBODY}", roles=frozenset(), actions=frozenset(), resource_types=frozenset()) == []


def test_nothing_allowed():
    assert warnings("policies: [{id: d, effect: deny}]") == [
        ("nothing_allowed", "", "no policy allows anything: every request will be denied"),
    ]
    assert codes(f"id: p, mode: shadow, {EVERYBODY}") == ["nothing_allowed"]


def test_words_that_nothing_yields():
    text = (
        "policies:\n- id: p\n  subjects: [{any: true}, {role: [mlop, ds]}]\n"
        '  resources: [{type: modl}, {type: "mod*"}, {type: "zoo*"}]\n  actions: [infer, inferr, "read_*"]\n'
    )
    found = warnings(
        text,
        roles=frozenset({"mlops", "ds"}),
        actions=frozenset({"infer", "read_data"}),
        resource_types=frozenset({"model"}),
    )
    assert found == [
        ("unknown_role", "3:27", "nobody can hold role `mlop`, did you mean `mlops`?"),
        (
            "unknown_resource_type",
            "4:15",
            "no route or catalog entry yields resource type `modl`, did you mean `model`?",
        ),
        ("unknown_resource_type", "4:45", "no route or catalog entry yields resource type `zoo*`"),
        ("unknown_action", "5:20", "no route or adapter yields action `inferr`, did you mean `infer`?"),
    ]
    assert warnings(text) == []


def test_attributes_that_no_resource_has():
    text = (
        "policies:\n- id: a\n  subjects: [{any: true}]\n"
        "  resources: [{type: model, id: x, version: '2', stage: staging}, {type: model, stge: staging}]\n  actions: [infer]\n"
        "- {id: d, effect: deny, resources: [{owner: me}]}\n"
    )
    given_by = "no route or catalog entry gives it"
    assert warnings(text, attributes=frozenset({"stage"})) == [
        ("unknown_attribute", "4:67", f"unknown attribute `stge` matches nothing: {given_by}, did you mean `stage`?"),
        ("unknown_attribute", "6:37", f"unknown attribute `owner` matches every resource, for this denies: {given_by}"),
    ]
    assert warnings(text) == []


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("not_after: 2026-11-23T11:00:00Z", ("never_in_force", "policy `p` ended on 2026-11-23 11:00 UTC")),
        (
            "not_before: 2027-02-01T00:00:00Z, not_after: 2027-01-01T00:00:00Z",
            ("never_in_force", "policy `p` ends before it begins"),
        ),
        (
            "not_after: 2026-11-23T18:00:00Z",
            ("expires_soon", "policy `p` ends today, on 2026-11-23 18:00 UTC"),
        ),
        (
            "not_after: 2026-11-24T18:00:00Z",
            ("expires_soon", "policy `p` ends in 1 day, on 2026-11-24 18:00 UTC"),
        ),
        (
            "not_after: 2026-11-27T18:00:00Z",
            ("expires_soon", "policy `p` ends in 4 days, on 2026-11-27 18:00 UTC"),
        ),
        ("not_after: 2026-12-27T18:00:00Z", None),
    ],
)
def test_policies_that_end(window, expected):
    found = warnings(f"policies: [{{id: p, {EVERYBODY}, {window}}}]")
    assert [(code, message) for code, _, message in found] == ([expected] if expected else [])


def test_the_seeds_reading_of_an_approval_is_explained():
    text = f"policies: [{{id: p, subjects: [{{any: true}}, {{approval: sec}}], {ANY}}}]"
    assert warnings(text) == [
        (
            "approval_is_required",
            "1:44",
            "an approval among `subjects` is a condition: whoever matches another entry needs one by `sec` as well",
        )
    ]
    assert codes(f"id: p, {EVERYBODY}, conditions: [{{approval: sec}}]") == []


def test_business_hours_without_a_definition_and_windows_nobody_uses():
    assert codes(f"id: p, {EVERYBODY}, conditions: [{{time_window: business_hours}}]") == ["default_window"]
    defined = "time_windows: {business_hours: {from: '08:00', to: '16:00'}, late: {from: '20:00', to: '21:00'}}\n"
    text = defined + f"policies: [{{id: p, {EVERYBODY}, conditions: [{{time_window: business_hours}}]}}]"
    assert warnings(text) == [("unused_window", "1:62", "no policy uses time window `late`")]


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        ('{from: "09:00", to: "12:00"}', '{from: "13:00", to: "17:00"}', False),
        ('{from: "09:00", to: "13:01"}', '{from: "13:00", to: "17:00"}', True),
        ('{days: [sat], from: "22:00", to: "06:00"}', '{days: [sun], from: "05:00", to: "07:00"}', True),
        ('{days: [sat], from: "22:00", to: "06:00"}', '{days: [mon], from: "05:00", to: "07:00"}', False),
        ('{from: "00:00", to: "24:00"}', '{days: [mon], from: "05:00", to: "07:00"}', True),
        ('{from: "09:00", to: "10:00"}', '{from: "09:00", to: "10:00", timezone: Asia/Tokyo}', False),
    ],
)
def test_windows_that_are_never_open_together(first, second, meet):
    found = codes(f"id: p, {EVERYBODY}, conditions: [{{time_window: {first}}}, {{time_window: {second}}}]")
    assert found == ([] if meet else ["window_never_open"])


def test_addresses_that_are_in_no_two_ranges():
    both = 'id: p, {lists}, conditions: [{{ip_range: [10.0.0.0/8, "2001:db8::/32"]}}, {{ip_range: {second}}}]'
    assert codes(both.format(lists=EVERYBODY, second="192.0.2.0/24")) == ["no_such_address"]
    assert codes(both.format(lists=EVERYBODY, second="10.1.0.0/16")) == []


def test_a_deny_that_hits_those_who_did_it_right():
    allow = f"id: p, {EVERYBODY}, ttl: 1m, conditions: [{{ip_range: 10.0.0.0/8}}]"
    assert codes(allow, "id: d, effect: deny, conditions: [{mfa_required: true}]") == ["deny_condition"]
    assert codes(allow, "id: d, effect: deny, conditions: [{ip_range: 11.0.0.0/8}]") == []


ROLE = f"subjects: [{{role: ds}}], {ANY}"


@pytest.mark.parametrize(
    ("wide", "narrow", "code"),
    [
        (f"id: w, {EVERYBODY}", f"id: n, {ROLE}", "subsumed"),
        (f"id: w, {ROLE}, ttl: 5m", f"id: n, {EVERYBODY}", None),
        (f"id: w, subjects: [{{any: true}}], {ANY}", f"id: n, subjects: [{{auth: anonymous}}], {ANY}", None),
        (
            f"id: w, subjects: [{{auth: [anonymous, jwt]}}], {ANY}",
            f"id: n, subjects: [{{auth: anonymous}}], {ANY}",
            "subsumed",
        ),
        (f'id: w, subjects: [{{role: "d*"}}], {ANY}', f"id: n, subjects: [{{role: ds, org: a}}], {ANY}", "subsumed"),
        (f'id: w, subjects: [{{role: "d*"}}], {ANY}', f'id: n, subjects: [{{role: ["ds*", d]}}], {ANY}', "subsumed"),
        (f'id: w, subjects: [{{role: "ds*"}}], {ANY}, ttl: 5m', f'id: n, subjects: [{{role: "d*"}}], {ANY}', None),
        (f"id: w, {EVERYBODY}, conditions: [{{mfa_required: true}}]", f"id: n, {ROLE}", None),
        (
            f"id: w, {EVERYBODY}, conditions: [{{mfa_required: true}}]",
            f"id: n, {ROLE}, conditions: [{{ip_range: 10.0.0.0/8}}, {{mfa_required: true}}]",
            "subsumed",
        ),
        (
            f"id: w, {EVERYBODY}, conditions: [{{approval: a}}]",
            f"id: n, {ROLE}, conditions: [{{approval: a}}]",
            None,
        ),
        (f"id: w, {EVERYBODY}", f"id: n, {ROLE}, conditions: [{{audit_logged: true}}]", None),
        (f"id: w, {EVERYBODY}, conditions: [{{audit_logged: true}}]", f"id: n, {ROLE}", "subsumed"),
        (f"id: w, {EVERYBODY}, not_after: 2028-01-01T00:00:00Z", f"id: n, {ROLE}", None),
        (
            f"id: w, {EVERYBODY}, not_after: 2028-01-01T00:00:00Z",
            f"id: n, {ROLE}, not_after: 2027-01-01T00:00:00Z",
            "subsumed",
        ),
        (f"id: w, {EVERYBODY}, not_before: 2026-01-01T00:00:00Z", f"id: n, {ROLE}", None),
        (f"id: w, mode: shadow, {EVERYBODY}", f"id: n, {ROLE}", None),
        (
            'id: w, subjects: [{any: true}], resources: [{type: model}], actions: ["*"]',
            "id: n, subjects: [{any: true}], resources: [{type: model, stage: x}, {type: model, id: y}], actions: [infer]",
            "subsumed",
        ),
        (
            'id: w, subjects: [{any: true}], resources: [{type: model, stage: x}], actions: ["*"]',
            "id: n, subjects: [{any: true}], resources: [{type: model, stage: x}, {type: model, id: y}], actions: [infer]",
            None,
        ),
        ("id: w, effect: deny", f"id: n, {ROLE}", "shadowed_by_deny"),
        (
            "id: w, effect: deny, subjects: [{any: true}]",
            f"id: n, subjects: [{{auth: anonymous}}], {ANY}",
            "shadowed_by_deny",
        ),
        ("id: w, effect: deny, conditions: [{audit_logged: true}]", f"id: n, {ROLE}", "shadowed_by_deny"),
        (
            "id: w, effect: deny, conditions: [{ip_range: 10.0.0.0/8}]",
            f"id: n, {ROLE}, conditions: [{{ip_range: 10.0.0.0/8}}]",
            None,
        ),
        ("id: w, effect: deny, mode: shadow", f"id: n, {ROLE}", None),
        ("id: w, effect: deny, resources: [{type: model}]", f"id: n, {ROLE}", None),
    ],
)
def test_policies_that_add_nothing_or_never_allow(wide, narrow, code):
    assert codes(wide, narrow) == ([code] if code else [])


def test_an_earlier_policy_that_names_the_decision_itself_is_not_superfluous():
    assert codes(f"id: n, {ROLE}", f"id: w, {EVERYBODY}") == ["subsumed"]
    assert codes(f"id: n, {ROLE}, ttl: 5m", f"id: w, {EVERYBODY}") == []
    assert codes(f"id: a, {ROLE}", f"id: b, {ROLE}") == ["subsumed"]


def test_a_set_too_large_to_compare_is_left_alone(monkeypatch):
    monkeypatch.setattr(overlap, "MAX_COMPARISONS", 0)
    assert codes(f"id: w, {EVERYBODY}", f"id: n, {ROLE}") == []


def test_warnings_of_overlap_point_at_the_policy():
    found = warnings(f"policies:\n- {{id: w, {EVERYBODY}}}\n- {{id: n, {ROLE}}}\n")
    assert found == [("subsumed", "3:8", "policy `n` adds nothing: `w` allows all it matches")]


@given(made.policies, st.lists(made.query, min_size=1, max_size=5))
def test_a_policy_that_adds_nothing_can_be_deleted_without_changing_any_decision(policies, queries):
    document = made.document(policies)
    # Marks give the place, and the place the policy: policies stand on one line here, so the message names it.
    found = lint(document, roles=None, actions=None, resource_types=None, now_ns=NOW)
    useless = {each.message.split("`")[1] for each in found if each.code in ("subsumed", "shadowed_by_deny")}
    assume(useless)
    name = min(useless)
    rest = [policy for policy in policies if policy["id"] != name]
    before, after = made.compiled(policies), made.compiled(rest)
    for query in queries:
        first, second = before.decide(query), after.decide(query)
        assert (first.reason is Reason.ALLOWED) == (second.reason is Reason.ALLOWED)
        assert first.audit_logged == second.audit_logged


def test_a_document_read_back_from_its_dump_can_be_linted_too():
    document = load(f"policies: [{{id: p, {EVERYBODY}, not_after: 2026-01-01T00:00:00Z}}]")
    bare = PolicyDocument(tuple(replace(each, marks={}) for each in document.policies), {})
    (found,) = lint(bare, roles=None, actions=None, resource_types=None, now_ns=NOW)
    assert found.mark is None
