"""Counts over everybody, of several hosts: who tells, what a partition costs, what a stranger can do."""

import zlib

import orjson
import pytest
from shelves import MemoryShelf

from ext_authz.monitor.detectors import Detectors, Params
from ext_authz.monitor.detectors.others import GRACE, MAX_PARTS
from ext_authz.monitor.fleet import LASTS_SECONDS, MOST_HOSTS, RENEW_SECONDS, Exchange
from ext_authz.monitor.risk import SECOND, Response, RiskBook
from ext_authz.server.watching import input_key
from ext_authz.state.opening import fleet_key, open_shelf
from ext_authz.state.settings import StateSettings
from tests.support.monitor_events import at, event, feed

KEY = b"f" * 32
NOON = at(3)
NOW = NOON * SECOND + 600 * SECOND
NOON_NAMES = 30
"""Below the limit of 40 names in an hour; twice that is above."""


def host(number=0, key=KEY):
    return Detectors(Params(), b"own-%d" % number, key)


def guesses(begin, count, second=NOON):
    return [
        event(second + n % 500, None, claimed=f"user-{n}", ip=f"203.0.{n % 20}.9") for n in range(begin, begin + count)
    ]


def told_by(*hosts, now=NOW):
    """Return what the hosts `a`, `b`, … tell."""
    return {"abcdef"[place]: orjson.loads(orjson.dumps(each.shared(now))) for place, each in enumerate(hosts)}


def halves():
    one, two = host(1), host(2)
    assert feed(one, guesses(0, NOON_NAMES)) == feed(two, guesses(NOON_NAMES, NOON_NAMES)) == []
    return one, two


def test_half_of_an_attack_at_each_of_two_hosts_is_seen_by_one_of_them():
    one, two = halves()
    told = told_by(one, two)
    (found,) = one.hear(told, "a", NOW)
    assert (found.detector, found.subject, found.source, found.at_ns) == ("credential_stuffing", None, None, NOW)
    names, sources = (int(word) for word in found.explanation.split() if word.isdigit() and int(word) > 5)
    assert abs(names - 60) < 10
    assert abs(sources - 20) < 5
    assert "at 2 hosts together (limit 40)" in found.explanation
    assert found.evidence
    assert one.hear(told, "a", NOW) == ()
    assert two.hear(told_by(one, two), "b", NOW + 60 * SECOND) == (), "it knows that the other has told"
    assert feed(two, guesses(60, 5, NOON + 700)) == []


def test_the_next_failure_shows_it_too_and_not_twice():
    one, _ = halves()
    lone = host(3)
    feed(lone, guesses(0, 5))
    assert lone.hear(told_by(one), "0", NOW) == (), "30 of 40"
    (found,) = feed(lone, guesses(60, 16))
    assert found.explanation.startswith("credentials for about 4")
    assert feed(lone, guesses(76, 5)) == []


def test_a_host_whose_turn_it_is_not_tells_when_the_other_stays_silent():
    one, two = halves()
    told = told_by(one, two)
    assert two.hear(told, "b", NOW) == ()
    assert two.hear(told, "b", NOW + (GRACE - 1) * SECOND) == ()
    (found,) = two.hear(told, "b", NOW + GRACE * SECOND)
    assert found.subject is None
    assert two.hear(told, "b", NOW + 2 * GRACE * SECOND) == ()


def test_a_host_that_saw_nothing_of_it_tells_nothing():
    one, two = halves()
    idle = host(3)
    assert idle.hear(told_by(one, two), "0", NOW) == ()
    assert idle.shared(NOW) == {}


def test_what_is_merged_is_nobodys_risk_and_no_quarantine_whatever_the_response():
    one, two = halves()
    (found,) = one.hear(told_by(one, two), "a", NOW)
    book = RiskBook(None, {"credential_stuffing": Response.QUARANTINE})
    verdict = book.take(found, NOW, {})
    assert (verdict.risk, verdict.quarantine, verdict.withheld) == (None, None, None)
    assert len(book) == 0


def test_a_partition_leaves_a_host_what_it_sees_alone_and_heals():
    one, two = halves()
    assert two.hear(told_by(one), "b", NOW) == ()
    assert two.hear({}, "b", NOW) == ()
    assert two.hear({}, "b", NOW + 60 * SECOND) == (), "apart, nobody's count is too high"
    alone = feed(two, guesses(60, 25))
    assert len(alone) == 1, "its own limit is what it was"
    assert "hosts together" not in alone[0].explanation
    three = host(3)
    feed(three, guesses(0, 15))
    assert three.hear(told_by(two), "0", NOW + 90 * SECOND) == (), "healed: the other has told already"


