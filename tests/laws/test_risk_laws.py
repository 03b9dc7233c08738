"""Laws of risk and quarantine: whom they concern, how long they last, how many there are."""

import json

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.model import Risk
from ext_authz.monitor.detectors.finding import Finding, Severity
from ext_authz.monitor.risk import SECOND, Response, RiskBook, RiskParams, Withheld

DETECTORS = ("enumeration", "unusual_volume", "unusual_time", "credential_stuffing")
ALL = dict.fromkeys(DETECTORS, Response.QUARANTINE)
NOW = 1_800_000_000 * SECOND
LEVELS = list(Risk)
seconds = st.integers(0, 40_000)


def finding(subject="sub:alice", detector="enumeration", severity=Severity.HIGH, at_ns=NOW, **parts):
    return Finding(detector, subject, parts.get("source"), severity, "odd", ("w:1",), at_ns, parts.get("claimed"))


findings = st.builds(
    lambda subject, detector, severity, second: finding(subject, detector, severity, NOW + second * SECOND),
    st.sampled_from(["sub:a", "sub:b", "key:c", "spiffe://x/d", None, "anonymous:"]),
    st.sampled_from(DETECTORS),
    st.sampled_from(list(Severity)),
    seconds,
)
lives = st.lists(findings, max_size=60).map(lambda found: sorted(found, key=lambda each: each.at_ns))


