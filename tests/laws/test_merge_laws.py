"""Laws of merging what several hosts saw: sets of names, sources and inputs, so order and repetition change nothing."""

import json
import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.monitor.detectors.credentials import CredentialStuffing
from ext_authz.monitor.detectors.extraction import ModelExtraction
from ext_authz.monitor.detectors.others import groups_of
from ext_authz.monitor.detectors.seen import event_ns
from ext_authz.monitor.detectors.sketch import Distinct
from tests.support.monitor_events import at, event, feed

KEY = b"k" * 32


def guesses(seed, count):
    chance = random.Random(seed)
    for _ in range(count):
        name, source = chance.randrange(400), chance.randrange(40)
        yield event(at(3, chance.choice((12.0, 12.9, 13.1))), None, claimed=f"user-{name}", ip=f"203.0.113.{source}")


def queries(seed, count):
    chance = random.Random(seed)
    for _ in range(count):
        who, model, what = chance.randrange(12), chance.randrange(3), chance.randrange(400)
        known = {"resource": f"model/{model}", "input": str(what), "batch": chance.choice((1, 1, 1, 40))}
        yield event(at(9, chance.choice((12.0, 13.1, 25.0))), f"sub:{who}", **known)


def stuffing(events):
    made = CredentialStuffing(key=KEY)
    feed(made, sorted(events, key=lambda each: each["time"]))
    return made


def extraction(events):
    made = ModelExtraction(key=KEY)
    # Known for more than a week: what is beyond the usual counts at once.
    feed(made, [event(at(day), "sub:0", resource=f"model/{model}") for day in range(9) for model in range(3)])
    feed(made, sorted(events, key=lambda each: each["time"]))
    return made


def spreads(made):
    return {each.length: (each.window, each.names.pack(), each.sources.pack()) for each in made.spreads}


def models(made):
    return {about: (each.baseline.day, each.beyond.pack(), each.subjects.pack()) for about, each in made.models()}


KINDS = pytest.mark.parametrize(
    ("make", "shared"), [(stuffing, spreads), (extraction, models)], ids=["credential_stuffing", "model_extraction"]
)


PARTS = st.tuples(st.integers(0, 10**6), st.integers(1, 60))


def events_of(make, part):
    return list((guesses if make is stuffing else queries)(*part))


@KINDS
@given(st.tuples(PARTS, PARTS, PARTS))
@settings(max_examples=15, deadline=None)
def test_merging_is_commutative_associative_and_idempotent(make, shared, parts):
    def fresh():
        return [make(events_of(make, part)) for part in parts]

    one, two, three = fresh()
    windows = [{about: seen[0] for about, seen in shared(made).items()} for made in (one, two, three)]
    same = {about for about in windows[0] if len({each.get(about) for each in windows}) == 1}
    one.merge(two)
    one.merge(three)
    known = shared(one)
    backward, middle, last = fresh()
    middle.merge(last)
    last.merge(fresh()[1])
    last.merge(backward)
    backward.merge(middle)
    for about in same:
        assert known[about] == shared(backward)[about] == shared(last)[about]
    one.merge(two)
    one.merge(one)
    assert shared(one) == known


@KINDS
@given(PARTS, PARTS)
@settings(max_examples=15, deadline=None)
def test_what_was_merged_is_never_less_and_what_is_not_shared_stays(make, shared, first, second):
    ours, theirs = events_of(make, first), events_of(make, second)
    merged, before, other = make(ours), make(ours), make(theirs)
    kept = orjson.dumps(other.snapshot())
    merged.merge(other)
    assert orjson.dumps(other.snapshot()) == kept
    for name, state in before.snapshot().items():
        if name in ("sources", "names", "homes", "uses"):
            assert merged.snapshot()[name] == state
    for about, (_, *less) in shared(before).items():
        _, *more = shared(merged)[about]
        pairs = zip(map(bytes.fromhex, less), map(bytes.fromhex, more), strict=True)
        assert all(one <= other for pair in pairs for one, other in zip(*pair, strict=True))