def test_what_is_usual_for_the_fleet_is_learned_apart_from_what_is_usual_here():
    one = host(1)
    for day in range(5):
        second = at(day)
        feed(one, guesses(0, 10, second))
        other = host(2)
        feed(other, guesses(10, 90, second))
        one.hear(told_by(other, now=(second + 600) * SECOND), "b", (second + 600) * SECOND)
    again = host(1)
    again.restore(orjson.loads(orjson.dumps(one.snapshot())))
    stuffing = next(fold for fold in again.folds if fold.name == "credential_stuffing")
    hour = stuffing.spreads[0]
    assert 80 < hour.union.baseline.most < 130
    assert hour.baseline.most < 15
    assert hour.union.baseline.threshold(stuffing.params.spread) > 200


def test_another_key_or_version_and_damage_count_for_nothing():
    one, two = halves()
    told = told_by(one, two)["b"]
    hour = told["credential_stuffing"][0]
    bad = [
        {**told, "version": 2},
        {**told, "credential_stuffing": "x"},
        {**told, "credential_stuffing": [hour[:4]]},
        {**told, "credential_stuffing": [[*hour[:3], "zz" * 256, hour[4]]]},
        {**told, "credential_stuffing": [[*hour[:3], "ff" * 256, hour[4]]]},
        {**told, "credential_stuffing": [[hour[0], -1, *hour[2:]]]},
        {**told, "credential_stuffing": [hour] * (MAX_PARTS + 1)},
    ]
    for each in bad:
        assert one.hear({"b": each}, "a", NOW) == ()
    assert len(one.hear({"b": told}, "a", NOW)) == 1


def test_windows_that_are_over_are_not_told():
    one, _ = halves()
    assert [each[0] for each in one.shared(NOW)["credential_stuffing"]] == ["hour", "day"]
    assert [each[0] for each in one.shared(NOW + 3600 * SECOND)["credential_stuffing"]] == ["day"]
    assert one.shared(NOW + 86_400 * SECOND) == {}


def crowd(day, begin, count):
    """Return queries of thirty accounts with a few inputs each that nobody sent before."""
    return [
        event(at(day) + n % 3000, f"sub:{n % 30}-{begin}", resource="model/0", input=f"{day}-{n}")
        for n in range(begin, begin + count)
    ]


def test_a_model_copied_through_two_hosts_is_seen_by_the_fleet_once_it_knows_its_days():
    one, two = host(1), host(2)
    found = []
    for day in range(16):
        now = (at(day) + 3500) * SECOND
        size = 1400 if day == 15 else 60
        assert feed(one, crowd(day, 0, size)) == feed(two, crowd(day, 5000, size)) == []
        told = told_by(one, two, now=now)
        found += [one.hear(told, "a", now), two.hear(told, "b", now)]
    assert not any(found[:-2])
    ((seen,), nothing) = found[-2:]
    assert (seen.detector, seen.subject, seen.about) == ("model_extraction", None, "model/0")
    assert "2 hosts together" in seen.explanation
    assert nothing == ()


def test_at_most_so_many_models_are_told_and_names_of_none():
    one = host(1)
    for day, inputs in ((0, 1), (9, 3)):
        feed(
            one,
            [
                event(at(day) + i, "sub:a", resource=f"model/secret-{n}", input=str(i))
                for n in range(100)
                for i in range(inputs)
            ],
        )
    told = one.shared(at(9) * SECOND)
    assert len(told["model_extraction"]) == MAX_PARTS
    assert b"secret" not in orjson.dumps(told)
    assert len(zlib.compress(orjson.dumps(told))) < 64 * 1024


class Clock:
    def __init__(self):
        self.ns = NOW

    def __call__(self):
        return self.ns


@pytest.fixture
def world():
    return MemoryShelf(), Clock()


def test_a_host_that_went_away_counts_no_more_after_a_while(world):
    shelf, clock = world
    said = []
    one, two = (Exchange(lambda: shelf, clock_ns=clock, say=said.append) for _ in range(2))
    one.offer({"version": 1})
    one.look()
    two.look()
    assert set(two.heard()) == {one.me}
    shelf.fail = "away"
    clock.ns += (LASTS_SECONDS - 1) * SECOND
    two.look()
    assert set(two.heard()) == {one.me}, "an outage is no reason to forget at once"
    clock.ns += 2 * SECOND
    one.look()
    two.look()
    assert two.heard() == {}
    assert (two.failures, two.last_error) == (2, "away")
    shelf.fail = ""
    one.look()
    two.look()
    assert set(two.heard()) == {one.me}, "healed"
    assert sorted(said) == [
        *["counts are not shared with other hosts: away"] * 2,
        *["counts are shared with other hosts again"] * 2,
    ]


