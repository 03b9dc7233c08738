"""What each condition asks, and that not knowing makes an allow not match and a deny match."""

import ipaddress
import itertools
import json
from dataclasses import replace

import pytest
from policy_support import MONDAY_NOON, ask, compiled, holds, load, ns, policy, subject

from ext_authz.model import Approval, Risk
from ext_authz.policy.conditions import AuditLogged, duration_text, undump_condition
from ext_authz.policy.document import dump, dump_policy, undump

YES, NO, UNKNOWN = (True, True), (False, False), (False, True)
NOON = ns(MONDAY_NOON) // 10**9


@pytest.mark.parametrize(
    ("networks", "ip", "expected"),
    [
        ("10.0.0.0/8", "10.255.255.255", YES),
        ("10.0.0.0/8", "11.0.0.0", NO),
        ("10.0.0.0/8", "::ffff:10.0.0.1", YES),
        ('"::ffff:10.0.0.0/104"', "10.9.9.9", YES),
        ('"::ffff:10.0.0.0/104"', "11.9.9.9", NO),
        ('"2001:db8::/32"', "2001:db8::1", YES),
        ('"2001:db8::/32"', "32.1.13.184", NO),
        ('["192.0.2.7", "10.0.0.0/8"]', "192.0.2.7", YES),
        ('"0.0.0.0/0"', "2001:db8::1", NO),
        ('"::/0"', "10.0.0.1", NO),
        ("10.0.0.0/8", None, UNKNOWN),
    ],
)
def test_ip_range(networks, ip, expected):
    assert holds(f"{{ip_range: {networks}}}", ask(ip=ip)) == expected


@pytest.mark.parametrize(
    ("limit", "risk", "expected"),
    [
        ("low", Risk.LOW, YES),
        ("low", Risk.MEDIUM, NO),
        ("high", Risk.HIGH, YES),
        ("high", Risk.CRITICAL, NO),
        ("high", None, UNKNOWN),
    ],
)
def test_max_risk(limit, risk, expected):
    assert holds(f"{{max_risk: {limit}}}", ask(risk=risk)) == expected


@pytest.mark.parametrize(
    ("issued", "expected"),
    [(NOON - 900, YES), (NOON - 901, NO), (NOON + 30, YES), (None, UNKNOWN)],
)
def test_max_token_age(issued, expected):
    assert holds("{max_token_age: 15m}", ask(subject(issued_at=issued))) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": 64, "max_tokens": 1}, YES),
        ({"batch_size": 65, "max_tokens": 1}, NO),
        ({"batch_size": 64}, UNKNOWN),
        ({"batch_size": 65}, NO),
        ({"batch_size": True, "max_tokens": 1}, UNKNOWN),
        ({"batch_size": "1", "max_tokens": 1}, UNKNOWN),
        ({"batch_size": 1.5, "max_tokens": 1024.5}, YES),
        ({"batch_size": float("nan"), "max_tokens": 1}, UNKNOWN),
        ({"batch_size": float("inf"), "max_tokens": 1}, NO),
        ({"batch_size": 10**400, "max_tokens": 1}, NO),
        ({}, UNKNOWN),
    ],
)
def test_max(given, expected):
    assert holds("{max: {batch_size: 64, max_tokens: 0x}}".replace("0x", "1024.5"), ask(given=given)) == expected


def test_mfa_required():
    assert holds("{mfa_required: true}", ask(subject(mfa=True))) == YES
    assert holds("{mfa_required: true}", ask(subject(mfa=False))) == NO


def test_audit_logged_asks_nothing_of_the_request():
    assert holds("{audit_logged: true}", ask()) == YES
    assert compiled(policy("{audit_logged: true}")).decide(ask()).audit_logged
    assert not compiled(policy()).decide(ask()).audit_logged


def test_keys_of_one_condition_and_conditions_of_one_list_must_all_hold():
    both = "{mfa_required: true, ip_range: 10.0.0.0/8}"
    assert holds(both, ask(subject(mfa=True))) == YES
    assert holds(both, ask(subject(mfa=True), ip="11.0.0.1")) == NO
    assert holds("{ip_range: 10.0.0.0/8}, {ip_range: 10.1.0.0/16}", ask(ip="10.2.0.1")) == NO


