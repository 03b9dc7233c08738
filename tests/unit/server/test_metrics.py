"""Metrics: what is counted, how processes add up, and that nothing goes backwards."""

import json
import threading
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from wire_requests import AT_NS

from ext_authz.model import Context, Decision, Outcome, Reason, ShadowMatch
from ext_authz.server import exposition, metrics
from ext_authz.server.metrics import MetricsWriter, Registry, WorkerMetrics

NOW = 1000.0


def outcome(reason: Reason, policies: tuple[str, ...] = (), shadow: tuple[ShadowMatch, ...] = ()) -> Outcome:
    decision = Decision(allowed=reason.http_status == 200, reason=reason, policies=policies, shadow=shadow)
    return Outcome(decision, "d", "r", AT_NS)


def samples(*registries: Registry, now: float = NOW) -> dict[str, float]:
    return parsed([registry.snapshot(NOW) for registry in registries], now)


def parsed(snapshots: list, now: float = NOW) -> dict[str, float]:
    text = exposition.render(snapshots, now).decode()
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True) if sample.labels else ''}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> str:
    return f"{name}{json.dumps(labels, sort_keys=True)}"


def test_checks_are_counted_by_decision_and_reason_and_timed():
    worker = WorkerMetrics("worker-0")
    worker.observe(outcome(Reason.ALLOWED), 60_000)
    worker.observe(outcome(Reason.ALLOWED), 60_000)
    worker.observe(outcome(Reason.NO_POLICY), 2_000_000_000)
    found = samples(worker)
    assert found[key(metrics.CHECKS, decision="allow", reason="allowed")] == 2
    assert found[key(metrics.CHECKS, decision="deny", reason="no_policy")] == 1
    assert found[f"{metrics.DURATION}_count"] == 3
    assert found[f"{metrics.DURATION}_sum"] == pytest.approx(2.00012)
    assert found[key(f"{metrics.DURATION}_bucket", le="5e-05")] == 0
    assert found[key(f"{metrics.DURATION}_bucket", le="0.0001")] == 2
    assert found[key(f"{metrics.DURATION}_bucket", le="1.0")] == 2
    assert found[key(f"{metrics.DURATION}_bucket", le="+Inf")] == 3


def test_a_duration_on_a_bound_belongs_to_that_bucket():
    worker = WorkerMetrics()
    worker.observe(outcome(Reason.ALLOWED), 25_000)
    assert samples(worker)[key(f"{metrics.DURATION}_bucket", le="2.5e-05")] == 1


def test_policies_are_counted_where_they_decided_and_where_they_only_watched():
    worker = WorkerMetrics()
    shadow = (ShadowMatch("s1", "deny"), ShadowMatch("s2", "allow"))
    worker.observe(outcome(Reason.ALLOWED, ("a", "b"), shadow), 1)
    worker.observe(outcome(Reason.DENIED_BY_POLICY, ("d",)), 1)
    worker.observe(outcome(Reason.CONDITIONS_NOT_MET, ("candidate",)), 1)
    found = samples(worker)
    assert {name: value for name, value in found.items() if name.startswith(metrics.POLICY_DECISIONS)} == {
        key(metrics.POLICY_DECISIONS, policy="a", effect="allow", mode="enforce"): 1,
        key(metrics.POLICY_DECISIONS, policy="b", effect="allow", mode="enforce"): 1,
        key(metrics.POLICY_DECISIONS, policy="d", effect="deny", mode="enforce"): 1,
        key(metrics.POLICY_DECISIONS, policy="s1", effect="deny", mode="shadow"): 1,
        key(metrics.POLICY_DECISIONS, policy="s2", effect="allow", mode="shadow"): 1,
    }


@pytest.mark.parametrize(("difference", "counted"), [(0, 0), (60, 0), (-60, 0), (61, 1), (-61, 1)])
def test_a_request_time_over_a_minute_off_is_counted(difference, counted):
    worker = WorkerMetrics()
    context = Context(None, AT_NS + difference * 10**9, AT_NS, None, None)
    worker.observe(replace(outcome(Reason.ALLOWED), context=context), 1)
    assert samples(worker)[metrics.CLOCK_SKEW] == counted


