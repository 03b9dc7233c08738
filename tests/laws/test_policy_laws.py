"""The laws of CONTRACT section 4, each in one sentence, over generated policy sets and queries."""

import itertools
import json
from dataclasses import replace

import naive_policy
import policy_strategies as made
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.model import Auth, Reason
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.document import dump, undump
from ext_authz.policy.windows import Window


def outcome(policies, query):
    return made.compiled(policies).decide(query)


def is_deny(policy):
    return policy.get("effect") == "deny"


def is_shadow(policy):
    return policy.get("mode") == "shadow"


@given(made.policies, st.lists(made.query, min_size=1, max_size=5))
def test_the_index_and_a_naive_scan_agree_on_everything(policies, queries):
    compiled = made.compiled(policies)
    digests = {policy.id: policy.digest for policy in compiled.policies}
    for query in queries:
        naive = naive_policy.decide(policies, made.WINDOWS, query, digests)
        verdict = compiled.decide(query)
        assert verdict.reason == naive.reason
        assert (verdict.policy.id if verdict.policy else None) == naive.policy
        assert verdict.policies == naive.policies
        assert tuple((match.policy_id, match.effect) for match in verdict.shadow) == naive.shadow
        assert verdict.audit_logged == naive.audit_logged
        if verdict.reason is Reason.ALLOWED:
            assert verdict.policy.ttl == naive.ttl
            assert {name: template.source for name, template in verdict.policy.headers} == naive.headers


@given(made.policies, st.lists(made.query, min_size=1, max_size=5), st.integers(1, 4))
def test_the_index_finds_every_policy_that_concerns_a_query_however_many_there_are(policies, queries, times):
    padding = [{"id": f"pad{n}", "effect": "deny", "actions": [f"never-{n}"]} for n in range(5)]
    crowd = [{**policy, "id": f"{policy['id']}-{n}"} for n in range(times) for policy in policies]
    compiled = made.compiled(padding + crowd)
    for query in queries:
        candidates = list(compiled._index.candidates(query))
        assert candidates == sorted(set(candidates))
        concerned = {number for number, policy in enumerate(compiled.policies) if policy.concerns(query)}
        assert concerned <= set(candidates)


@given(made.policies, made.query)
def test_without_an_allow_policy_nothing_is_allowed(policies, query):
    assert outcome([policy for policy in policies if is_deny(policy)], query).reason is not Reason.ALLOWED


@given(made.policies, made.policy(), made.query)
def test_adding_a_deny_never_turns_a_denial_into_an_allow(policies, extra, query):
    extra = {key: value for key, value in extra.items() if key not in ("headers", "ttl")} | {"effect": "deny"}
    if outcome(policies, query).reason is not Reason.ALLOWED:
        assert outcome([*policies, {"id": "extra", **extra}], query).reason is not Reason.ALLOWED


@given(made.policies, made.query)
def test_a_matching_deny_beats_every_allow(policies, query):
    everything = {"id": "stop", "effect": "deny"}
    verdict = outcome([*policies, everything], query)
    assert verdict.reason is Reason.DENIED_BY_POLICY
    assert "stop" in verdict.policies


@given(made.policies, made.policy(), made.query)
def test_adding_an_allow_never_takes_an_allow_away(policies, extra, query):
    extra = {"id": "extra", **extra}
    if not is_deny(extra) and outcome(policies, query).reason is Reason.ALLOWED:
        assert outcome([extra, *policies], query).reason is Reason.ALLOWED


@given(made.policies, made.query)
def test_removing_a_policy_that_is_no_deny_never_creates_an_allow(policies, query):
    if outcome(policies, query).reason is Reason.ALLOWED:
        return
    for place, policy in enumerate(policies):
        if not is_deny(policy):
            assert outcome(policies[:place] + policies[place + 1 :], query).reason is not Reason.ALLOWED


@given(made.policies, made.query, st.randoms(use_true_random=False))
def test_order_never_changes_the_effect(policies, query, random):
    shuffled = list(policies)
    random.shuffle(shuffled)
    before, after = outcome(policies, query), outcome(shuffled, query)
    assert before.reason is after.reason
    assert before.audit_logged == after.audit_logged
    assert sorted(before.policies) == sorted(after.policies)
    assert set(before.shadow) == set(after.shadow)


@given(made.policies, made.query)
def test_shadow_policies_change_nothing_but_what_is_recorded(policies, query):
    enforced = [policy for policy in policies if not is_shadow(policy)]
    with_shadow, without = outcome(policies, query), outcome(enforced, query)
    assert without.shadow == ()
    assert with_shadow.reason is without.reason
    assert (with_shadow.policy and with_shadow.policy.id) == (without.policy and without.policy.id)
    assert (with_shadow.policies, with_shadow.audit_logged, with_shadow.until_ns) == (
        without.policies,
        without.audit_logged,
        without.until_ns,
    )


