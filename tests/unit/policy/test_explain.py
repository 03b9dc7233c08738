"""The trace and the counterfactuals."""

import ipaddress
from dataclasses import replace
from operator import attrgetter

import policy_strategies as made
import pytest
from hypothesis import given
from policy_support import MONDAY_NOON, ask, compiled, ns, subject

from ext_authz.model import Auth, Reason, Risk
from ext_authz.policy import explain as module
from ext_authz.policy.explain import MAX_REMEDIES, explain, would_allow

ANY = 'resources: [{type: "*"}], actions: ["*"]'
EVERYBODY = f"subjects: [{{any: true}}], {ANY}"


def trace(text, query):
    return [
        (each.policy_id, each.matched, each.failed_at, each.detail) for each in explain(compiled(text), query).trace
    ]


def remedies(text, query):
    return list(explain(compiled(text), query).would_allow_if)


def one(more, *, lists=EVERYBODY):
    return f"policies: [{{id: p, {lists}{', ' if more else ''}{more}}}]"


def conditions(listed):
    return one(f"conditions: [{listed}]")


@pytest.mark.parametrize(
    ("text", "query", "failed_at", "detail"),
    [
        (
            one("", lists=f"subjects: [{{role: ds, org: acme}}, {{group: red}}], {ANY}"),
            ask(subject(roles=["b", "a"])),
            "subjects",
            "sub:alice (roles: a, b) is not role ds with org acme or group red",
        ),
        (
            one("", lists=f"subjects: [{{any: true}}], {ANY}"),
            ask(subject("anonymous:", Auth.ANONYMOUS)),
            "subjects",
            "an anonymous caller matches only an entry that says `auth: anonymous`",
        ),
        (
            one(
                "",
                lists='subjects: [{any: true}], resources: [{type: dataset, a: b}, {type: model, stage: [x, "y*"], tier: 1}], actions: ["*"]',
            ),
            ask(attributes={"stage": "z", "tier": 1}),
            "resources",
            "model/fraud: `stage` is `z`, not `x` or `y*`",
        ),
        (
            one("", lists='subjects: [{any: true}], resources: [{type: model, stage: x}], actions: ["*"]'),
            ask(),
            "resources",
            "model/fraud: `stage` is unknown",
        ),
        (
            one("", lists='subjects: [{any: true}], resources: [{type: model}], actions: [read_data, "list_*"]'),
            ask(),
            "actions",
            "`infer` is not `read_data` or `list_*`",
        ),
        (one("not_before: 2027-01-01T00:00:00Z"), ask(), "not_before", "not in force before 2027-01-01T00:00:00Z"),
        (one("not_after: 2026-01-01T00:00:00Z"), ask(), "not_after", "not in force since 2026-01-01T00:00:00Z"),
        (
            conditions("{ip_range: [10.0.0.0/8, 192.0.2.0/24]}, {mfa_required: true}"),
            ask(ip="8.8.8.8"),
            "ip_range",
            "8.8.8.8 is not in 10.0.0.0/8 or 192.0.2.0/24; sub:alice did not sign in with MFA",
        ),
        (conditions("{ip_range: 10.0.0.0/8}"), ask(ip=None), "ip_range", "the caller's address is unknown"),
        (conditions("{ip_range: 10.0.0.0/8}"), ask(ip="::ffff:11.1.2.3"), "ip_range", "11.1.2.3 is not in 10.0.0.0/8"),
        (
            conditions("{time_window: business_hours}"),
            ask(at="2026-11-22T12:00:00+00:00"),
            "time_window",
            "`business_hours` (mon-fri 09:00-17:00 UTC) is closed at Sun 2026-11-22 12:00 UTC",
        ),
        (
            conditions('{time_window: {days: [mon, wed, thu], from: "22:00", to: "24:00", timezone: Europe/Berlin}}'),
            ask(),
            "time_window",
            "the window mon,wed-thu 22:00-24:00 Europe/Berlin is closed at Mon 2026-11-23 13:00 Europe/Berlin",
        ),
        (
            conditions("{time_window: business_hours}"),
            ask(at=10**30),
            "time_window",
            "the time is outside the calendar, so `business_hours` (mon-fri 09:00-17:00 UTC) cannot be evaluated",
        ),
        (conditions("{approval: sec}"), ask(), "approval", "approvals by `sec` for sub:alice: none"),
        (
            one("conditions: [{approval: sec}], approvals: 2"),
            ask(approvals=["sec"]),
            "approval",
            "approvals by `sec` for sub:alice: 1 of 2",
        ),
        (
            conditions("{approval: sec}"),
            ask(approvals=None),
            "approval",
            "the state is too old to say what was approved",
        ),
        (
            conditions("{max_token_age: 15m}"),
            ask(subject(issued_at=ns("2026-11-23T11:00:00+00:00") // 10**9)),
            "max_token_age",
            "the token is 3600 s old, more than 15m",
        ),
        (
            conditions("{max_token_age: 15m}"),
            ask(),
            "max_token_age",
            "sub:alice came without a token that says when it was issued",
        ),
        (conditions("{max_risk: low}"), ask(risk=Risk.HIGH), "max_risk", "the risk is high, at most low is asked for"),
        (
            conditions("{max_risk: low}"),
            ask(risk=None),
            "max_risk",
            "the state is too old to say how risky the subject is",
        ),
        (
            conditions("{max: {a: 1, b: 2, c: 3}}"),
            ask(given={"a": 5, "c": 3}),
            "max",
            "`a` is 5, at most 1 is allowed; `b` of the request is unknown",
        ),
    ],
)
def test_the_trace_says_what_failed(text, query, failed_at, detail):
    assert trace(text, query) == [("p", False, failed_at, detail)]


def test_the_trace_of_a_match():
    text = (
        f"policies: [{{id: a, {EVERYBODY}}}, {{id: d, effect: deny, resources: [{{type: model, stage: x, id: fraud}}, {{tier: 1}}]}}, "
        "{id: n, effect: deny, conditions: [{ip_range: 10.0.0.0/8}]}, {id: s, effect: deny, mode: shadow}, "
        '{id: k, effect: deny, resources: [{stage: y}, {type: model, id: "f*"}]}]'
    )
    assert trace(text, ask(ip=None)) == [
        ("a", True, None, "allow"),
        ("d", True, None, "deny, because it cannot be ruled out: `stage` of model/fraud is unknown"),
        ("n", True, None, "deny, because it cannot be ruled out: the caller's address is unknown"),
        ("s", True, None, "would deny (shadow)"),
        ("k", True, None, "deny"),
    ]
    (any_id,) = trace("policies: [{id: d, effect: deny, resources: [{id: secret}]}]", ask(name="*"))
    assert any_id == ("d", True, None, "deny, because it cannot be ruled out: `id` of model/* is unknown")


@pytest.mark.parametrize(
    ("condition", "changed", "detail"),
    [
        ("{ip_range: 10.0.0.0/8}", {"ip": None}, "the caller's address is unknown"),
        ("{approval: sec}", {"approvals": None}, "the state is too old to say what was approved"),
        ("{max_risk: low}", {"risk": None}, "the state is too old to say how risky the subject is"),
        ("{max_token_age: 15m}", {}, "sub:alice came without a token that says when it was issued"),
        ("{max: {n: 1}}", {}, "`n` of the request is unknown"),
        ("{max: {n: 1}}", {"given": {"n": float("nan")}}, "`n` of the request is unknown"),
        ("{max: {n: 1}}", {"given": {"n": True}}, "`n` of the request is unknown"),
        ("{max: {n: 1, m: 2}}", {"given": {"n": 1, "m": "1"}}, "`m` of the request is unknown"),
        (
            "{time_window: {from: '09:00', to: '10:00'}}",
            {"at": 10**30, "now": 0},
            "the time is outside the calendar, so the window mon-sun 09:00-10:00 UTC cannot be evaluated",
        ),
    ],
)
def test_a_deny_says_what_it_could_not_rule_out(condition, changed, detail):
    text = f"policies: [{{id: d, effect: deny, conditions: [{condition}]}}]"
    assert trace(text, ask(**changed)) == [("d", True, None, f"deny, because it cannot be ruled out: {detail}")]


def test_under_strict_time_a_deny_cannot_rule_out_what_the_clocks_disagree_on():
    text = "policies: [{id: d, effect: deny, conditions: [{time_window: business_hours}]}]"
    (entry,) = explain(compiled(text, strict_time=True), ask(now=ns("2026-11-23T18:00:00+00:00"))).trace
    assert entry.detail == (
        "deny, because it cannot be ruled out: `business_hours` (mon-fri 09:00-17:00 UTC) is open by one clock and "
        "closed by the other"
    )


def test_an_approval_that_is_promised_comes_on_top_of_those_given():
    both = conditions("{approval: sec}, {approval: legal}")
    assert remedies(both, ask(approvals=["sec"])) == ["with an approval by legal"]
    assert remedies(both, ask(approvals=None)) == ["with an approval by sec and with an approval by legal"]


def test_an_entry_of_the_trace_is_what_the_contract_shows():
    (entry,) = explain(compiled(one("")), ask()).trace
    assert entry.as_json() == {"policy_id": "p", "matched": True, "failed_at": None, "detail": "allow"}


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        (conditions("{mfa_required: true}"), ask(), "with MFA"),
        (conditions("{ip_range: 10.0.0.0/8}"), ask(ip="8.8.8.8"), "from 10.0.0.0/8"),
        (conditions("{approval: security_team}"), ask(), "with an approval by security_team"),
        (one("conditions: [{approval: sec}], approvals: 2"), ask(approvals=["sec"]), "with 2 approvals by sec"),
        (
            conditions('{time_window: {from: "09:00", to: "17:00", timezone: Europe/Berlin}}'),
            ask(at="2026-11-23T07:00:00+00:00"),
            "after 09:00 Europe/Berlin",
        ),
        (
            conditions('{time_window: {days: [mon-fri], from: "09:00", to: "17:00", timezone: Europe/Berlin}}'),
            ask(at="2026-11-27T18:00:00+00:00"),
            "after Mon 2026-11-30 09:00 Europe/Berlin",
        ),
        (conditions("{max_token_age: 15m}"), ask(), "with a token no older than 15m"),
        (conditions("{max_risk: low}"), ask(risk=None), "with risk low"),
        (conditions("{max_risk: medium}"), ask(risk=Risk.HIGH), "with risk medium or lower"),
        (conditions("{max: {n: 8.5, m: -0.5}}"), ask(), "with `n` at most 8.5 and `m` at most -0.5"),
        (one("not_before: 2027-01-01T00:00:00Z"), ask(), "after 2027-01-01T00:00:00Z"),
        (one("", lists=f"subjects: [{{role: mlops_engineer}}], {ANY}"), ask(), "with role mlops_engineer"),
        (one("", lists=f'subjects: [{{role: "ml-*"}}], {ANY}'), ask(), "with role ml-*"),
        (one("", lists=f"subjects: [{{group: [a, b]}}], {ANY}"), ask(), "in group a or b"),
        (one("", lists=f"subjects: [{{scope: s}}], {ANY}"), ask(), "with scope s"),
        (one("", lists=f"subjects: [{{id: bob}}], {ANY}"), ask(), "as sub:bob"),
        (one("", lists=f"subjects: [{{org: acme}}], {ANY}"), ask(), "of org acme"),
        (one("", lists=f"subjects: [{{auth: mtls}}], {ANY}"), ask(), "signed in by mtls"),
        (one("", lists=f"subjects: [{{issuer: i}}], {ANY}"), ask(), "with a token of i"),
        (one("", lists=f"subjects: [{{workload: dns:a}}], {ANY}"), ask(), "through workload dns:a"),
        (one("", lists=f"subjects: [{{claim: {{a.b: x}}}}], {ANY}"), ask(), "with claim a.b=x"),
        (one(""), ask(subject("anonymous:", Auth.ANONYMOUS)), "with a credential"),
        (
            "policies: [{id: freeze, effect: deny}, {id: p, " + EVERYBODY + "}]",
            ask(),
            "without the deny policy freeze",
        ),
    ],
)
def test_what_would_have_to_change(text, query, expected):
    assert remedies(text, query) == [expected]