# --- approvals --------------------------------------------------------------------------------------------------------


def approval(**rest):
    return Approval(**{"group": "sec", "approver": "sub:carol", **rest})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([approval()], YES),
        ([approval(group="other")], NO),
        ([approval(approver="sub:alice")], NO),
        ([approval(approver="sub:alice-2")], YES),
        ([approval(approver="spiffe://ml/ns/a/sa/alice")], YES),
        ([approval(expires_at=NOON + 1)], YES),
        ([approval(expires_at=NOON)], NO),
        ([approval(policy="p")], YES),
        ([approval(policy="q")], NO),
        ([approval(policy_digest="0" * 64)], NO),
        ([approval(subject="sub:alice")], YES),
        ([approval(subject="sub:bob")], NO),
        ([approval(resource="model/fraud")], YES),
        ([approval(resource="model/churn")], NO),
        ([], NO),
        (None, UNKNOWN),
    ],
)
def test_an_approval_counts_for_what_it_names(given, expected):
    assert holds("{approval: sec}", ask(approvals=given)) == expected


def test_an_approval_is_bound_to_the_policys_digest_and_editing_ends_it():
    before, after = compiled(policy("{approval: sec}")), compiled(policy("{approval: sec}", more=", ttl: 5m"))
    query = ask(approvals=[approval(policy="p", policy_digest=before.policies[0].digest)])
    assert before.decide(query).reason == "allowed"
    assert after.decide(query).reason == "conditions_not_met"


def test_moving_a_named_window_ends_an_approval_too():
    text = "time_windows: {w: {from: '00:00', to: '%s'}}\n" + policy("{approval: sec}, {time_window: w}")
    first, second = compiled(text % "23:00"), compiled(text % "23:30")
    assert first.policies[0].digest != second.policies[0].digest


def test_two_approvals_are_two_people():
    two = compiled(policy("{approval: sec}", more=", approvals: 2"))

    def reason(*given):
        return two.decide(ask(approvals=given)).reason

    assert reason(approval(), approval(approver="sub:dave")) == "allowed"
    assert reason(approval(), approval()) == "conditions_not_met"
    assert reason(approval(), approval(approver="sub:alice")) == "conditions_not_met"
    assert reason(approval(), approval(approver="sub:dave", expires_at=NOON - 1)) == "conditions_not_met"


@pytest.mark.parametrize("own", ["sub:alice", "key:alice", "os:alice"])
@pytest.mark.parametrize("caller", ["sub:alice", "key:alice"])
def test_nobody_approves_for_themselves_under_another_kind_of_name(caller, own):
    assert holds("{approval: sec}", ask(subject(caller), approvals=[approval(approver=own)])) == NO
    assert holds("{approval: sec}", ask(subject(caller), approvals=[approval(approver=own), approval()])) == YES


def test_one_person_under_two_kinds_of_names_is_not_two_people():
    two = compiled(policy("{approval: sec}", more=", approvals: 2"))
    given = [approval(approver=name) for name in ("sub:carol", "os:carol", "key:carol")]
    assert two.decide(ask(approvals=given)).reason == "conditions_not_met"
    assert two.decide(ask(approvals=[*given, approval(approver="os:dave")])).reason == "allowed"


def test_an_answer_lasts_as_long_as_enough_people_still_approve():
    one, two = (compiled(policy("{approval: sec}", more=f", approvals: {count}")) for count in (1, 2))
    query = ask(
        approvals=[
            approval(expires_at=NOON + 10),
            approval(expires_at=NOON + 60),
            approval(approver="sub:dave", expires_at=NOON + 300),
        ]
    )
    assert one.decide(query).until_ns == (NOON + 300) * 10**9
    assert two.decide(query).until_ns == (NOON + 60) * 10**9
    for given in itertools.permutations((approval(), approval(expires_at=NOON + 5))):
        endless = replace(query, context=replace(query.context, approvals=given))
        assert one.decide(endless).until_ns is None


