"""Attacks on the detectors themselves: poisoning, flooding, hiding among others, and making others look guilty."""

import itertools

import orjson

from ext_authz.monitor.alerts import AlertParams, Alerts
from ext_authz.monitor.detectors import Detectors, Params, Severity
from ext_authz.monitor.detectors.clients import ImpossibleClientChange
from ext_authz.monitor.detectors.credentials import CredentialParams, CredentialStuffing
from ext_authz.monitor.detectors.extraction import ExtractionParams, ModelExtraction
from ext_authz.monitor.detectors.finding import Finding
from ext_authz.monitor.detectors.times import UnusualTime
from ext_authz.monitor.detectors.volume import UnusualVolume, VolumeParams
from tests.support.monitor_events import at, event, feed, working_days

KEY = b"k" * 32
NOW_NS = at(30) * 10**9


def hour_of(day, count, subject="sub:mallory"):
    return [event(at(day, 10) + number * 3600 / count, subject) for number in range(count)]


def test_a_baseline_poisoned_by_a_slow_ramp_still_gives_an_alarm():
    """1.3 times more each day never is three times the most before; the anchor sees it."""
    detector = UnusualVolume()
    count, found = 60.0, []
    for day in range(14):
        assert feed(detector, hour_of(day, 60)) == []
    for day in range(14, 50):
        count *= 1.3
        found = feed(detector, hour_of(day, round(count)))
        if found:
            break
    assert found
    assert count < 60 * 200


def test_one_day_of_excess_does_not_make_the_next_usual():
    detector = UnusualVolume()
    for day in range(14):
        feed(detector, hour_of(day, 60))
    assert feed(detector, hour_of(14, 5000))
    assert feed(detector, hour_of(15, 5000))


def test_single_requests_at_night_do_not_teach_that_nights_are_usual():
    detector = UnusualTime()
    for day in range(28):
        feed(detector, working_days([day]))
        feed(detector, [event(at(day, 3)), event(at(day, 3.2))] if day % 7 == 1 else [])
    assert feed(detector, [event(at(29, 3) + 60 * number) for number in range(5)])


def test_a_flood_of_subjects_evicts_nobody_who_was_here_on_two_days():
    detector = UnusualVolume(VolumeParams(max_subjects=100))
    for day in range(14):
        feed(detector, hour_of(day, 60, "sub:victim"))
        feed(detector, [event(at(day, 12) + number, f"sub:{day}-{number}") for number in range(300)])
    assert [each.subject for each in feed(detector, hour_of(14, 5000, "sub:victim"))] == ["sub:victim"]


def test_a_flood_of_sources_does_not_hide_a_source_that_guesses():
    detector = CredentialStuffing(CredentialParams(max_sources=100), KEY)
    found, sent = [], 0
    for number in range(10):
        for _ in range(2):
            found += feed(detector, [event(at(0) + sent, None, claimed=f"user-{number}-{sent}", ip="203.0.113.9")])
            sent += 1
        flood = [event(at(0) + sent, None, claimed="", ip=f"198.51.{n // 250}.{n % 250}") for n in range(20)]
        feed(detector, flood)
    assert [each.source for each in found] == ["203.0.113.9"]


def test_hopping_through_a_prefix_of_one_s_own_is_one_source():
    detector = CredentialStuffing(key=KEY)
    hops = [event(at(0) + n, None, claimed=f"user-{n}", ip=f"2001:db8:1:2::{n:x}") for n in range(20)]
    assert [each.source for each in feed(detector, hops)] == ["2001:db8:1:2::/64"]


