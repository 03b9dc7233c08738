"""Each detector fires on its attack and is silent on benign traffic with days, weeks and bursts in it."""

import itertools
import random

import orjson
import pytest

from ext_authz.audit.decision import decision_event
from ext_authz.model import Auth, Decision, Identity, Outcome, Reason, Refusal
from ext_authz.monitor.detectors import NAMES, Detectors, Params, Severity
from ext_authz.monitor.detectors.clients import ImpossibleClientChange
from ext_authz.monitor.detectors.credentials import CredentialStuffing
from ext_authz.monitor.detectors.denials import Enumeration, PrivilegeProbing
from ext_authz.monitor.detectors.extraction import ModelExtraction
from ext_authz.monitor.detectors.seen import event_ns, network, seen
from ext_authz.monitor.detectors.sketch import Distinct, registers_of_many
from ext_authz.monitor.detectors.subjects import DormantIdentity, NewPair
from ext_authz.monitor.detectors.table import Quota
from ext_authz.monitor.detectors.times import UnusualTime
from ext_authz.monitor.detectors.volume import UnusualVolume
from tests.support.monitor_events import at, event, feed, working_days

KEY = b"k" * 32


def failures(count, begin, step=1.0, names=10**6, **parts):
    for number in range(count):
        made = {"claimed": f"user-{number % names}", **parts}
        yield event(begin + step * number, None, **{k: v(number) if callable(v) else v for k, v in made.items()})


def inputs(count, begin, step=1.0, subject="sub:alice", **parts):
    for number in range(count):
        yield event(begin + step * number, subject, input=f"{begin}-{subject}-{number}", **parts)


def test_a_night_visit_of_who_works_by_day_is_unusual():
    detector = UnusualTime()
    assert feed(detector, working_days(range(28))) == []
    visit = [event(at(29, 3) + 60 * number, ip="198.51.100.7") for number in range(5)]
    (found,) = feed(detector, visit)
    assert (found.detector, found.subject, found.source) == ("unusual_time", "sub:alice", "198.51.100.7")
    assert "Tuesday at 03:00 UTC" in found.explanation
    assert "20 days" in found.explanation
    assert found.evidence == tuple(each["event_id"] for each in visit[:3])
    assert found.at_ns == event_ns(visit[2]["time"])


def test_one_request_at_night_is_no_visit_and_a_visit_is_reported_once():
    detector = UnusualTime()
    feed(detector, working_days(range(28)))
    assert feed(detector, [event(at(29, 3)), event(at(29, 3) + 60)]) == []
    night = [event(at(30, hour) + 60 * number) for hour in (2, 3, 4) for number in range(9)]
    assert len(feed(detector, night)) == 1


def test_weekends_late_hours_and_round_the_clock_services_are_usual_where_they_are_a_habit():
    detector = UnusualTime()
    service = [event(at(day, hour) + n, "spiffe://ml/x") for day in range(40) for hour in range(24) for n in range(3)]
    assert feed(detector, service) == []
    late = working_days(range(40), (9, 10, 14, 17, 18, 19), subject="sub:bob")
    assert feed(detector, late) == []


def test_many_requests_at_an_odd_hour_weigh_more_than_few_and_many_at_a_usual_hour_weigh_nothing():
    def lived():
        detector = UnusualTime()
        odd = [day for day in range(56) if day % 14 == 3]
        for day in range(56):
            feed(detector, working_days([day], (9, 10, 11, 13, 14, 15, 16)))
            feed(detector, [event(at(day, 21) + 60 * number) for number in range(4)] if day in odd else [])
        return detector

    few = [event(at(57, 21) + 60 * number) for number in range(4)]
    many = [event(at(57, 21) + 10 * number) for number in range(200)]
    usual = [event(at(57, 10) + 10 * number) for number in range(200)]
    assert feed(lived(), few) == []
    (found,) = feed(lived(), many)
    assert "requests so far" in found.explanation
    assert feed(lived(), usual) == []


def test_two_odd_hours_on_end_weigh_more_than_one_and_more_than_two_apart():
    def visit(hours):
        detector = UnusualTime()
        for day in range(56):
            feed(detector, working_days([day], (9, 10, 11, 13, 14, 15, 16)))
            feed(detector, [event(at(day, 20) + 60 * number) for number in range(4)] if day % 14 == 3 else [])
        return [found.at_ns for hour in hours for found in feed(detector, minutes(hour))]

    def minutes(hour):
        return [event(at(57, hour) + 100 * number) for number in range(4)]

    assert visit([21]) == visit([22]) == visit([20, 22]) == []
    assert len(visit([21, 22])) == 1