@given(
    made.policies,
    made.query,
    st.sets(st.sampled_from(["ip", "risk", "approvals", "attributes", "issued_at", "resource"])),
)
def test_not_knowing_something_never_allows_and_never_disables_a_deny(policies, query, hidden):
    blind = query
    for what in ("ip", "risk", "approvals"):
        if what in hidden:
            blind = replace(blind, context=replace(blind.context, **{what: None}))
    if "attributes" in hidden:
        blind = replace(blind, attributes={})
    if "issued_at" in hidden:
        blind = replace(blind, subject=replace(blind.subject, issued_at=None))
    if "resource" in hidden:
        blind = replace(blind, resource=replace(blind.resource, attributes={}, version=""))
    compiled = made.compiled(policies)
    seeing, groping = compiled.decide(query), compiled.decide(blind)
    if groping.reason is Reason.ALLOWED:
        assert seeing.reason is Reason.ALLOWED
        assert set(groping.policies) <= set(seeing.policies)
    if seeing.reason is Reason.DENIED_BY_POLICY:
        assert set(seeing.policies) <= set(groping.policies)


@given(made.policies, made.query)
def test_an_anonymous_caller_is_allowed_only_by_a_policy_that_says_anonymous(policies, query):
    query = replace(query, subject=replace(query.subject, id="anonymous:", auth=Auth.ANONYMOUS))
    verdict = outcome(policies, query)
    by_id = {policy["id"]: policy for policy in policies}
    if verdict.reason is Reason.ALLOWED:
        for name in verdict.policies:
            assert any("anonymous" in json.dumps(entry.get("auth", "")) for entry in by_id[name]["subjects"])


@given(made.policies, made.query)
def test_what_is_dumped_and_read_back_is_the_same_document_and_decides_the_same(policies, query):
    document = made.document(policies)
    again = undump(json.loads(json.dumps(dump(document))))
    assert again == document
    before, after = compile_policies(document), compile_policies(again)
    assert before.revision == after.revision
    first, second = before.decide(query), after.decide(query)
    assert (first.reason, first.policies, first.shadow, first.until_ns) == (
        second.reason,
        second.policies,
        second.shadow,
        second.until_ns,
    )


@given(made.policies, made.query)
def test_an_allow_still_stands_just_before_it_runs_out(policies, query):
    compiled = made.compiled(policies)
    verdict = compiled.decide(query)
    if verdict.reason is not Reason.ALLOWED or verdict.until_ns is None:
        return
    left = verdict.until_ns - query.context.now_ns
    assert left >= 0
    for part in (left // 2, max(left - 1, 0)):
        context = replace(query.context, now_ns=query.context.now_ns + part, time_ns=query.context.time_ns + part)
        later = replace(query, context=context)
        assert verdict.policy.concerns(later)
        assert verdict.policy.holds(later)


windows = st.builds(
    lambda days, start, end, zone: Window(tuple(sorted(days)), start, end, zone),
    days=st.sets(st.integers(0, 6), min_size=1),
    start=st.integers(0, 1439),
    end=st.integers(0, 1440),
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu"]
    ),
).filter(lambda window: window.start != window.end and not (window.start == 0 and window.end == 0))


@given(windows, st.integers(1_700_000_000, 1_900_000_000))
def test_a_window_is_what_the_wall_clock_shows(window, second):
    plain = {
        "days": [naive_policy.DAYS[day] for day in window.days],
        "from": f"{window.start // 60:02}:{window.start % 60:02}",
        "to": f"{window.end // 60:02}:{window.end % 60:02}",
        "timezone": window.timezone,
    }
    assert window.holds(second * 10**9) == naive_policy.window_open(plain, second * 10**9)


@given(windows, st.integers(1_700_000_000, 1_900_000_000))
def test_an_open_window_stays_open_until_it_says_it_closes(window, second):
    if not window.holds(second * 10**9):
        return
    end = window.closes_ns(second * 10**9)
    if end is None:
        return
    assert end > second * 10**9
    last = end // 10**9 - 1
    for step in itertools.chain(range(0, last - second, max((last - second) // 40, 1)), [last - second]):
        assert window.holds((second + step) * 10**9)


@given(windows, st.integers(1_700_000_000, 1_900_000_000))
def test_a_closed_window_is_open_when_it_says_it_opens(window, second):
    if window.holds(second * 10**9):
        return
    opens = window.opens_ns(second * 10**9)
    assert opens is not None
    assert opens > second * 10**9
    assert window.holds(opens)