@KINDS
@given(PARTS, PARTS)
@settings(max_examples=15, deadline=None)
def test_merging_restored_states_is_merging_the_states(make, shared, first, second):
    ours, theirs = make(events_of(make, first)), make(events_of(make, second))
    restored = []
    for made in (ours, theirs):
        again = type(made)(key=KEY)
        again.restore(json.loads(orjson.dumps(made.snapshot())))
        restored.append(again)
    ours.merge(theirs)
    restored[0].merge(restored[1])
    assert restored[0].snapshot() == ours.snapshot()
    third = type(ours)(key=KEY)
    third.restore(json.loads(orjson.dumps(ours.snapshot())))
    assert shared(third) == shared(ours)


def test_a_botnet_that_no_host_notices_alone_is_noticed_once_they_merge():
    guess = [event(at(3) + n, None, claimed=f"user-{n}", ip=f"203.0.{n % 20}.9") for n in range(60)]
    one, two = CredentialStuffing(key=KEY), CredentialStuffing(key=KEY)
    assert feed(one, guess[:30]) == []
    assert feed(two, guess[30:]) == []
    one.merge(two)
    found = feed(one, [event(at(3) + 70, None, claimed="user-0", ip="203.0.0.9")])
    assert [(each.subject, each.source) for each in found] == [(None, None)]
    assert abs(int(found[0].explanation.split()[3]) - 60) < 10


def test_a_host_that_never_saw_a_model_learns_what_others_saw_of_it_and_does_not_judge_it_yet():
    crowd = [event(at(9) + n, f"sub:{n % 30}", resource="model/0", input=str(n)) for n in range(2900)]
    busy, idle = extraction(crowd), ModelExtraction(key=KEY)
    idle.merge(busy)
    assert models(idle) == models(busy)
    assert len(dict(busy.models())["model/0"].beyond) > 2000
    more = [event(at(9) + 3000 + n, f"sub:{n % 30}", resource="model/0", input=f"new{n}") for n in range(300)]
    assert feed(idle, more) == []


def together(made):
    """Return what a host holds of all hosts' windows, by name and window."""
    if isinstance(made, CredentialStuffing):
        unions = {(each.length, each.window): each.union for each in made.spreads}
    else:
        unions = {(about, each.baseline.day): each.union for about, each in made.models() if each.union is not None}
    return {window: (each.one.pack(), each.two.pack()) for window, each in unions.items() if each.hosts}


@KINDS
@given(PARTS, st.integers(2, 4), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_what_hosts_tell_each_other_is_the_whole_whoever_saw_which_part(make, shared, all_of_it, hosts, seed):
    """However events are dealt out, and however often it is told, each host's window of everybody is the whole's."""
    chance = random.Random(seed)
    events = events_of(make, all_of_it)
    dealt = [[] for _ in range(hosts)]
    for each in events:
        dealt[chance.randrange(hosts)].append(each)
    now_ns = max(event_ns(each["time"]) for each in events)
    parts = [make(each) for each in dealt]
    told = [(str(place), json.loads(orjson.dumps(each.shared(now_ns)))) for place, each in enumerate(parts)]
    for place, each in enumerate(parts):
        others = [one for one in told if one[0] != str(place)]
        for repeated in ([], others, others, others[::-1]):
            each.hear(groups_of(repeated), str(place), now_ns)
        whole = {}
        for other in parts:
            for about, (window, one, two) in shared(other).items():
                if (about, window) in whole or shared(each).get(about, [None])[0] == window:
                    known = whole.setdefault((about, window), (Distinct(), Distinct()))
                    known[0].merge(Distinct.unpack(one))
                    known[1].merge(Distinct.unpack(two))
        for window, held in together(each).items():
            assert held == tuple(sketch.pack() for sketch in whole[window])
    if make is stuffing:
        one = stuffing(events)
        for each in parts:
            for window, held in together(each).items():
                straight = {(length, number): sketches for length, (number, *sketches) in spreads(one).items()}
                assert list(held) == straight[window], "and exactly what one host that sees everything has"
