"""`test` as people use it while they write policies."""

import pytest
from command_line import ran
from projects import LAKE, MINIMAL, SEED_POLICIES, project

from ext_authz.cli import cases

TEST = """\
tests:
  - name: reading
    at: 2026-11-23T10:00:00Z
    subject: {id: alice, roles: [data_scientist]}
    resource: {type: dataset, id: clicks, sensitivity: low}
    action: read_data
    context: {ip: 10.1.2.3}
    expect: {decision: allow}
"""


@pytest.fixture
def lake(tmp_path):
    files = {"policies.yaml": SEED_POLICIES, "lake_test.yaml": TEST}
    return project(tmp_path, LAKE + MINIMAL, files)


def test_the_summary_says_what_conditions_no_case_met_or_missed(lake, capfd):
    done = ran(capfd, "test", "-c", lake)
    assert done.status == 0
    assert "1 of 2 policies applied (50 %), 25 % of conditions both ways" in done.out
    assert "never met: production_model_deployment approval, production_model_deployment mfa_required" in done.out
    assert "never missed: data_scientist_training ip_range, data_scientist_training time_window, production" in done.out


def test_too_few_conditions_covered_fail(lake, capfd):
    assert ran(capfd, "test", "-c", lake, "--min-condition-coverage", "25").status == 0
    done = ran(capfd, "test", "-c", lake, "--min-condition-coverage", "30")
    assert (done.status, done.err) == (1, "condition coverage 25 % is below 30 %\n")


def test_watching_runs_again_after_each_change_and_survives_mistakes(lake, capfd, monkeypatch):
    policies, tests = lake.parent / "policies.yaml", lake.parent / "lake_test.yaml"
    changes = [
        lambda: tests.write_text(TEST.replace("decision: allow", "decision: deny")),
        lambda: None,
        lambda: policies.write_text("policies: nonsense"),
        lambda: policies.write_text(SEED_POLICIES + "# whole again\n"),
        tests.unlink,
        lambda: (lake.parent / "new_test.yaml").write_text(TEST),
    ]

    def pause():
        if not changes:
            raise KeyboardInterrupt
        changes.pop(0)()

    monkeypatch.setattr(cases, "_pause", pause)
    done = ran(capfd, "test", "-c", lake, "--watch", "-q")
    assert done.status == 130
    verdicts = [line for line in done.out.splitlines() if line.endswith("waiting for a change")]
    assert [line.partition(",")[0] for line in verdicts] == ["ok", "not ok", "not ok", "not ok", "not ok", "ok"]
    assert "`policies` must be a list" in done.err
    assert "no policy tests" in done.err