def test_who_comes_to_a_model_once_a_week_is_held_to_what_it_did_there():
    detector = ModelExtraction(key=KEY)
    for day in range(28):
        for who in range(4):
            feed(detector, inputs(60, at(day, 9), 1, f"sub:busy-{who}", batch=64))
    for day in (0, 7, 14, 21):
        assert feed(detector, inputs(40, at(day, 9), 1)) == []
    found = feed(detector, inputs(2000, at(28, 9)))
    assert [each.subject for each in found] == ["sub:alice"]
    assert feed(detector, inputs(2000, at(28, 9), 1, "sub:new")) == []


def test_a_new_subject_has_no_unusual_time():
    detector = UnusualTime()
    feed(detector, working_days(range(9)))
    assert feed(detector, [event(at(9, 3) + 60 * number) for number in range(9)]) == []


def test_a_burst_beyond_its_own_busiest_hours_is_unusual():
    detector = UnusualVolume()
    assert feed(detector, working_days(range(21), requests=40)) == []
    burst = [event(at(22, 10) + number) for number in range(600)]
    (found,) = feed(detector, burst)
    assert (found.detector, found.subject, found.about) == ("unusual_volume", "sub:alice", "model")
    assert "201 requests" in found.explanation
    assert "at most 40 in an hour" in found.explanation
    assert set(found.evidence) <= {each["event_id"] for each in burst}


def test_a_weekly_batch_job_is_usual():
    detector = UnusualVolume()
    made = []
    for day in range(56):
        made += [event(at(day, 10) + number, "key:batch") for number in range(30)]
        if day % 7 == 6:
            made += [event(at(day, 3) + number, "key:batch") for number in range(900)]
    first_batch = feed(detector, made[: 30 * 7 + 900])
    assert first_batch == []
    assert feed(detector, made[30 * 7 + 900 :]) == []


def test_a_new_subject_is_judged_by_its_peers():
    detector = UnusualVolume()
    chance = random.Random(1)
    for day in range(10):
        for who in range(10):
            feed(detector, [event(at(day, 9) + n, f"sub:{who}") for n in range(chance.randrange(5, 20))])
    found = feed(detector, [event(at(10, 9) + number, "sub:new") for number in range(900)])
    assert [each.subject for each in found] == ["sub:new"]
    assert "it is new" in found[0].explanation


def test_ten_bad_tokens_for_five_names_from_one_source_are_stuffing():
    detector = CredentialStuffing(key=KEY)
    found = feed(detector, failures(30, at(0), 0.25, names=7, ip="203.0.113.9"))
    (first,) = found
    assert (first.subject, first.source, first.severity) == (None, "203.0.113.9", Severity.HIGH)
    assert first.claimed.startswith("user-")
    assert "10 credentials for 7 names" in first.explanation
    assert first.at_ns - at(0) * 10**9 <= 5 * 10**9


def test_a_client_that_retries_one_bad_token_is_no_stuffing():
    assert feed(CredentialStuffing(key=KEY), failures(600, at(0), names=1)) == []


def test_expired_tokens_of_an_office_are_no_stuffing():
    assert feed(CredentialStuffing(key=KEY), failures(200, at(0), reason="expired_token")) == []


def test_low_and_slow_from_one_source_is_stuffing_within_the_day():
    detector = CredentialStuffing(key=KEY)
    (found,) = feed(detector, failures(12, at(0, 1), 3600, ip="203.0.113.9"))
    assert "low and slow" in found.explanation


def test_many_sources_with_one_failure_each_are_stuffing_together():
    detector = CredentialStuffing(key=KEY)
    spread = failures(200, at(0), 10, ip=lambda n: f"203.0.{n % 250}.{n // 250}")
    found = feed(detector, spread)
    assert [(each.subject, each.source) for each in found] == [(None, None)]
    assert "sources" in found[0].explanation


def test_one_name_from_many_sources_is_reported_with_the_name_as_a_claim():
    detector = CredentialStuffing(key=KEY)
    found = feed(detector, failures(20, at(0), 60, names=1, ip=lambda n: f"203.0.{n}.1"))
    assert [(each.subject, each.claimed) for each in found] == [(None, "user-0")]


def test_an_outage_of_an_office_is_low():
    detector = CredentialStuffing(key=KEY)
    for number in range(60):
        feed(detector, [event(at(0) + number, f"sub:user-{number}", ip="192.0.2.1")])
    found = feed(detector, failures(60, at(1), 1, ip="192.0.2.1"))
    assert [each.severity for each in found] == [Severity.LOW]


def test_a_success_after_guessing_is_critical_for_the_source_and_nobody_else():
    detector = CredentialStuffing(key=KEY)
    feed(detector, failures(30, at(0), ip="203.0.113.9"))
    (found,) = feed(detector, [event(at(0) + 60, "sub:user-3", ip="203.0.113.9")])
    assert (found.subject, found.source, found.severity) == (None, "203.0.113.9", Severity.CRITICAL)


