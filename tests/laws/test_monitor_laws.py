"""Laws of the detectors: bounded memory, order, snapshots, and that nobody unverified is ever a subject."""

import ipaddress
import json
import random
from dataclasses import replace

import datasketches
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.monitor.detectors import Detectors, Params, SnapshotError
from ext_authz.monitor.detectors.baseline import Baseline, Limits, Peers
from ext_authz.monitor.detectors.finding import MAX_EVIDENCE
from ext_authz.monitor.detectors.seen import network, seen
from ext_authz.monitor.detectors.sketch import Distinct, digest
from ext_authz.monitor.detectors.table import Table
from tests.support.monitor_events import at, event

KEY = b"k" * 32
ACTIONS = ["infer", "read_metadata", "write_data", "deploy_model", "admin", "own"]
REASONS = ["invalid_token", "invalid_api_key", "expired_token", "no_credentials", "no_route", "no_policy"]


def life(seed, count, days=30):
    """A mixture of everything, in order of time."""
    chance = random.Random(seed)
    times = sorted(chance.uniform(at(0), at(days)) for _ in range(count))
    for number, second in enumerate(times):
        verified = chance.random() < 0.7
        subject = f"sub:{chance.randrange(8)}" if verified else None
        yield event(
            second,
            subject,
            allowed=verified and chance.random() < 0.7,
            reason=chance.choice(REASONS),
            ip=f"203.0.{chance.randrange(12)}.{chance.randrange(3)}",
            claimed=f"user-{chance.randrange(99)}" if not verified and chance.random() < 0.9 else "",
            resource=f"model/{chance.randrange(40)}",
            action=chance.choice(ACTIONS),
            attributes={"sensitivity": chance.choice(["high", "low"])},
            input=str(number),
            batch=chance.choice([1, 1, 1, 40, 400]),
            token=f"t{chance.randrange(3)}",
            event_id=f"{seed}:{number}",
        )


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_restored_state_goes_on_as_if_nothing_had_happened(seed):
    events = list(life(seed, 400))
    whole, first = Detectors(key=KEY), Detectors(key=KEY)
    expected = [whole.observe(each, 2**62) for each in events]
    half = [first.observe(each, 2**62) for each in events[:200]]
    state = json.loads(orjson.dumps(first.snapshot()))
    second = Detectors(key=KEY)
    assert second.restore(state) == ()
    assert half + [second.observe(each, 2**62) for each in events[200:]] == expected
    assert second.snapshot() == whole.snapshot()


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_what_a_detector_is_not_shown_would_have_been_nothing_to_it(seed):
    together, apart = Detectors(small_params(), KEY), Detectors(small_params(), KEY)
    for each in life(seed, 400, days=20):
        one = seen(each, 2**62)
        assert list(together.see(one)) == [found for fold in apart.folds for found in fold.see(one)]
    assert together.snapshot() == apart.snapshot()


@given(
    st.one_of(
        st.ip_addresses(v=4).map(str),
        st.lists(st.sampled_from(["0", "00", "01", "1", "255", "256", "", " 1", "٣", "+1", "1_0"]), max_size=5).map(
            ".".join
        ),
        st.ip_addresses().map(str),
    ),
    st.sampled_from([16, 24, 32]),
)
def test_a_network_is_what_a_parser_of_addresses_makes_of_it(ip, length):
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        assert network(ip, length, 64) == ""
        return
    address = getattr(address, "ipv4_mapped", None) or address
    whole = ipaddress.ip_network((address, length if address.version == 4 else 64), strict=False)
    assert network(ip, length, 64) == (str(address) if whole.num_addresses == 1 else str(whole))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_only_a_verified_identity_is_ever_a_subject_and_evidence_is_bounded(seed):
    detectors, verified, ids = Detectors(key=KEY), set(), set()
    for each in life(seed, 600, days=3):
        ids.add(each["event_id"])
        if "subject" in each:
            verified.add(each["subject"]["id"])
        for found in detectors.observe(each, 2**62):
            assert found.subject is None or found.subject == each["subject"]["id"]
            assert found.subject is None or found.subject in verified
            assert 1 <= len(found.evidence) <= MAX_EVIDENCE
            assert set(found.evidence) <= ids
            assert any(letter.isdigit() for letter in found.explanation)


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_an_anonymous_caller_is_never_a_subject(seed):
    detectors = Detectors(key=KEY)
    for each in life(seed, 400, days=1):
        if "subject" in each:
            each["subject"] |= {"id": "anonymous:", "auth": "anonymous"}
        assert all(found.subject is None for found in detectors.observe(each, 2**62))


SMALL = {
    "unusual_time": "max_subjects",
    "unusual_volume": "max_subjects",
    "new_pair": "max_subjects",
    "enumeration": "max_callers",
    "privilege_probing": "max_subjects",
    "dormant_identity": "max_subjects",
}


def small_params():
    params = Params()
    for name, bound in SMALL.items():
        params = replace(params, **{name: replace(getattr(params, name), **{bound: 40})})
    stuffing = replace(params.credential_stuffing, max_sources=40, max_names=40, max_homes=40)
    extraction = replace(params.model_extraction, max_pairs=40, max_models=40)
    clients = replace(params.impossible_client_change, max_credentials=40, max_subjects=40)
    return replace(params, credential_stuffing=stuffing, model_extraction=extraction, impossible_client_change=clients)


