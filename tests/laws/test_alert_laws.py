"""Laws of alerts: told once, told again, ended, bounded, and the same after a restart."""

import json
from collections import Counter

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.monitor.alerts import AlertParams, Alerts
from ext_authz.monitor.detectors.finding import Finding, Severity

SECOND = 10**9
NOW = 1_800_000_000 * SECOND
PARAMS = AlertParams(repeat=600, resolve=1200, per_hour=5, max_open=8)


def finding(second, subject="sub:a", detector="enumeration", severity=Severity.MEDIUM, source=None):
    return Finding(detector, subject, source, severity, "odd", (f"w:{second}",), NOW + second * SECOND)


findings = st.builds(
    finding,
    st.integers(0, 20_000),
    st.one_of(st.none(), st.sampled_from([f"sub:{number}" for number in range(12)])),
    st.sampled_from(["enumeration", "unusual_time"]),
    st.sampled_from(list(Severity)),
    st.sampled_from(["192.0.2.1", "192.0.2.2", None]),
)
lives = st.lists(findings, max_size=80).map(lambda found: sorted(found, key=lambda each: each.at_ns))


def live(alerts, life):
    """Return what is told, with a look at the clock before each finding and at the end."""
    told = []
    for each in life:
        told += alerts.due(each.at_ns)
        told += alerts.take(each, {})
    return told + alerts.due(NOW + 40_000 * SECOND)


@given(lives)
def test_no_two_events_share_a_name_and_number_and_each_alert_that_began_has_one_end(life):
    told = live(Alerts(PARAMS), life)
    assert max(Counter(each.key for each in told).values(), default=1) == 1
    begun = {each.name for each in told if each.firing and each.evidence}
    ended = Counter(each.name for each in told if not each.firing)
    assert set(ended) == begun
    assert set(ended.values()) <= {1}


@given(lives)
def test_never_more_of_one_detector_and_severity_in_an_hour_than_the_limit_and_what_was_left_out_is_counted(life):
    alerts = Alerts(PARAMS)
    told = live(alerts, life)
    hours = Counter(
        (each.detector, each.severity, each.last_ns // SECOND // 3600) for each in told if each.firing and each.evidence
    )
    assert max(hours.values(), default=0) <= PARAMS.per_hour
    summaries = [each for each in told if each.firing and not each.evidence]
    assert sum(each.findings for each in summaries) == alerts.withheld


@given(lives)
def test_few_are_open_whoever_chooses_the_subjects(life):
    alerts = Alerts(PARAMS)
    for each in life:
        alerts.take(each, {})
        assert len(alerts) <= PARAMS.max_open


@given(lives)
@settings(max_examples=60)
def test_what_is_read_again_after_a_restart_has_the_same_names(life):
    one, half = Alerts(PARAMS), len(life) // 2
    for each in life[:half]:
        one.due(each.at_ns)
        one.take(each, {})
    two = Alerts(PARAMS)
    two.restore(json.loads(orjson.dumps(one.snapshot())))
    assert live(one, life[half:]) == live(two, life[half:])
    assert one.snapshot() == two.snapshot()


def test_what_goes_on_is_told_again_now_and_then_and_ends_by_itself():
    alerts = Alerts(PARAMS)
    first = alerts.take(finding(0), {})
    assert [(each.firing, each.told) for each in first] == [(True, 1)]
    assert [alerts.take(finding(second), {}) for second in range(1, 600, 60)] == [[]] * 10
    (again,) = alerts.take(finding(601), {})
    assert (again.name, again.told, again.findings, again.since_ns) == (first[0].name, 2, 12, NOW)
    assert alerts.due(NOW + 1800 * SECOND) == []
    (end,) = alerts.due(NOW + 1802 * SECOND)
    assert (end.name, end.firing, end.told) == (first[0].name, False, 3)
    assert not len(alerts)


def test_what_becomes_worse_is_told_at_once():
    alerts = Alerts(PARAMS)
    alerts.take(finding(0, severity=Severity.LOW), {})
    (worse,) = alerts.take(finding(1, severity=Severity.CRITICAL), {})
    assert worse.severity is Severity.CRITICAL
    assert alerts.take(finding(2, severity=Severity.LOW), {}) == []


def test_a_quarantine_is_told_beyond_every_limit():
    alerts = Alerts(PARAMS)
    for number in range(7):
        alerts.take(finding(number, f"sub:{number}"), {})
    assert alerts.take(finding(20, "sub:x"), {}) == []
    assert alerts.take(finding(21, "sub:y"), {"quarantine_until": "later"})