def test_nobody_is_made_guilty_by_being_named():
    """A thousand bad credentials, attacks of every kind in the victim's name: no finding has the victim as subject."""
    detectors = Detectors(key=KEY)
    feed(detectors, working_days(range(28), subject="sub:victim", ip="192.0.2.1"))
    found = []
    for number in range(1000):
        made = event(
            at(28, 3) + number, None, claimed=("victim", "sub:victim", f"u{number}")[number % 3],
            ip=f"203.0.{number % 50}.9", reason=("invalid_token", "no_credentials", "no_route", "revoked")[number % 4],
            path=f"/v2/models/{number}/infer",
        )  # fmt: skip
        found += detectors.observe(made, 2**62)
    assert found
    assert {each.subject for each in found} == {None}
    assert feed(detectors, working_days([28], subject="sub:victim", ip="192.0.2.1")) == []


def test_guessing_from_the_victim_s_own_network_does_not_turn_the_victim_s_login_into_an_alarm():
    detector = CredentialStuffing(key=KEY)
    feed(detector, [event(at(0), "sub:victim", ip="192.0.2.1"), event(at(0, 15), "sub:victim", ip="192.0.2.1")])
    guesses = [event(at(1) + n, None, claimed=f"user-{n}", ip="192.0.2.1") for n in range(30)]
    assert [each.severity for each in feed(detector, guesses)] == [Severity.HIGH]
    assert feed(detector, [event(at(1, 13), "sub:victim", ip="192.0.2.1")]) == []


def test_an_attacker_beside_the_victims_does_not_hide_behind_their_habit_of_succeeding():
    detector = CredentialStuffing(key=KEY)
    feed(detector, [event(at(0) + n, f"sub:user-{n}", ip="192.0.2.1") for n in range(60)])
    found = feed(detector, [event(at(1) + n, None, claimed=f"user-{n}", ip="192.0.2.1") for n in range(60)])
    assert [each.source for each in found] == ["192.0.2.1"]


def test_a_stolen_token_is_not_made_at_home_by_the_thief_in_a_minute():
    detector = ImpossibleClientChange()
    feed(detector, [event(at(day), token="t", ip="192.0.2.1") for day in range(5)])
    thief = [
        event(at(5) + n, token="t", ip=("192.0.2.1", "203.0.113.1", "198.51.100.1", "100.64.0.1")[n % 4])
        for n in range(20)
    ]
    assert [each.subject for each in feed(detector, thief)] == ["sub:alice"]


def test_an_event_from_the_future_does_not_blind_the_detectors():
    """A host with a wrong clock: its events count as of now, and the hours that follow are judged as ever."""
    detector = UnusualVolume()
    for day in range(14):
        for each in hour_of(day, 60):
            detector.observe(each, at(day, 11) * 10**9)
    future = event(at(4000), "sub:mallory")
    assert detector.observe(future, at(14, 9) * 10**9) == ()
    assert [f for each in hour_of(14, 5000) for f in detector.observe(each, at(14, 11) * 10**9)]


def test_a_model_copied_in_a_few_huge_batches_is_seen_as_soon_as_their_inputs_are_many():
    """A batch of thousands once counted as 64 inputs, so that sixteen requests carried a million past the detector."""
    detector = ModelExtraction(key=KEY)
    sent = [event(at(0, 9) + 60 * number, "sub:mallory", batch=5000, input=f"i{number}") for number in range(3)]
    assert [each.subject for each in feed(detector, sent)] == ["sub:mallory"]


def test_the_same_huge_batch_again_and_again_is_the_same_inputs():
    detector = ModelExtraction(key=KEY)
    assert feed(detector, [event(at(0, 9) + number, batch=600, input="same") for number in range(200)]) == []