def settings_of(folder, name, secret=b"s" * 32):
    (folder / name).write_bytes(secret)
    (folder / name).chmod(0o600)
    return StateSettings.model_validate(
        {"backend": "redis", "url": "redis://127.0.0.1:1/0", "secret_file": folder / name}
    )


def test_keys_of_the_fleet_are_the_same_at_every_host_apart_by_purpose_and_none_without_a_secret(tmp_path):
    one, two = settings_of(tmp_path, "one"), settings_of(tmp_path, "two")
    assert fleet_key(one, "counts") == fleet_key(two, "counts")
    assert (
        len(
            {
                fleet_key(one, "counts"),
                fleet_key(one, "inputs"),
                fleet_key(settings_of(tmp_path, "o", b"t" * 32), "counts"),
            }
        )
        == 3
    )
    assert input_key(b"q" * 32, one) == input_key(b"r" * 32, two)
    alone = [
        StateSettings(),
        StateSettings.model_validate(
            {"backend": "redis", "url": "redis://127.0.0.1:1/0", "unsafe_unauthenticated": True}
        ),
    ]
    for each in alone:
        assert fleet_key(each, "counts") == b""
        assert open_shelf(each) is None
        assert input_key(b"q" * 32, each) != input_key(b"r" * 32, each)


def test_what_says_nothing_new_is_put_again_only_in_time(world, monkeypatch):
    shelf, clock = world
    one = Exchange(lambda: shelf, clock_ns=clock)
    moments = iter([1000.0, 1001.0, 1002.0, 1001.0 + RENEW_SECONDS, 2000.0])
    monkeypatch.setattr("ext_authz.monitor.fleet.time.monotonic", lambda: next(moments))
    puts = []
    monkeypatch.setattr(shelf, "give", lambda *each: puts.append(each))
    one.offer({"a": 1})
    for _ in range(2):
        one.look()
    assert len(puts) == 1
    one.offer({"a": 2})
    one.look()
    assert len(puts) == 2
    one.look()
    assert len(puts) == 2
    one.look()
    assert len(puts) == 3


def test_an_old_row_put_back_and_one_that_unpacks_to_very_much_are_not_heard(world):
    shelf, clock = world
    one, two = (Exchange(lambda: shelf, clock_ns=clock) for _ in range(2))
    one.offer({"n": 1})
    one.look()
    old = shelf.rows[one.me]
    clock.ns += SECOND
    one.offer({"n": 2})
    one.look()
    two.look()
    assert two.heard() == {one.me: {"n": 2}}
    shelf.rows[one.me] = old
    two.look()
    assert two.heard() == {one.me: {"n": 2}}
    shelf.rows[one.me] = (1e9, clock.ns + SECOND, zlib.compress(b'{"x": "' + b"x" * (1 << 22) + b'"}'))
    two.look()
    assert two.heard() == {one.me: {"n": 2}}
    shelf.rows["f" * 32] = (1e9, clock.ns + 10 * LASTS_SECONDS * SECOND, zlib.compress(b'{"n": 3}'))
    two.look()
    assert set(two.heard()) == {one.me}, "of a time that is not now"


def test_many_hosts_that_are_none_fill_no_memory(world):
    """Whoever has the secret can name a hundred new ones at every look, each with a row of very many small values."""
    shelf, clock = world
    one = Exchange(lambda: shelf, clock_ns=clock)
    for turn in range(5):
        clock.ns += SECOND
        for number in range(MOST_HOSTS):
            shelf.give(f"{turn * MOST_HOSTS + number:032x}", clock.ns, zlib.compress(b'{"version": 1}'), 1000)
        one.look()
    assert len(one.heard()) == len(one._known) == MOST_HOSTS
    for row in (b'{"version": 1, "x": [' + b"[]," * 80_000 + b"1]}", b'{"x": [' + b"{}," * 80_000 + b"1]}"):
        shelf.give("f" * 32, clock.ns + 1, zlib.compress(row), 1000)
        one.look()
        assert "f" * 32 not in one.heard()


def test_what_a_host_tells_at_most_is_heard(world):
    shelf, clock = world
    teller, hearer = (Exchange(lambda: shelf, clock_ns=clock) for _ in range(2))
    full = [[f"{number:032x}", 20_000, False, "00" * 256, "39" * 256] for number in range(MAX_PARTS)]
    teller.offer({"version": 1, "model_extraction": full, "credential_stuffing": full[:2]})
    teller.look()
    hearer.look()
    assert len(hearer.heard()[teller.me]["model_extraction"]) == MAX_PARTS