def test_thousands_of_distinct_inputs_are_extraction_and_repeated_ones_are_not():
    detector = ModelExtraction(key=KEY)
    for day in range(10):
        assert feed(detector, inputs(50, at(day, 10), 30)) == []
    same = [event(at(10, 10) + number, input="same") for number in range(3000)]
    assert feed(detector, same) == []
    (found,) = feed(detector, inputs(2000, at(11, 10)))
    assert (found.subject, found.about, found.severity) == ("sub:alice", "model/fraud", Severity.HIGH)
    assert "steady pace of a loop" in found.explanation
    assert found.at_ns < at(11, 10) * 10**9 + 600 * 10**9


def test_batches_count_their_inputs():
    detector = ModelExtraction(key=KEY)
    found = feed(detector, inputs(60, at(0), 1, batch=32))
    assert [each.subject for each in found] == ["sub:alice"]


def test_many_accounts_with_few_queries_each_are_extraction_together():
    detector = ModelExtraction(key=KEY)
    for day in range(11):
        for who in range(20):
            assert feed(detector, inputs(40, at(day, 9), 60, f"sub:{who}")) == []
    found = []
    for who in range(100):
        found += feed(detector, inputs(60, at(11, 1) + who * 60, 1, f"sub:bot-{who}"))
    assert [each.subject for each in found] == [None]
    assert "subjects, each" in found[0].explanation


def test_the_first_use_of_a_sensitive_resource_is_news_only_of_who_is_known():
    secret = {"resource": "model/secret", "attributes": {"sensitivity": "High"}}
    detector = NewPair(key=KEY)
    assert feed(detector, [event(at(0), "sub:new", **secret)]) == []
    feed(detector, working_days(range(21)))
    (found,) = feed(detector, [event(at(21), **secret), event(at(22), **secret)])
    assert "model/secret" in found.explanation
    assert feed(detector, [event(at(23), resource="model/other")]) == []
    (found,) = feed(detector, [event(at(23), action="deploy_model")])
    assert "deploy_model" in found.explanation


def test_a_denied_first_use_is_no_first_use():
    detector = NewPair(key=KEY)
    feed(detector, working_days(range(21)))
    assert feed(detector, [event(at(21), action="admin", allowed=False)]) == []


def test_many_denied_resources_are_enumeration():
    detector = Enumeration(key=KEY)
    denied = [event(at(0) + n, resource=f"model/{n}", allowed=False) for n in range(20)]
    (found,) = feed(detector, denied)
    assert (found.subject, found.severity) == ("sub:alice", Severity.MEDIUM)
    assert "10 distinct resources" in found.explanation
    again = [event(at(1) + n, "sub:bob", resource="model/x", allowed=False) for n in range(200)]
    assert feed(detector, again) == []


def test_slow_enumeration_is_seen_within_the_day():
    detector = Enumeration(key=KEY)
    denied = [event(at(0, 0) + 1800 * n, resource=f"model/{n}", allowed=False) for n in range(40)]
    assert len(feed(detector, denied)) == 1


def test_a_scanner_without_identity_is_known_by_its_source():
    detector = Enumeration(key=KEY)
    scan = [event(at(0) + n, None, reason="no_credentials", path=f"/{n}", ip="203.0.113.9") for n in range(40)]
    (found,) = feed(detector, scan)
    assert (found.subject, found.source) == (None, "203.0.113.9")


def test_denied_actions_in_rising_rank_are_probing():
    detector = PrivilegeProbing()
    up = ["read_metadata", "infer", "infer", "write_data", "deploy_model"]
    (found,) = feed(detector, [event(at(0) + 60 * n, action=each, allowed=False) for n, each in enumerate(up)])
    assert "`read_metadata`, `infer`, `write_data`" in found.explanation
    down = reversed(up)
    assert feed(detector, [event(at(1) + 60 * n, action=each, allowed=False) for n, each in enumerate(down)]) == []
    slow = [event(at(2 + n), "sub:bob", action=each, allowed=False) for n, each in enumerate(up)]
    assert feed(detector, slow) == []


def test_one_token_in_three_networks_at_once_is_impossible():
    detector = ImpossibleClientChange()
    places = itertools.cycle(["198.51.100.1", "203.0.113.1", "192.0.2.1"])
    (found,) = feed(detector, [event(at(0) + 5 * n, token="t1", ip=next(places)) for n in range(12)])
    assert (found.subject, found.severity) == ("sub:alice", Severity.HIGH)
    assert "3 networks" in found.explanation