def test_memory_is_bounded_whatever_keys_strangers_choose():
    detectors = Detectors(small_params(), KEY)
    sizes = []
    for number in range(6000):
        known = {"ip": f"2001:db8:{number:x}::1", "token": f"t{number}", "resource": f"model/{number}"}
        denied = {"allowed": number % 2 == 0, "action": "deploy_model"}
        detectors.observe(event(at(0) + number, f"sub:{number}", **known, **denied), 2**62)
        detectors.observe(event(at(0) + number, None, claimed="x" * 2000 + str(number), **known), 2**62)
        if number in (2000, 5999):
            sizes.append(len(orjson.dumps(detectors.snapshot())))
    assert sizes[1] < 1.2 * sizes[0]
    rows = [
        len(part)
        for name in SMALL
        for table in detectors.snapshot()[name].values()
        if isinstance(table, dict)
        for part in table.values()
    ]
    assert max(rows) <= 40


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=300), st.integers(4, 12))
def test_a_table_never_holds_more_than_its_capacity_and_a_flood_leaves_what_stays(uses, capacity):
    table = Table(capacity)
    for key, stays in uses:
        if table.get(key) is None:
            table.put(key, key)
        if stays:
            table.settle(key)
        assert len(table) <= capacity
    table.put("victim", "v")
    table.settle("victim")
    for number in range(1000):
        table.put(f"flood-{number}", "f")
    assert table.get("victim") == "v"
    assert len(table) <= capacity


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_events_a_little_out_of_order_change_no_alarm_of_another_kind(seed):
    """Two workers' logs are read in turns: what is late by seconds counts all the same."""
    events = list(life(seed, 500, days=2))
    chance = random.Random(seed)
    shuffled = [each for _, each in sorted(enumerate(events), key=lambda pair: pair[0] + chance.uniform(0, 3))]

    def kinds(made):
        detectors = Detectors(key=KEY)
        return {(f.detector, f.subject, f.source) for e in made for f in detectors.observe(e, 2**62)}

    straight, turned = kinds(events), kinds(shuffled)
    assert {kind for kind, _, _ in straight} >= {kind for kind, _, _ in turned} - {"privilege_probing"}


@given(st.sets(st.integers(0, 10**9), max_size=3000), st.sets(st.integers(0, 10**9), max_size=3000))
@settings(max_examples=40, deadline=None)
def test_sketches_count_within_five_standard_errors_and_merge_as_sets_do(one, other):
    first, second, both = Distinct(), Distinct(), Distinct()
    for number in one:
        first.add(digest(str(number), KEY))
        both.add(digest(str(number), KEY))
    for number in other:
        second.add(digest(str(number), KEY))
        both.add(digest(str(number), KEY))
    assert abs(len(first) - len(one)) <= max(5 * 0.065 * len(one), 3)
    first.merge(second)
    assert first.pack() == both.pack()
    assert len(first) == len(both)
    first.merge(second)
    assert first.pack() == both.pack()


def test_sketches_count_as_a_known_library_does():
    theirs, ours = datasketches.hll_sketch(8, datasketches.HLL_8), Distinct()
    for number in range(50_000):
        theirs.update(number)
        ours.add(digest(str(number), KEY))
    assert abs(len(ours) - theirs.get_estimate()) < 0.25 * 50_000
    assert abs(len(ours) - 50_000) < 0.2 * 50_000


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
def test_a_baseline_only_tightens_with_what_is_usual_and_learns_at_most_a_doubling_a_day(peaks):
    limits, baseline = Limits(floor=10), Baseline(0)
    before = 0
    for day, peak in enumerate(peaks):
        baseline.note(day, peak, limits)
        warm = baseline.is_warm(limits)
        baseline.note(day + 1, 0, limits)
        if warm:
            assert baseline.most <= max(2 * max(before, limits.floor), 1)
        before = baseline.most
        assert baseline.threshold(limits) >= limits.floor
        assert Baseline.unpack(json.loads(json.dumps(baseline.pack()))).pack() == baseline.pack()


def test_peers_know_their_quantiles():
    peers = Peers()
    for peak in range(1, 1001):
        peers.note(0, peak)
    assert peers.quantile(0.5) == pytest.approx(500, rel=0.2)
    assert peers.quantile(0.99) == pytest.approx(990, rel=0.2)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x, max_size=4),
        max_leaves=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_state_is_told_and_leaves_what_was(damage):
    detectors = Detectors(key=KEY)
    for each in life(1, 50):
        detectors.observe(each, 2**62)
    before = detectors.snapshot()
    state = dict.fromkeys(before, damage) | {"version": 1}
    assert set(detectors.restore(state)) == set(before) - {"version"}
    assert detectors.snapshot() == before
    for fold in detectors.folds:
        with pytest.raises(SnapshotError):
            fold.restore({"keys": damage})


@given(
    st.dictionaries(
        st.sampled_from(
            ["schema", "time", "subject", "context", "resource", "event_id", "claimed_subject", "action", "reason"]
        ),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=4),
            lambda x: (
                st.lists(x, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["id", "ip", "type", "attributes", "batch_size", "query"]), x, max_size=3
                )
            ),
            max_leaves=6,
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_no_event_whatever_breaks_a_detector(made):
    detectors = Detectors(key=KEY)
    detectors.observe(made | {"schema": "ext_authz.decision/1"}, at(0) * 10**9)
    detectors.observe(made | {"schema": "ext_authz.decision/1", "decision": "allow"}, at(0) * 10**9)