def test_failures_of_ours_are_counted_by_kind_and_never_by_message():
    worker = WorkerMetrics()
    worker.internal_error(KeyError("something the caller sent"))
    assert samples(worker)[key(metrics.INTERNAL_ERRORS, error="KeyError")] == 1
    assert b"caller" not in exposition.render([worker.snapshot(NOW)], NOW)


def test_processes_add_up_and_gauges_stand_side_by_side():
    one, two, control = WorkerMetrics("worker-0"), WorkerMetrics("worker-1"), Registry("control")
    for worker, revision in ((one, "new"), (two, "old")):
        worker.observe(outcome(Reason.ALLOWED), 30_000)
        worker.revision = revision
    one.sample(metrics.STATE_AGE, lambda: 0.25, "worker-0")
    two.gauge(metrics.STATE_AGE, 7.0, "worker-1")
    control.count(metrics.RELOADS, "ok", by=3)
    control.gauge(metrics.SPOOL_BYTES, 12_345)
    control.count(metrics.AUDIT_EVENTS, "delivered", "stdout", by=5)
    found = samples(one, two, control)
    assert found[key(metrics.CHECKS, decision="allow", reason="allowed")] == 2
    assert found[f"{metrics.DURATION}_count"] == 2
    assert found[key(metrics.REVISION, revision="new", process="worker-0")] == 1
    assert found[key(metrics.REVISION, revision="old", process="worker-1")] == 1
    assert found[key(metrics.STATE_AGE, process="worker-0")] == 0.25
    assert found[key(metrics.STATE_AGE, process="worker-1")] == 7
    assert found[key(metrics.RELOADS, result="ok")] == 3
    assert found[key(metrics.AUDIT_EVENTS, outcome="delivered", sink="stdout")] == 5
    assert found[metrics.SPOOL_BYTES] == 12_345


def test_a_new_revision_takes_the_place_of_the_old_one():
    worker = WorkerMetrics("worker-0")
    worker.revision = "one"
    worker.snapshot(NOW)
    worker.revision = "two"
    found = samples(worker)
    assert [name for name in found if name.startswith(metrics.REVISION)] == [
        key(metrics.REVISION, revision="two", process="worker-0")
    ]


def test_a_silent_process_keeps_its_counters_and_loses_its_gauges():
    worker = WorkerMetrics("worker-0")
    worker.observe(outcome(Reason.ALLOWED), 1)
    worker.revision = "r"
    found = samples(worker, now=NOW + metrics.STALE_SECONDS + 1)
    assert found[key(metrics.CHECKS, decision="allow", reason="allowed")] == 1
    assert not [name for name in found if name.startswith(metrics.REVISION)]


def test_label_values_are_escaped():
    worker = WorkerMetrics()
    worker.observe(outcome(Reason.ALLOWED, ('a"b\\c\nd',)), 1)
    assert samples(worker)[key(metrics.POLICY_DECISIONS, policy='a"b\\c\nd', effect="allow", mode="enforce")] == 1


def test_only_known_metrics_with_their_labels_can_be_counted():
    registry = Registry()
    with pytest.raises(KeyError):
        registry.count("ext_authz_surprises_total")
    with pytest.raises(ValueError, match="labels"):
        registry.count(metrics.RELOADS)
    with pytest.raises(ValueError, match="histogram"):
        registry.count(metrics.DURATION)
    with pytest.raises(ValueError, match="counter"):
        registry.gauge(metrics.RELOADS, 1, "ok")


def test_the_contracts_metrics_exist_with_their_labels():
    labels = {name: set(family.labels) for name, family in metrics.FAMILIES.items()}
    assert labels["ext_authz_checks_total"] == {"decision", "reason"}
    assert labels["ext_authz_check_duration_seconds"] == set()
    assert labels["ext_authz_policy_decisions_total"] == {"policy", "effect", "mode"}
    assert "revision" in labels["ext_authz_policy_revision_info"]
    assert labels["ext_authz_reloads_total"] == {"result"}
    assert "ext_authz_state_age_seconds" in labels
    assert labels["ext_authz_audit_events_total"] == {"outcome", "sink"}
    assert "ext_authz_audit_spool_bytes" in labels
    assert labels["ext_authz_alerts_total"] == {"detector"}