@pytest.mark.parametrize("given", [None, (), (approval(expires_at=NOON + 5),)])
def test_an_approval_that_is_not_enough_or_not_known_has_no_end(given):
    (two,) = compiled(policy("{approval: sec}", more=", approvals: 2")).policies
    assert two.until_ns(ask(approvals=given)) is None


def test_an_answer_lasts_no_longer_than_the_token_may_be_old():
    verdict = compiled(policy("{max_token_age: 15m}")).decide(ask(subject(issued_at=NOON - 600)))
    assert verdict.until_ns == (NOON + 300) * 10**9


# --- time windows -----------------------------------------------------------------------------------------------------


def opens(window, at, **options):
    return holds(f"{{time_window: {window}}}", ask(at=at, **options))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-23T22:00:00+01:00", YES),
        ("2026-11-23T21:59:59+01:00", NO),
        ("2026-11-24T05:59:59+01:00", YES),
        ("2026-11-24T06:00:00+01:00", NO),
        # Friday's night lasts into Saturday; Sunday's does not exist, nor its Monday morning.
        ("2026-11-28T05:00:00+01:00", YES),
        ("2026-11-29T23:00:00+01:00", NO),
        ("2026-11-30T05:00:00+01:00", NO),
    ],
)
def test_a_window_past_midnight_belongs_to_the_day_it_opens(at, expected):
    assert opens('{days: [mon-fri], from: "22:00", to: "06:00", timezone: Europe/Berlin}', at) == expected


def test_both_passes_of_a_repeated_hour_are_inside():
    window = '{from: "02:15", to: "02:45", timezone: Europe/Berlin}'
    assert opens(window, "2026-10-25T02:30:00+02:00") == YES
    assert opens(window, "2026-10-25T02:50:00+02:00") == NO
    assert opens(window, "2026-10-25T02:30:00+01:00") == YES
    assert opens(window, "2026-10-25T02:50:00+01:00") == NO


def test_a_skipped_hour_never_comes():
    window = '{from: "02:00", to: "03:00", timezone: Europe/Berlin}'
    for minute in range(0, 180, 5):
        assert opens(window, ns("2026-03-29T00:00:00+00:00") + minute * 60 * 10**9) == NO


def test_midnight_can_be_the_end_of_a_day():
    assert opens('{days: [sun], from: "12:00", to: "24:00"}', "2026-11-22T23:59:59+00:00") == YES
    assert opens('{days: [sun], from: "12:00", to: "24:00"}', "2026-11-23T00:00:00+00:00") == NO
    assert opens('{days: [sun], from: "12:00", to: "00:00"}', "2026-11-22T23:59:59+00:00") == YES


def test_a_window_reads_the_requests_time_and_all_else_this_machines_clock():
    late, noon = ns("2026-11-23T18:00:00+00:00"), ns(MONDAY_NOON)
    assert holds("{time_window: business_hours}", ask(at=late, now=noon)) == NO
    assert holds("{time_window: business_hours}", ask(at=noon, now=late)) == YES
    assert holds("{max_token_age: 15m}", ask(subject(issued_at=NOON), at=late, now=noon)) == YES
    assert holds("{max_token_age: 15m}", ask(subject(issued_at=NOON), at=noon, now=late)) == NO
    ending = [approval(expires_at=NOON + 60)]
    assert holds("{approval: sec}", ask(approvals=ending, at=late, now=noon)) == YES
    assert holds("{approval: sec}", ask(approvals=ending, at=noon, now=late)) == NO


def test_under_strict_time_two_clocks_that_disagree_cannot_be_evaluated():
    late, noon = ns("2026-11-23T18:00:00+00:00"), ns(MONDAY_NOON)
    hours = "{time_window: business_hours}"
    assert holds(hours, ask(at=noon, now=late), strict_time=True) == UNKNOWN
    assert holds(hours, ask(at=late, now=noon), strict_time=True) == UNKNOWN
    assert holds(hours, ask(at=noon), strict_time=True) == YES
    assert holds(hours, ask(at=late), strict_time=True) == NO


def test_a_time_no_calendar_holds_cannot_be_evaluated():
    assert holds("{time_window: business_hours}", ask(at=10**30, now=0)) == UNKNOWN
    assert holds("{time_window: business_hours}", ask(at=-(10**30), now=0)) == UNKNOWN