def test_a_flood_of_alerts_that_strangers_raise_hides_none_that_is_graver():
    """From some forty addresses, then the credential that was found: it must be told at once, not in a summary."""
    detector, alerts = CredentialStuffing(key=KEY), Alerts()
    begin, told = at(0, 9), []
    for source in range(40):
        ip = f"203.0.113.{source}"
        guessed = [event(begin + n, None, claimed=f"user-{source}-{n}", ip=ip) for n in range(12)]
        told += [each for found in feed(detector, guessed) for each in alerts.take(found, {})]
    assert {each.severity for each in told} == {Severity.HIGH}
    assert alerts.withheld > 0
    (found,) = feed(detector, [event(begin + 60, "sub:user-7-3", ip="203.0.113.7")])
    assert [(each.severity, each.firing) for each in alerts.take(found, {})] == [(Severity.CRITICAL, True)]
    again = Alerts()
    again.restore(orjson.loads(orjson.dumps(alerts.snapshot())))
    assert again.snapshot() == alerts.snapshot()


def test_a_flood_of_alerts_resolves_none_that_goes_on():
    alerts = Alerts(AlertParams(per_hour=5, max_open=50))

    def take(source, severity):
        found = Finding("credential_stuffing", None, source, severity, "x", ("w:1",), NOW_NS)
        return [(each.source, each.firing) for each in alerts.take(found, {})]

    assert take("victim's", Severity.CRITICAL) == [("victim's", True)]
    told = [each for number in range(500) for each in take(f"flood-{number}", Severity.HIGH)]
    assert told == [(f"flood-{number}", True) for number in range(5)]
    assert len(alerts) == 50


def test_an_account_of_one_s_own_in_many_places_does_not_hide_the_one_that_was_found():
    detector, alerts = CredentialStuffing(key=KEY), Alerts()
    begin, told = at(0, 9), []
    for source in range(40):
        ip = f"203.0.113.{source}"
        sent = [event(begin + n, None, claimed=f"user-{source}-{n}", ip=ip) for n in range(12)]
        found = feed(detector, [*sent, event(begin + 30, "sub:mallory", ip=ip)])
        told += [each for one in found for each in alerts.take(one, {}) if each.severity is Severity.CRITICAL]
    assert len(told) == 1
    again = feed(detector, [event(begin + 40, None, claimed="user-7-99", ip="203.0.113.7")])
    (found,) = feed(detector, [event(begin + 60, "sub:user-7-3", ip="203.0.113.7")])
    assert again == []
    assert [(each.severity, each.firing) for each in alerts.take(found, {})] == [(Severity.CRITICAL, True)]
    assert "sub:user-7-3" in found.explanation


def test_events_said_to_be_from_before_1970_leave_a_state_that_can_be_taken_up_again():
    """A compromised sidecar's word to the central monitor, which is to lose nothing at its next restart by it."""
    detectors = Detectors(Params(), KEY)
    for stamp in ("0001-01-01T00:00:00.000000Z", "1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00.-99999Z"):
        for subject in ("sub:mallory", None):
            for number in range(20):
                made = event(at(0), subject, claimed="x", input=f"i{number}", resource=f"model/{number}")
                detectors.observe({**made, "time": stamp}, NOW_NS)
                detectors.observe({**made, "time": stamp, "decision": "deny", "reason": "no_policy"}, NOW_NS)
    assert Detectors(Params(), KEY).restore(orjson.loads(orjson.dumps(detectors.snapshot()))) == ()


def test_one_subject_that_makes_up_names_of_models_wipes_out_nobody_s_past():
    """A policy that allows any model allows any name: each is a pair to remember, and once pushed out all others."""
    detector = ModelExtraction(ExtractionParams(max_pairs=400), KEY)
    for day in range(10):
        feed(detector, [event(at(day, 10) + n * 30, "sub:victim", input=f"{day}-{n}") for n in range(100)])
    for day, number in itertools.product((10, 11), range(600)):
        made_up = f"model/{day}-{number}"
        feed(detector, [event(at(day, 1) + number, "sub:mallory", resource=made_up, input="x") for _ in range(17)])
    stolen = [event(at(12, 9) + n, "sub:victim", input=f"s-{n}") for n in range(600)]
    found = feed(detector, stolen)
    assert [each.subject for each in found] == ["sub:victim"]
    assert "its own days had at most" in found[0].explanation
