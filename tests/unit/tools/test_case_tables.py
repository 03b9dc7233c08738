"""Tables, fixtures and coverage of policy tests."""

import os

import pytest
from projects import LAKE, MINIMAL, SEED_POLICIES, project

from ext_authz import wiring
from ext_authz.documents import DocumentError
from ext_authz.tools.case_reader import load_cases
from ext_authz.tools.many_cases import run_files
from ext_authz.tools.runner import run_cases

FILE = """\
at: 2026-11-23T10:00:00Z
subjects:
  alice: {id: "sub:alice", roles: [data_scientist]}
  maria: {id: "sub:maria", roles: [mlops_engineer], mfa: true}
resources:
  bare: {type: dataset, id: bare}
  clicks: {type: dataset, id: clicks, sensitivity: low}
tests:
  - name: reading
    subject: alice
    resource: clicks
    action: read_data
    context: {ip: 10.1.2.3}
    expect: {decision: deny}
    each:
      - {name: by day, expect: {decision: allow, policy: data_scientist_training}}
      - {at: 2026-11-23T22:00:00Z, expect: {decision: deny, reason: conditions_not_met}}
      - {context: {ip: 9.9.9.9}}
      - {name: by another, subject: maria}
      - {name: of another, resource: {sensitivity: high}}
      - {name: without a role, subject: {roles: []}}
      - {name: of a bare one, resource: bare}
  - {name: plain, subject: maria, resource: clicks, action: read_data, expect: {decision: deny}}
"""


@pytest.fixture
def loaded(tmp_path):
    return wiring.load(project(tmp_path, LAKE + MINIMAL, {"policies.yaml": SEED_POLICIES}), {})


def messages(text):
    with pytest.raises(DocumentError) as caught:
        load_cases({"x_test.yaml": text})
    return [f"{each.mark.line}:{each.mark.column} {each.message}" for each in caught.value.diagnostics]


def test_a_row_is_a_case_of_its_own(loaded):
    cases = load_cases({"x_test.yaml": FILE})
    names = ["by day", "2", "3", "by another", "of another", "without a role", "of a bare one"]
    assert [case.name for case in cases] == [*(f"reading: {name}" for name in names), "plain"]
    assert [case.mark.line for case in cases] == [*range(16, 24)]
    report = run_cases(cases, loaded[1], ["data_scientist_training"])
    assert [each.failures for each in report.results] == [()] * 8


def test_a_row_changes_single_keys_and_leaves_the_others():
    cases = {case.name: case.query for case in load_cases({"x_test.yaml": FILE})}
    assert cases["reading: of another"].resource.attributes == {"sensitivity": "high"}
    assert cases["reading: of another"].resource.id == "clicks"
    assert cases["reading: without a role"].subject.id == "sub:alice"
    assert cases["reading: by another"].subject.roles == {"mlops_engineer"}
    assert cases["reading: of a bare one"].resource.attributes == {}
    assert str(cases["reading: 3"].context.ip) == "9.9.9.9"
    assert cases["plain"].context.ip is None


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("subject: alice", "subject: alcie", "10:14 no subject is called `alcie`, did you mean `alice`?"),
        ("- {context: {ip: 9.9.9.9}}", "- {contxt: {ip: 9.9.9.9}}", "18:10 unknown key of a test `contxt`"),
        ("- {context: {ip: 9.9.9.9}}", "- {each: [{name: x}]}", "18:10 a row has no `each` of its own"),
        ("- {context: {ip: 9.9.9.9}}", "- 5", "18:9 a row of `each` must be a mapping"),
        ("name: by another", "name: by day", "19:9 another test of this file is called `reading: by day`"),
        ("sensitivity: low}", "sensitivity: [x]}", "7:52 `sensitivity` must be text"),
        ('{id: "sub:maria", roles', '{id: "sub:maria", role', "4:28 unknown key of a subject `role`"),
        ("alice: {", "alice: x #{", "3:10 subject `alice` must be a mapping"),
    ],
)  # fmt: skip
def test_mistakes_are_at_their_place_and_said_once(old, new, wanted):
    found = messages(FILE.replace(old, new))
    assert any(each.startswith(wanted) for each in found), found
    assert len(found) == len(set(found))


def test_an_empty_table_is_a_mistake():
    assert any("`each`" in each for each in messages("tests: [{name: a, each: []}]"))


def test_a_fixture_that_no_test_uses_is_read_all_the_same():
    text = FILE.replace("  maria:", "  eve: {id: x, rolls: [y]}\n  maria:").replace(
        "  clicks:", "  b: {id: x}\n  clicks:"
    )
    assert [each.partition(" ")[2] for each in messages(text)] == [
        "unknown key of a subject `rolls`, did you mean `roles`?",
        "`type` is required",
    ]


def test_conditions_count_where_a_case_met_and_missed_them(loaded):
    report = run_cases(load_cases({"x_test.yaml": FILE}), loaded[1], [])
    found = {(each.policy, each.condition): (each.met, each.missed) for each in report.conditions}
    assert found == {
        ("data_scientist_training", "ip_range"): (True, True),
        ("data_scientist_training", "time_window"): (True, True),
        ("production_model_deployment", "approval"): (False, False),
        ("production_model_deployment", "mfa_required"): (False, False),
    }
    assert report.condition_coverage == 50.0


def test_several_processes_report_what_one_does(loaded, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    inputs, snapshot = loaded
    whole = """\
tests:
  - name: a whole request
    request:
      attributes:
        request: {http: {method: GET, host: lake.internal, path: /datasets/clicks/x}}
    expect: {decision: deny}
"""
    texts = {
        "a_test.yaml": FILE,
        "b_test.yaml": whole,
        "c_test.yaml": FILE.replace("decision: allow", "decision: deny"),
    }
    alone, together = (run_files(texts, inputs, snapshot, many=many) for many in (1000, 1))
    assert [(each.case, each.failures, each.why) for each in together.results] == [
        (each.case, each.failures, each.why) for each in alone.results
    ]
    assert (together.covered, together.conditions) == (alone.covered, alone.conditions)
    assert len(together.failed) == 1
    with pytest.raises(DocumentError) as caught:
        run_files({**texts, "d_test.yaml": "tests: 5", "e_test.yaml": "x: 5"}, inputs, snapshot, many=1)
    assert {each.mark.file for each in caught.value.diagnostics} == {"d_test.yaml", "e_test.yaml"}