def test_a_window_that_never_closes_gives_no_end():
    verdict = compiled(policy('{time_window: {from: "00:00", to: "24:00"}}')).decide(ask())
    assert (verdict.reason, verdict.until_ns) == ("allowed", None)


def test_adjoining_windows_are_one_opening():
    verdict = compiled(policy('{time_window: {days: [mon-tue], from: "00:00", to: "24:00"}}')).decide(ask())
    assert verdict.until_ns == ns("2026-11-25T00:00:00+00:00")


def test_what_is_left_is_counted_on_this_machines_clock():
    noon = ns(MONDAY_NOON)
    ahead = noon + 30 * 10**9
    hours = compiled(policy("{time_window: business_hours}"))
    assert hours.decide(ask(at=noon, now=ahead)).until_ns == ahead + 5 * 3600 * 10**9
    strict = compiled(policy("{time_window: business_hours}"), strict_time=True)
    assert strict.decide(ask(at=noon, now=ahead)).until_ns == noon + 5 * 3600 * 10**9
    assert strict.decide(ask(at=ahead, now=noon)).until_ns == noon + 5 * 3600 * 10**9 - 30 * 10**9


def test_an_answer_ends_where_the_clocks_change():
    window = compiled(policy('{time_window: {from: "22:00", to: "06:00", timezone: Europe/Berlin}}'))
    verdict = window.decide(ask(at="2026-10-24T23:00:00+02:00"))
    assert verdict.until_ns == ns("2026-10-25T02:00:00+01:00")


@pytest.mark.parametrize(
    ("written", "kind", "data"),
    [
        ("ip_range: [10.0.0.0/8, '2001:db8::/32']", "ip_range", ["10.0.0.0/8", "2001:db8::/32"]),
        ("time_window: business_hours", "time_window", ["business_hours", [0, 1, 2, 3, 4], 540, 1020, "UTC"]),
        (
            "time_window: {days: [sun], from: '22:00', to: '06:00', timezone: Europe/Berlin}",
            "time_window",
            ["", [6], 1320, 360, "Europe/Berlin"],
        ),
        ("mfa_required: true", "mfa_required", True),
        ("audit_logged: true", "audit_logged", True),
        ("approval: sec", "approval", "sec"),
        ("max_token_age: 15m", "max_token_age", 900_000),
        ("max_risk: low", "max_risk", "low"),
        ("max: {batch: 8, tokens: 64.5}", "max", [["batch", 8], ["tokens", 64.5]]),
        ("cel: 'subject.mfa'", "cel", "subject.mfa"),
    ],
)
def test_a_condition_is_dumped_under_the_key_it_is_written_under_and_read_back(written, kind, data):
    document = load(policy(f"{{{written}}}"))
    assert dump_policy(document.policies[0])["conditions"] == [[kind, data]]
    again = undump(json.loads(json.dumps(dump(document))))
    assert again == document
    assert dump(again) == dump(document)


def test_a_condition_of_a_kind_that_this_version_does_not_know_is_not_passed_over():
    with pytest.raises(ValueError, match=r"^unknown condition `weather`$"):
        undump_condition("weather", "sunny")


def test_durations_are_written_in_the_largest_unit_that_fits():
    assert [duration_text(each) for each in (500, 90_000, 900_000, 7_200_000, 172_800_000)] == [
        "500ms",
        "90s",
        "15m",
        "2h",
        "2d",
    ]


def test_mapped_addresses_are_unwrapped_wherever_they_come_from():
    query = ask()
    mapped = replace(query, context=replace(query.context, ip=ipaddress.ip_address("::ffff:10.1.2.3")))
    assert holds("{ip_range: 10.0.0.0/8}", mapped) == YES


def test_what_asks_for_a_record_holds_of_every_request_and_needs_no_remedy():
    condition, query = AuditLogged(), ask()
    (policy,) = compiled("policies: [{id: p, effect: deny}]").policies
    assert condition.holds(query, policy) is True
    assert condition.until_ns(query, policy) is None
    assert condition.detail(query, policy) == "the decision is recorded before the answer leaves"
    assert condition.remedy(query, policy) is None