def test_no_count_is_lost_between_threads():
    worker = WorkerMetrics()

    def work(number: int) -> None:
        for turn in range(500):
            worker.observe(outcome(Reason.ALLOWED, (f"p{number}-{turn % 7}",)), 1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        worker.snapshot(NOW)
    for thread in threads:
        thread.join()
    assert samples(worker)[key(metrics.CHECKS, decision="allow", reason="allowed")] == 2000


def test_what_is_pending_stays_bounded_between_snapshots():
    worker = WorkerMetrics()
    for number in range(10_000):
        worker.observe(outcome(Reason.ALLOWED, (f"p{number}",)), 1)
    assert len(worker._pending) <= metrics._MAX_PENDING
    assert samples(worker)[key(metrics.CHECKS, decision="allow", reason="allowed")] == 10_000


def test_a_restarted_process_goes_on_from_its_last_totals(tmp_path):
    folder = tmp_path / "metrics"
    before = WorkerMetrics()
    writer = MetricsWriter(before, folder, "worker-0", clock=lambda: NOW)
    before.revision = "old"
    before.observe(outcome(Reason.ALLOWED, ("p",)), 30_000)
    assert writer.write()
    again = WorkerMetrics()
    MetricsWriter(again, folder, "worker-0", clock=lambda: NOW)
    again.observe(outcome(Reason.ALLOWED, ("p",)), 30_000)
    found = samples(again)
    assert found[key(metrics.CHECKS, decision="allow", reason="allowed")] == 2
    assert found[key(metrics.POLICY_DECISIONS, policy="p", effect="allow", mode="enforce")] == 2
    assert found[f"{metrics.DURATION}_count"] == 2
    assert not [name for name in found if "old" in name]


def test_the_file_is_private_and_read_back(tmp_path):
    folder = tmp_path / "metrics"
    worker = WorkerMetrics()
    writer = MetricsWriter(worker, folder, "worker-0", clock=lambda: NOW)
    assert worker.process == "worker-0"
    worker.observe(outcome(Reason.NO_POLICY), 1)
    writer.start()
    writer.stop()
    assert (folder.stat().st_mode & 0o777, (folder / "worker-0.json").stat().st_mode & 0o777) == (0o700, 0o600)
    assert [path.name for path in folder.iterdir()] == ["worker-0.json"]
    assert parsed(metrics.read_snapshots(folder))[key(metrics.CHECKS, decision="deny", reason="no_policy")] == 1
    assert metrics.read_snapshots(folder, besides="worker-0") == []


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 10_000,
        '{"time": 1}',
        '{"time": "x", "counters": [], "gauges": []}',
        '{"time": 1000, "counters": [["ext_authz_reloads_total", "ok", "many"]], "gauges": []}',
        '{"time": 1000, "counters": [["ext_authz_reloads_total", 1]], "gauges": []}',
        '{"time": 1000, "counters": [["ext_authz_gone_total", 1]], "gauges": [["x"]]}',
        '{"time": 1000, "counters": [[]], "gauges": []}',
        '{"time": 1000, "counters": 7, "gauges": []}',
        json.dumps({"time": 1000, "counters": [], "gauges": [], "bounds": list(metrics.BOUNDS_NS), "buckets": [1]}),
    ],
)
def test_a_damaged_file_spoils_nothing(tmp_path, damaged):
    (tmp_path / "worker-0.json").write_text(damaged)
    good = WorkerMetrics("worker-1")
    good.observe(outcome(Reason.ALLOWED), 1)
    found = parsed([*metrics.read_snapshots(tmp_path), good.snapshot(NOW)])
    assert found[key(metrics.CHECKS, decision="allow", reason="allowed")] == 1
    assert not [name for name in found if name.startswith("ext_authz_reloads_total")]
    restarted = WorkerMetrics()
    MetricsWriter(restarted, tmp_path, "worker-0")
    restarted.observe(outcome(Reason.ALLOWED), 1)
    assert samples(restarted)[key(metrics.CHECKS, decision="allow", reason="allowed")] == 1