class Fleet:
    """A book and the quarantines that hold by what it said."""

    def __init__(self, book):
        self.book, self.held = book, {}

    def take(self, each, now_ns=None):
        verdict = self.book.take(each, now_ns or each.at_ns, self.held)
        if verdict.quarantine is not None:
            self.held[verdict.quarantine.subject] = verdict.quarantine.ends_at
        return verdict

    def in_force(self, now_ns):
        return {subject for subject, ends_at in self.held.items() if ends_at > now_ns // SECOND}


@given(lives)
def test_only_a_verified_subject_ever_has_a_risk_or_a_quarantine_and_only_by_its_own_findings(life):
    fleet = Fleet(RiskBook(responses=ALL))
    for each in life:
        before = {name: fleet.book.risk(name, each.at_ns) for name in ("sub:a", "sub:b", "key:c", "spiffe://x/d")}
        verdict = fleet.take(each)
        for name, risk in before.items():
            if name != each.subject:
                assert fleet.book.risk(name, each.at_ns) is risk
        if each.subject in (None, "anonymous:"):
            assert verdict.risk is None
            assert verdict.quarantine is None
    assert set(fleet.held) <= {each.subject for each in life} - {None, "anonymous:"}


@given(st.lists(st.sampled_from(list(Severity)), min_size=1, max_size=50), st.text(max_size=20))
def test_a_million_failures_in_the_name_of_a_victim_concern_nobody(severities, name):
    book = RiskBook(responses=ALL)
    for number, severity in enumerate(severities):
        bad = finding(None, "credential_stuffing", severity, NOW + number * SECOND, source="1.2.3.4", claimed=name)
        assert book.take(bad, NOW + number * SECOND, {}).risk is None
    assert not len(book)
    assert list(book.levels(NOW)) == []


@given(st.sampled_from(list(Severity)))
def test_a_lone_finding_is_its_own_severity_for_one_half_life(severity):
    book = RiskBook()
    book.take(finding(severity=severity), NOW, {})
    assert book.risk("sub:alice", NOW) == severity.value
    almost = NOW + 3599 * SECOND
    assert book.risk("sub:alice", almost) == severity.value
    assert severity is Severity.LOW or LEVELS.index(book.risk("sub:alice", NOW + 3601 * SECOND)) < LEVELS.index(
        Risk(severity.value)
    )


@given(lives, seconds, seconds)
def test_risk_only_falls_while_nothing_is_found_and_is_low_again_when_it_said_it_would_be(life, one, two):
    book = RiskBook(responses=ALL)
    for each in life:
        book.take(each, each.at_ns, {})
    first, second = sorted((NOW + (40_000 + one) * SECOND, NOW + (40_000 + two) * SECOND))
    for subject, _, ends_at in list(book.levels(first)):
        assert LEVELS.index(book.risk(subject, second)) <= LEVELS.index(book.risk(subject, first))
        assert book.risk(subject, ends_at * SECOND) is Risk.LOW
        assert ends_at * SECOND - first < 11 * 3600 * SECOND, "nothing lasts for ever"


@given(st.integers(1, 100))
def test_one_detector_that_repeats_itself_is_no_more_evidence(times):
    book = RiskBook()
    for number in range(times):
        book.take(finding(severity=Severity.MEDIUM, at_ns=NOW + number), NOW + number, {})
    assert book.risk("sub:alice", NOW + times) is Risk.MEDIUM


@given(lives)
def test_quarantine_is_off_by_default(life):
    book = RiskBook()
    assert all(book.take(each, each.at_ns, {}).quarantine is None for each in life)


@given(lives)
def test_a_detector_that_only_alerts_raises_no_risk(life):
    book = RiskBook(responses=dict.fromkeys(DETECTORS, Response.ALERT))
    for each in life:
        assert book.take(each, each.at_ns, {}).risk is None
    assert list(book.levels(NOW)) == []


@given(st.integers(1, 8))
def test_a_quarantine_lasts_ten_minutes_and_doubles_to_an_hour(times):
    fleet, now, lengths = Fleet(RiskBook(responses=ALL)), NOW, []
    for _ in range(times):
        ends_at = fleet.take(finding(at_ns=now)).quarantine.ends_at
        lengths.append(ends_at - now // SECOND)
        now = (ends_at + 1) * SECOND
    assert lengths == [600, 1200, 2400, 3600, 3600, 3600, 3600, 3600][:times]
    later = now + 86_401 * SECOND
    assert fleet.take(finding(at_ns=later)).quarantine.ends_at == later // SECOND + 600


@given(lives, st.integers(0, 600), st.sampled_from([0.0, 1.0, 10.0]))
def test_never_more_are_in_quarantine_than_one_in_a_hundred_of_the_days_subjects_or_one(life, subjects, percent):
    fleet = Fleet(RiskBook(RiskParams(percent=percent), ALL))
    for number in range(subjects):
        fleet.book.count(f"sub:{number}", NOW)
    for each in life:
        before = fleet.in_force(each.at_ns)
        verdict = fleet.take(each)
        now_held = fleet.in_force(each.at_ns)
        assert len(now_held) <= max(1, int(subjects * percent / 100))
        if verdict.withheld is Withheld.BUDGET:
            assert now_held == before


@given(lives)
def test_whom_the_configuration_exempts_is_never_quarantined(life):
    never, proxies = ("sub:*", "key:c"), frozenset({"spiffe://x/d"})
    fleet = Fleet(RiskBook(RiskParams(percent=10), ALL, never, proxies))
    for each in life:
        assert fleet.take(each).quarantine is None
        assert fleet.book.risk("spiffe://x/d", each.at_ns) is Risk.LOW, "a proxy stands for others"


@given(lives, st.integers(601, 10**6))
def test_what_was_read_late_quarantines_nobody(life, late):
    fleet = Fleet(RiskBook(responses=ALL))
    assert all(fleet.take(each, each.at_ns + late * SECOND).quarantine is None for each in life)


@given(lives, seconds)
def test_what_was_forgiven_is_forgiven_and_the_same_detector_waits(life, moment):
    fleet, at_ns = Fleet(RiskBook(responses=ALL)), NOW + moment * SECOND
    known = set()
    for each in life:
        if each.at_ns <= at_ns:
            fleet.take(each)
            if each.subject == "sub:a":
                known.add(each.detector)
    fleet.book.forgive("sub:a", at_ns)
    fleet.held.pop("sub:a", None)
    assert fleet.book.risk("sub:a", at_ns) is Risk.LOW
    for each in life:
        again = fleet.take(each, max(each.at_ns, at_ns))
        if each.subject == "sub:a" and each.at_ns <= at_ns:
            assert again.quarantine is None, "read again after a restart"
        if each.subject == "sub:a" and each.detector in known and each.at_ns < at_ns + 3600 * SECOND:
            assert again.quarantine is None
    if not known:
        late = finding("sub:a", "unusual_time", at_ns=at_ns + 50_000 * SECOND)
        assert Fleet(fleet.book).take(late).quarantine is not None


@given(lives)
@settings(max_examples=50)
def test_a_restored_book_goes_on_as_if_nothing_had_happened(life):
    one, half = Fleet(RiskBook(responses=ALL)), len(life) // 2
    first = [one.take(each) for each in life[:half]]
    two = Fleet(RiskBook(responses=ALL))
    two.book.restore(json.loads(orjson.dumps(one.book.snapshot())))
    two.held = dict(one.held)
    assert [one.take(each) for each in life[half:]] == [two.take(each) for each in life[half:]]
    assert one.book.snapshot() == two.book.snapshot()
    assert len(first) == half


@given(st.integers(1, 300))
@settings(max_examples=20)
def test_however_many_subjects_there_are_few_are_remembered_and_a_quarantined_one_stays(strangers):
    fleet = Fleet(RiskBook(RiskParams(max_subjects=10), ALL))
    fleet.take(finding("sub:held"))
    for number in range(strangers):
        fleet.take(finding(f"sub:{number}", severity=Severity.CRITICAL, at_ns=NOW + 1))
        assert len(fleet.book) <= 10
    assert fleet.book.risk("sub:held", NOW + 1) is Risk.HIGH


def test_a_name_that_was_cut_or_cannot_be_written_is_nobodys():
    book = RiskBook(responses=ALL)
    for name in ("sub:" + "a" * 508, "sub:a\x00", "sub:a\nb", "anonymous:", "anonymous:x"):
        assert book.take(finding(name), NOW, {}).risk is None


def test_a_second_pardon_does_not_end_the_first():
    book = RiskBook(responses=ALL)
    minute = 60 * SECOND
    book.take(finding(detector="enumeration"), NOW, {})
    book.forgive("sub:alice", NOW + minute)
    book.take(finding(detector="unusual_volume", at_ns=NOW + 10 * minute), NOW + 10 * minute, {})
    book.forgive("sub:alice", NOW + 11 * minute)
    for detector in ("enumeration", "unusual_volume"):
        verdict = book.take(finding(detector=detector, at_ns=NOW + 15 * minute), NOW + 15 * minute, {})
        assert verdict.withheld is Withheld.PARDONED


def test_a_book_that_is_full_is_not_searched_at_every_finding(monkeypatch):
    """20,000 subjects with a finding each must not make every further one cost a search of all of them."""
    book = RiskBook(RiskParams(max_subjects=1000))
    searched = []
    whole = RiskBook.forget
    monkeypatch.setattr(RiskBook, "forget", lambda self, now_ns: (searched.append(1), whole(self, now_ns)))
    for number in range(2000):
        book.take(finding(f"sub:{number}", severity=Severity.LOW), NOW, {})
    assert len(book) <= 1000
    assert len(searched) <= 25


def test_a_full_book_lets_go_of_those_of_least_weight():
    book = RiskBook(RiskParams(max_subjects=100))
    for number in range(50):
        book.take(finding(f"sub:bad-{number}", severity=Severity.HIGH), NOW, {})
    for number in range(1000):
        book.take(finding(f"sub:{number}", severity=Severity.LOW), NOW, {})
    assert all(book.risk(f"sub:bad-{number}", NOW) is Risk.HIGH for number in range(50))