def test_moving_and_known_networks_are_possible():
    detector = ImpossibleClientChange()
    moved = ["198.51.100.1"] * 5 + ["203.0.113.1"] * 5 + ["192.0.2.1"] * 5
    assert feed(detector, [event(at(0) + 30 * n, token="t1", ip=ip) for n, ip in enumerate(moved)]) == []
    regions = ["198.51.100.1", "203.0.113.1", "192.0.2.1"]
    feed(detector, [event(at(1) + 7200 * n, "key:batch", key="b", ip=ip) for n, ip in enumerate(regions)])
    places = itertools.cycle(regions)
    assert feed(detector, [event(at(3) + n, "key:batch", key="b", ip=next(places)) for n in range(50)]) == []


def test_one_api_key_with_two_certificates_to_and_fro_is_impossible_but_replicas_of_a_service_are_not():
    detector = ImpossibleClientChange()
    found = feed(detector, [event(at(0) + n, "key:b", key="b", certificate=f"c{n % 2}") for n in range(9)])
    assert len(found) == 1
    replicas = [event(at(0) + n, "spiffe://ml/x", auth="mtls", certificate=f"c{n % 9}") for n in range(99)]
    assert feed(detector, replicas) == []


def test_who_returns_after_a_long_silence_was_dormant():
    detector = DormantIdentity()
    feed(detector, working_days(range(14)))
    (found,) = feed(detector, [event(at(60)), event(at(60, 13))])
    assert "48 days" in found.explanation or "49 days" in found.explanation
    monthly = [event(at(30 * n), "sub:auditor") for n in range(12)]
    assert feed(detector, monthly) == []


def test_every_detector_is_in_the_set_and_can_be_left_out():
    assert tuple(Detectors().snapshot())[1:] == NAMES
    assert tuple(Detectors(Params(**dict.fromkeys(NAMES))).snapshot()) == ("version",)


def test_what_is_not_a_decision_is_passed_over():
    assert Detectors().observe({"schema": "ext_authz.state/1", "event_id": "w:1"}, 1) == ()


def test_an_event_of_the_server_is_read():
    identity = Identity("sub:alice", "alice", Auth.JWT, token_id="t")
    outcome = Outcome(Decision(True, Reason.ALLOWED), "d", "r", at(3) * 10**9, identity=identity)
    line = decision_event(outcome, log_id="w", seq=7, claims_read=frozenset())
    one = seen(orjson.loads(line), 2**62)
    assert (one.subject, one.second, one.event_id, one.allowed) == ("sub:alice", at(3), "w:7", True)
    refused = Outcome(
        Decision(False, Reason.INVALID_TOKEN),
        "d",
        "r",
        at(3) * 10**9,
        refusal=Refusal(Reason.INVALID_TOKEN, "x", "bob"),
    )
    one = seen(orjson.loads(decision_event(refused, log_id="w", seq=8, claims_read=frozenset())), 2**62)
    assert (one.subject, one.claimed, one.allowed) == ("", "bob", False)


@pytest.mark.parametrize("stamp", ["", "2026", "2026-13-01T00:00:00.000000Z", 7, None, "2026-01-01T00:00:xx.000000Z"])
def test_a_time_that_is_none_is_the_time_of_reading(stamp):
    assert event_ns(stamp) is None
    assert seen({"schema": "ext_authz.decision/1", "time": stamp}, 5).at_ns == 5


def test_networks():
    assert network("10.1.2.3", 16, 64) == "10.1.0.0/16"
    assert network("::ffff:10.1.2.3", 32, 64) == "10.1.2.3"
    assert network("2001:db8::1", 32, 64) == "2001:db8::/64"
    assert network("unix", 32, 64) == ""


@pytest.mark.parametrize("count", [65, 256, 1000, 10_000, 1_000_000])
def test_a_batch_of_any_size_adds_about_as_many_inputs_as_it_has_and_itself_only_once(count):
    chance = random.Random(count)
    sizes = [len(Distinct(registers_of_many(chance.getrandbits(64), count))) for _ in range(300)]
    assert abs(sum(sizes) / len(sizes) - count) < 0.06 * count
    both, first, second = Distinct(), chance.getrandbits(64), chance.getrandbits(64)
    both.merge_registers(registers_of_many(first, count))
    alone = both.registers
    both.merge_registers(registers_of_many(first, count))
    assert both.registers == alone
    both.merge_registers(registers_of_many(second, count))
    assert 1.4 * count < len(both) < 2.8 * count
    assert both.registers == Distinct(both.registers).registers


def test_names_beyond_an_owner_s_quota_are_refused_it_for_that_day_alone():
    quota = Quota(2, 10)
    assert [quota.may("a", 5) for _ in range(3)] == [True, True, False]
    assert quota.may("b", 5)
    again = Quota(2, 10)
    again.unpack(orjson.loads(orjson.dumps(quota.pack())))
    assert not again.may("a", 5)
    assert not again.may("a", 4), "an older day begins nothing anew"
    assert again.may("a", 6)