def test_a_disk_that_is_full_or_read_only_stops_nothing(tmp_path):
    (tmp_path / "metrics").write_text("a file where the folder should be")
    writer = MetricsWriter(WorkerMetrics(), tmp_path / "metrics", "worker-0")
    assert writer.write() is False


def test_a_link_planted_in_the_folder_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "worker-0.new").symlink_to(victim)
    assert MetricsWriter(WorkerMetrics(), folder, "worker-0").write() is False
    assert victim.read_text() == "precious"


TRACES = ("1" * 32, "2" * 32, "3" * 32)


def exemplars(snapshots: list) -> dict[str, tuple[str, float]]:
    text = exposition.render(snapshots, NOW, openmetrics=True).decode()
    assert text.endswith("# EOF\n")
    return {
        sample.labels["le"]: (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in openmetrics_families(text)
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_of_all_workers_each_bucket_shows_the_last_traced_check(monkeypatch):
    times = iter((10.0, 12.0, 11.0))
    monkeypatch.setattr(metrics.time, "time", lambda: next(times))
    one, two = WorkerMetrics("worker-0"), WorkerMetrics("worker-1")
    one.observe(outcome(Reason.ALLOWED), 60_000, TRACES[0])
    one.observe(outcome(Reason.ALLOWED), 2_000_000_000, TRACES[1])
    two.observe(outcome(Reason.ALLOWED), 70_000, TRACES[2])
    two.observe(outcome(Reason.ALLOWED), 71_000)  # not traced
    snapshots = [one.snapshot(NOW), two.snapshot(NOW)]
    found = {"0.0001": (TRACES[2], 7e-05), "+Inf": (TRACES[1], 2.0)}
    assert exemplars(snapshots) == found
    assert exemplars(snapshots[::-1]) == found
    assert exemplars(json.loads(json.dumps(snapshots))) == found, "as it goes through a file"
    assert TRACES[1] not in exposition.render(snapshots, NOW).decode(), "the older format has no place for them"
    assert parsed(snapshots)[f"{metrics.DURATION}_count"] == 4


@pytest.mark.parametrize(
    "broken",
    [
        [3, "1" * 32, 60_000, 1.0],  # of another bucket
        [2, "1" * 31, 60_000, 1.0],
        [2, 'x"} 1\n', 60_000, 1.0],
        [2, "1" * 32, "60000", 1.0],
        [2, "1" * 32, 60_000, "x"],
        [2, "1" * 32],
        7,
    ],
)
def test_an_exemplar_that_is_none_takes_its_snapshot_with_it_and_nothing_else(broken):
    worker = WorkerMetrics("worker-0")
    worker.observe(outcome(Reason.ALLOWED), 60_000, TRACES[0])
    good, bad = worker.snapshot(NOW), worker.snapshot(NOW) | {"exemplars": [broken]}
    assert exemplars([good, bad]) == {"0.0001": (TRACES[0], 6e-05)}
    assert parsed([good, bad])[f"{metrics.DURATION}_count"] == 1


def test_both_formats_say_the_same():
    worker = WorkerMetrics("worker-0")
    worker.revision = "r"
    worker.observe(outcome(Reason.ALLOWED, ("a",)), 60_000, TRACES[0])
    snapshots = [worker.snapshot(NOW)]
    openmetrics = {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True) if sample.labels else ''}": sample.value
        for family in openmetrics_families(exposition.render(snapshots, NOW, openmetrics=True).decode())
        for sample in family.samples
    }
    assert openmetrics == parsed(snapshots)


PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;"
    "version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", True),
        (PROMETHEUS_3, True),
        ("application/vnd.google.protobuf;q=0.9,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=nan,text/plain", False),
        ("application/openmetrics-text;q=1e9,text/plain", False),
        ("application/openmetrics-textual", False),
        (",;,;q=;=,", False),
    ],
)
def test_openmetrics_is_for_who_likes_nothing_of_text_better(accept, wants):
    assert exposition.wants_openmetrics(accept) is wants
