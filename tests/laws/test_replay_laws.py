"""The laws of replay, over generated policies and requests."""

from dataclasses import replace

import policy_strategies as made
from hypothesis import given
from hypothesis import strategies as st
from recorded_events import event_of

from ext_authz.model import Access, Auth, Reason
from ext_authz.tools.replay import Replayer
from ext_authz.tools.replay_tally import Tally
from ext_authz.tools.trail_fold import Seen

BY_CLAIMS = {"claim_not_recorded", "claim_altered"}


def real(query):
    """Only a token has claims."""
    claims = query.subject.claims if query.subject.auth is Auth.JWT else {}
    return replace(query, subject=replace(query.subject, claims=claims))


queries = st.lists(made.query.map(real), min_size=1, max_size=6)


@given(made.policies, queries)
def test_replay_under_the_same_policies_changes_nothing(policies, asked):
    compiled = made.compiled(policies)
    lines = [event_of(query, compiled, seq=seq) for seq, query in enumerate(asked)]
    tally = Replayer(compiled).fold(lines, Seen())
    assert tally.outcomes["same"] == tally.replayed
    assert tally.replayed + tally.not_replayed == tally.requests == len(asked)
    assert {kind for kind, _ in tally.unfaithful} <= {"claim_altered"}


@given(made.policies, made.policies, queries, st.booleans())
def test_what_is_replayed_is_decided_as_the_engine_decides_the_original(then, now, asked, strict):
    """Also when equal questions are recognised, and in any order."""
    before, after = made.compiled(then), made.compiled(now, strict_time=strict)
    lines = [event_of(query, before, seq=seq) for seq, query in enumerate(asked)]
    together = Replayer(after)
    for _ in range(2):
        for query, line in zip(asked, lines, strict=True):
            tally = together.fold([line], Seen())
            if tally.not_replayed:
                assert {kind for kind, _ in tally.unfaithful} <= BY_CLAIMS
                continue
            old, new = before.decide(query), after.decide(query)
            allowed, allows = old.reason is Reason.ALLOWED, new.reason is Reason.ALLOWED
            expected = "gained" if allows > allowed else "lost" if allows < allowed else None
            if expected is None and allowed:
                expected = "same" if old.policy.id == new.policy.id else "other_policy"
            elif expected is None:
                expected = "same" if old.reason == new.reason else "other_reason"
            assert dict(tally.outcomes) == {expected: 1}


@given(made.policies, made.policies, queries)
def test_a_request_for_several_resources_is_allowed_where_each_is(then, now, asked):
    before, after = made.compiled(then), made.compiled(now)
    first = asked[0]
    accesses = tuple(Access(query.resource, query.action) for query in asked)
    tally = Replayer(after).fold([event_of(first, before, accesses=accesses)], Seen())
    if tally.replayed:
        each = [replace(first, resource=access.resource, action=access.action) for access in accesses]
        allows = all(after.decide(query).reason is Reason.ALLOWED for query in each)
        allowed = all(before.decide(query).reason is Reason.ALLOWED for query in each)
        assert (tally.outcomes["gained"], tally.outcomes["lost"]) == (allows > allowed, allowed > allows)


@given(made.policies, made.policies, queries, st.integers(0, 6))
def test_reading_in_parts_and_joining_is_reading_it_all(then, now, asked, at):
    before, after = made.compiled(then), made.compiled(now)
    lines = [event_of(query, before, seq=seq) for seq, query in enumerate(asked)] + [b"{", b"[]", b"{}"]
    whole = Replayer(after).fold(lines, Seen())
    joined = Tally()
    for part in (lines[:at], lines[at:]):
        joined.join(Replayer(after).fold(part, Seen()))
    assert joined == whole


numbers = st.lists(st.integers(0, 30), max_size=40)


@given(numbers, numbers)
def test_what_was_seen_is_a_set(first, second):
    here, there = Seen(), Seen()
    known = set()
    for number in first:
        assert here.add("a", number) == (number not in known)
        known.add(number)
    for number in second:
        there.add("a", number)
        there.add("b", number)
    assert here.meets(there) == bool(known & set(second))
    if not here.meets(there):
        here.join(there)
        known |= set(second)
    assert [number for number in range(32) if not here.add("a", number)] == sorted(known)