def test_several_changes_are_one_sentence_and_fewer_changes_come_first():
    text = (
        f"policies: [{{id: far, subjects: [{{role: a}}, {{role: b}}], {ANY}, conditions: [{{mfa_required: true}}]}}, "
        f"{{id: near, {EVERYBODY}, conditions: [{{ip_range: 192.0.2.0/24}}]}}]"
    )
    assert remedies(text, ask()) == ["from 192.0.2.0/24", "with role a and with MFA", "with role b and with MFA"]


@pytest.mark.parametrize(
    "text",
    [
        one("not_after: 2026-01-01T00:00:00Z"),
        conditions("{ip_range: 10.0.0.0/8}, {ip_range: 11.0.0.0/8}"),
        one("mode: shadow"),
        one("", lists='subjects: [{any: true}], resources: [{type: dataset}], actions: ["*"]'),
        one("", lists='subjects: [{any: true}], resources: [{type: "*"}], actions: [admin]'),
        one(""),
    ],
)
def test_nothing_is_promised_that_would_not_help_or_is_not_needed(text):
    assert remedies(text, ask()) == []


def test_a_window_outside_the_calendar_has_no_remedy():
    assert remedies(conditions("{time_window: business_hours}"), ask(at=10**30)) == []


def test_a_tokens_age_is_told_by_this_machines_clock():
    late = ask(subject(issued_at=ns(MONDAY_NOON) // 10**9), at=MONDAY_NOON, now="2026-11-23T13:00:00+00:00")
    assert trace(conditions("{max_token_age: 15m}"), late)[0][3] == "the token is 3600 s old, more than 15m"


@pytest.mark.parametrize(
    ("condition", "place", "value"),
    [
        ("ip_range: [11.1.0.0/16, 12.0.0.0/8]", "context.ip", ipaddress.ip_address("11.1.0.0")),
        ("mfa_required: true", "subject.mfa", True),
        ("max_token_age: 15m", "subject.issued_at", 1795435200),
        ("max_risk: medium", "context.risk", Risk.MEDIUM),
        ("max: {n: 8.5, m: -0.5, whole: -2}", "attributes", {"n": 8, "m": -1, "whole": -2, "other": 7}),
        ("time_window: business_hours", "context.time_ns", ns("2026-11-24T09:00:00+00:00")),
    ],
)
def test_what_is_promised_is_what_was_tried(condition, place, value):
    (policy,) = compiled(conditions(f"{{{condition}}}")).policies
    evening = ask(at="2026-11-23T18:00:00+00:00", now=MONDAY_NOON, risk=None, given={"n": 9, "other": 7})
    _, changed = policy.conditions[0].remedy(evening, policy)
    assert attrgetter(place)(changed) == value
    assert policy.conditions[0].holds(changed, policy) is True


def test_under_strict_time_both_clocks_are_moved():
    text = conditions("{time_window: business_hours}")
    late = ns("2026-11-23T18:00:00+00:00")
    explained = explain(compiled(text, strict_time=True), ask(at=late))
    assert explained.would_allow_if == ("after Tue 2026-11-24 09:00 UTC",)
    apart = explain(compiled(text, strict_time=True), ask(now=late))
    assert (
        apart.trace[0].detail
        == "`business_hours` (mon-fri 09:00-17:00 UTC) is open by one clock and closed by the other"
    )


HOURS = "`business_hours` (mon-fri 09:00-17:00 UTC)"
SUNDAY = "2026-11-22T12:00:00+00:00"
NEVER = 10**30


@pytest.mark.parametrize(
    ("strict", "at", "now", "detail"),
    [
        (False, SUNDAY, MONDAY_NOON, f"{HOURS} is closed at Sun 2026-11-22 12:00 UTC"),
        (False, SUNDAY, NEVER, f"{HOURS} is closed at Sun 2026-11-22 12:00 UTC"),
        (False, NEVER, MONDAY_NOON, f"the time is outside the calendar, so {HOURS} cannot be evaluated"),
        (True, SUNDAY, "2026-11-22T13:00:00+00:00", f"{HOURS} is closed at Sun 2026-11-22 12:00 UTC"),
        (True, SUNDAY, MONDAY_NOON, f"{HOURS} is open by one clock and closed by the other"),
        (True, SUNDAY, NEVER, f"the time is outside the calendar, so {HOURS} cannot be evaluated"),
        (True, NEVER, MONDAY_NOON, f"the time is outside the calendar, so {HOURS} cannot be evaluated"),
    ],
)
def test_of_two_clocks_the_trace_shows_the_one_that_counts(strict, at, now, detail):
    policies = compiled(conditions("{time_window: business_hours}"), strict_time=strict)
    assert explain(policies, ask(at=at, now=now)).trace[0].detail == detail


def test_a_window_is_promised_by_the_clock_that_it_reads():
    text = conditions("{time_window: business_hours}")
    assert remedies(text, ask(at=SUNDAY, now=MONDAY_NOON)) == ["after Mon 2026-11-23 09:00 UTC"]
    assert remedies(text, ask(at=SUNDAY, now=NEVER)) == ["after Mon 2026-11-23 09:00 UTC"]
    assert remedies(text, ask(at=NEVER, now=MONDAY_NOON)) == []
    # The day is the zone's: in Auckland it is Monday already.
    auckland = conditions('{time_window: {from: "03:00", to: "04:00", timezone: Pacific/Auckland}}')
    assert remedies(auckland, ask(at="2026-11-22T13:00:00+00:00")) == ["after 03:00 Pacific/Auckland"]


def test_a_window_that_opens_when_the_policy_has_ended_is_not_promised():
    text = one("not_after: 2026-11-23T20:00:00Z, conditions: [{time_window: business_hours}]")
    assert remedies(text, ask(at="2026-11-23T18:00:00+00:00")) == []
    assert remedies(text, ask(at=SUNDAY)) == ["after Mon 2026-11-23 09:00 UTC"]


@pytest.mark.parametrize("order", [1, -1])
def test_when_a_window_opens_the_token_has_grown_old(order):
    asked = ", ".join(["{max_token_age: 15m}", "{time_window: business_hours}"][::order])
    evening = ns("2026-11-23T18:00:00+00:00")
    after, token = "after Tue 2026-11-24 09:00 UTC", "with a token no older than 15m"
    fresh, stale = (subject(issued_at=evening // 10**9 - age) for age in (0, 3600))
    assert remedies(conditions(asked), ask(fresh, at=evening)) == [f"{after} and {token}"]
    assert remedies(conditions(asked), ask(stale, at=evening)) == [" and ".join([token, after][::order])]


def test_there_are_never_more_than_a_few_suggestions():
    text = f"policies: [{{id: p, subjects: [{', '.join(f'{{role: r{n}}}' for n in range(30))}], {ANY}}}]"
    assert len(remedies(text, ask())) == MAX_REMEDIES


@given(made.policies, made.query)
def test_the_trace_and_the_decision_agree(policies, query):
    compiled_set = made.compiled(policies)
    explained = explain(compiled_set, query)
    matched = {each.policy_id for each in explained.trace if each.matched}
    shadow = {match.policy_id for match in explained.verdict.shadow}
    assert [each.policy_id for each in explained.trace] == [each["id"] for each in policies]
    assert set(explained.verdict.policies) | shadow <= matched
    if explained.verdict.reason is not Reason.DENIED_BY_POLICY:
        assert matched == set(explained.verdict.policies) | shadow
    assert all((each.failed_at is None) == each.matched and each.detail for each in explained.trace)
    if explained.verdict.reason is Reason.ALLOWED:
        assert explained.would_allow_if == ()


def test_an_unreachable_attribute_does_not_change_the_question():
    query = ask()
    explain(compiled(conditions("{mfa_required: true}")), query)
    assert query == replace(query)


def test_two_grants_that_ask_for_different_networks_are_not_promised_together():
    text = """policies:
    - {id: a, subjects: [{any: true}], resources: [{id: a}], actions: ["*"], conditions: [{ip_range: 11.0.0.0/8}]}
    - {id: b, subjects: [{any: true}], resources: [{id: b}], actions: ["*"], conditions: [{ip_range: 12.0.0.0/8}]}
    """
    policies = compiled(text)
    assert would_allow(policies, [ask(name="a")]) == ("from 11.0.0.0/8",)
    assert would_allow(policies, [ask(name="b")]) == ("from 12.0.0.0/8",)
    assert would_allow(policies, [ask(name="a"), ask(name="b")]) == ()


def test_of_several_grants_only_those_that_are_missing_are_talked_about(monkeypatch):
    text = """policies:
    - {id: a, subjects: [{any: true}], resources: [{id: a}], actions: ["*"]}
    - {id: b, subjects: [{any: true}], resources: [{id: b}], actions: ["*"], conditions: [{mfa_required: true}]}
    """
    queries = [ask(name="a"), ask(name="b")]
    assert would_allow(compiled(text), queries) == ("with MFA",)
    monkeypatch.setattr(module, "MAX_TRIED", 1)
    assert would_allow(compiled(text), queries) == (), "nothing is said where the work would be too much"


def test_what_a_subject_has_already_is_not_asked_for_again():
    text = one("", lists=f"subjects: [{{role: a, org: acme}}], {ANY}")
    assert remedies(text, ask(subject(roles=["a"]))) == ["of org acme"]
    assert remedies(text, ask(subject(org="acme"))) == ["with role a"]
