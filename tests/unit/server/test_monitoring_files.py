"""What an operator watches with: the table of metrics, alert rules, the dashboard. All of it names what is really there."""

import json
import re
import subprocess
from pathlib import Path

import debian
import metrics_docs
import pytest
import yaml

from ext_authz.model import Decision, Outcome, Reason
from ext_authz.server import metrics
from ext_authz.server.exposition import render
from ext_authz.server.metrics import FAMILIES, WorkerMetrics

DOCS = Path(__file__).parents[3] / "docs"
RULES = DOCS / "operations/alerts.yaml"
PROMISED = {
    "ext_authz_checks_total": {"decision", "reason"},
    "ext_authz_check_duration_seconds": set(),
    "ext_authz_policy_decisions_total": {"policy", "effect", "mode"},
    "ext_authz_policy_revision_info": {"revision", "process"},
    "ext_authz_reloads_total": {"result"},
    "ext_authz_state_age_seconds": {"process"},
    "ext_authz_audit_events_total": {"outcome", "sink"},
    "ext_authz_audit_spool_bytes": set(),
    "ext_authz_alerts_total": {"detector"},
}
"""CONTRACT section 9."""


def rules() -> list[dict]:
    return [each for group in yaml.safe_load(RULES.read_text())["groups"] for each in group["rules"]]


def named(text: str) -> set[str]:
    return {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"ext_authz_[a-z_]+", text)}


def test_every_promised_metric_is_there_and_no_label_can_hold_what_a_caller_chose():
    for name, labels in PROMISED.items():
        assert set(FAMILIES[name].labels) == labels, name
    used = {label for family in FAMILIES.values() for label in family.labels}
    assert used == set(metrics_docs.LABELS), "say where a label's values come from"


def test_every_metric_is_in_what_a_scraper_gets():
    page = render([], 0.0).decode()
    for name in FAMILIES:
        assert f"# TYPE {name} " in page or f"# TYPE {name.removesuffix('_total')} " in page, name


def test_one_bucket_ends_at_envoys_own_timeout():
    counted = WorkerMetrics("worker-0")
    outcome = Outcome(Decision(False, Reason.NO_ROUTE), "id", "r", 0)
    counted.observe(outcome, 200_000_000)
    counted.observe(outcome, 200_000_001)
    page = render([counted.snapshot(0)], 0).decode()
    assert 'ext_authz_check_duration_seconds_bucket{le="0.2"} 1.0' in page
    assert 'ext_authz_check_duration_seconds_bucket{le="0.25"} 2.0' in page


def test_the_table_of_metrics_is_what_the_code_says():
    assert metrics_docs.written() == metrics_docs.FILE.read_text(), "run `python tests/support/metrics_docs.py`"


@pytest.mark.parametrize("command", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")])
def test_prometheus_takes_the_rules_and_they_fire_when_they_should(command):
    program = debian.needed("promtool")
    done = subprocess.run(
        [program.path, *command], cwd=RULES.parent, env=program.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_promtool_finds_nothing_to_say_about_what_a_scraper_gets():
    program = debian.needed("promtool")
    counted = WorkerMetrics("worker-0")
    counted.revision = "r"
    counted.observe(Outcome(Decision(False, Reason.NO_ROUTE), "id", "r", 0), 60_000, "1" * 32)
    done = subprocess.run(
        [program.path, "check", "metrics"],
        input=render([counted.snapshot(0)], 0),
        env=program.environment,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_rule_is_tested_and_has_a_page_in_the_runbook():
    tests = yaml.safe_load((RULES.parent / "alerts_test.yaml").read_text())["tests"]
    fires = {one["alertname"] for each in tests for one in each["alert_rule_test"] if one["exp_alerts"]}
    headings = {
        line.strip("# \n").lower() for line in (DOCS / "operations.md").read_text().splitlines() if line[:3] == "###"
    }
    for rule in rules():
        assert rule["alert"] in fires, rule["alert"]
        assert rule["annotations"]["runbook"] == f"operations.md#{rule['alert'].lower()}"
        assert rule["alert"].lower() in headings, rule["alert"]


def test_rules_and_dashboard_name_only_metrics_and_labels_that_are_there():
    dashboard = json.loads((RULES.parent / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for text in [*queries, *(rule["expr"] for rule in rules())]:
        assert named(text) <= set(FAMILIES), text
        known = {"job", "instance", "le"}.union(*(FAMILIES[name].labels for name in named(text)))
        for selected in re.findall(r"\{([^}]*)\}", text):
            assert {each.partition("=")[0].strip(" !~") for each in selected.split(",") if each} <= known, text
        for grouped in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", text):
            assert {each.strip() for each in grouped.split(",") if each.strip()} <= known, text
    used = {name for text in queries for name in named(text)}
    assert set(PROMISED) <= used, "the dashboard shows what is promised"
    assert metrics.READY in used
