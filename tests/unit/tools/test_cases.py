"""Policy test files: what can be written, what is refused, what comes of it."""

import pytest
from projects import LAKE, MINIMAL, SEED_POLICIES, project

from ext_authz import wiring
from ext_authz.documents import DocumentError
from ext_authz.model import Auth, Risk
from ext_authz.tools.case_reader import load_cases
from ext_authz.tools.runner import junit, run_cases

SEEDS = """\
tests:
  - name: a data scientist reads low-sensitivity data in office hours
    at: 2026-11-23T10:00:00Z
    subject:  {id: "sub:alice", auth: jwt, roles: [data_scientist], mfa: true}
    resource: {type: dataset, id: clicks, sensitivity: low}
    action: read_data
    context: {ip: 10.1.2.3, risk: low, approvals: [security_team]}
    expect: {decision: allow, policy: data_scientist_training}
"""


def case(text, **changes):
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def cases(*lines):
    return load_cases({"x_test.yaml": "tests:\n" + "".join(f"  - {line}\n" for line in lines)})


def one(subject="{id: alice}", more="", context="{}", expect="{decision: deny}"):
    context = "" if context == "{}" else f", context: {context}"
    return (
        f"{{name: n, at: 2026-11-23T10:00:00Z, subject: {subject}, resource: {{type: t, id: i}}, action: a{more}{context},"
        f" expect: {expect}}}"
    )


def messages(*lines):
    with pytest.raises(DocumentError) as caught:
        cases(*lines)
    return [each.message for each in caught.value.diagnostics]


@pytest.fixture
def snapshot(tmp_path):
    config = project(
        tmp_path, "identity: {unsafe_anonymous: true}\n" + LAKE + MINIMAL, {"policies.yaml": SEED_POLICIES}
    )
    return wiring.load(config, {})[1]


def run(snapshot, *lines):
    return run_cases(cases(*lines), snapshot, [each.id for each in snapshot.policies.policies])


def test_the_contracts_example_passes(snapshot):
    report = run_cases(load_cases({"seed_test.yaml": SEEDS}), snapshot, ["data_scientist_training", "other"])
    assert [each.failures for each in report.results] == [()]
    assert (report.covered, report.uncovered, report.coverage) == (("data_scientist_training",), ("other",), 50.0)


@pytest.mark.parametrize(
    ("written", "subject_id", "name", "auth"),
    [
        ("alice", "sub:alice", "alice", Auth.JWT),
        ("sub:alice", "sub:alice", "alice", Auth.JWT),
        ("key:batch-7", "key:batch-7", "batch-7", Auth.API_KEY),
        ("spiffe://a/b", "spiffe://a/b", "spiffe://a/b", Auth.MTLS),
        ("dns:a.b", "dns:a.b", "a.b", Auth.MTLS),
        ("x509:CN=a", "x509:CN=a", "CN=a", Auth.MTLS),
    ],
)
def test_a_subjects_name_says_how_it_proved_itself(written, subject_id, name, auth):
    (made,) = cases(one(f'{{id: "{written}"}}'))
    assert (made.query.subject.id, made.query.subject.name, made.query.subject.auth) == (subject_id, name, auth)


def test_an_anonymous_subject_has_no_name():
    (made,) = cases(one("{auth: anonymous}"))
    assert (made.query.subject.id, made.query.subject.auth) == ("anonymous:", Auth.ANONYMOUS)
    assert messages(one("{auth: anonymous, id: x}")) == ["an anonymous subject has no `id`"]
    assert messages(one("{roles: [r]}")) == ["a subject needs an `id`, or `auth: anonymous`"]


def test_every_clock_is_the_cases_own():
    (made,) = cases(one("{id: a, token_age: 5m}", context="{time: 2026-11-23T12:00:00Z}"))
    assert made.query.context.now_ns == 1_795_428_000_000_000_000
    assert made.query.context.time_ns == made.query.context.now_ns + 7200 * 10**9
    assert made.query.subject.issued_at == 1_795_428_000 - 300


def test_a_case_without_a_time_has_the_files_or_a_fixed_one():
    line = one().replace(" at: 2026-11-23T10:00:00Z,", "")
    (made,) = cases(line)
    assert made.at_ns == made.query.context.now_ns == 1_767_614_400_000_000_000
    (made,) = load_cases({"x_test.yaml": f"at: 2026-11-23T10:00:00Z\ntests:\n  - {line}\n"})
    assert made.at_ns == 1_795_428_000_000_000_000


def test_what_is_unknown_can_be_said():
    (made,) = cases(one(context="{ip: unknown, risk: unknown, approvals: unknown}"))
    context = made.query.context
    assert (context.ip, context.risk, context.approvals) == (None, None, None)
    (made,) = cases(one())
    assert (made.query.context.ip, made.query.context.risk, made.query.context.approvals) == (None, Risk.LOW, ())


def test_each_approval_listed_is_somebody_elses():
    (made,) = cases(one(context="{approvals: [g, g, {group: h, approver: carol}, {group: h, approver: 'os:root'}]}"))
    assert len({each.approver for each in made.query.context.approvals}) == 4
    assert made.query.context.approvals[2].approver == "sub:carol"


def test_claims_and_attributes_have_the_types_they_look_like():
    (made,) = cases(
        one("{id: a, claims: {n: 1, b: true, t: '1', l: [1, x]}}", more=", attributes: {rows: 64, s: '64'}")
    )
    assert made.query.subject.claims == {"n": 1, "b": True, "t": "1", "l": [1, "x"]}
    assert made.query.attributes == {"rows": 64, "s": "64"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x", "a test must be a mapping"),
        ("{at: 2026-11-23T10:00:00Z}", "`name` is required"),
        (one(expect="{}"), "`expect` is empty"),
        (one(expect="{decision: maybe}"), "unknown decision `maybe`"),
        (one(expect="{decision: allow, reason: no_polcy}"), "did you mean `no_policy`"),
        (one(expect="{decision: allow, headers: {a: b}}"), "`headers` can be expected only of a whole `request`"),
        (one(expect="{decision: allow, polcy: x}"), "did you mean `policy`"),
        (one("{id: a, rols: [x]}"), "did you mean `roles`"),
        (one("{id: a, auth: password}"), "unknown `auth` `password`"),
        (one("{id: a, mfa: yes}"), "unknown `mfa` `yes`"),
        (one("{id: a, token_age: 5}"), "`5` is not a duration"),
        (one(context="{ip: 10.0.0.300}"), "neither an IP address nor `unknown`"),
        (one(context="{risk: huge}"), "unknown `risk` `huge`"),
        (one(context="{approvals: g}"), "`approvals` must be a list of groups"),
        (one(context="{approval: [g]}"), "did you mean `approvals`"),
        (one(more=", attributes: {a: [1]}"), "must be text, a whole number or a flag"),
        (one(more=", actoin: x"), "did you mean `action`"),
        (one().replace("2026-11-23T10:00:00Z", "monday"), "is not a time with an offset"),
        ("{name: n, at: 2026-11-23T10:00:00Z, request: {}, expect: {decision: deny}, subject: {id: a}}", "comes from the `request`"),
        ("{name: n, at: 2026-11-23T10:00:00Z, request: {atributes: {}}, expect: {decision: deny}}", "not a CheckRequest"),
        ("{name: n, at: 2026-11-23T10:00:00Z, request: {attributes: {}}, expect: {decision: deny}, context: {ip: 10.0.0.1}}", "`ip` comes from the request itself"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_not_guessed(line, words):
    assert any(words in each for each in messages(line))


def test_all_mistakes_of_all_files_come_at_once():
    with pytest.raises(DocumentError) as caught:
        load_cases(
            {"a_test.yaml": "tests: [x, {}]\n", "b_test.yaml": "a: [\n", "c_test.yaml": "", "d_test.yaml": "test: []\n"}
        )
    files = [each.mark.file for each in caught.value.diagnostics]
    assert files.count("a_test.yaml") == 2
    assert {"b_test.yaml", "c_test.yaml", "d_test.yaml"} <= set(files)


def test_two_tests_of_one_name_are_a_mistake():
    assert messages(one(), one()) == ["another test of this file is called `n`"]


def test_what_differs_is_said_field_by_field(snapshot):
    expect = "{decision: allow, reason: allowed, policy: x, policies: [x], shadow: [y], ttl: 5m, http_status: 200}"
    (result,) = run(snapshot, one(expect=expect)).results
    assert result.failures == (
        "expected allow, got deny (no_policy)",
        "expected policy `x`, got ``",
        "expected ttl `300`, got none",
        "expected http_status `200`, got `403`",
        "expected policies `x`, got none",
        "expected shadow policies `y`, got none",
    )


REQUEST = (
    "{name: n, at: 2026-11-23T10:00:00Z, request: {attributes: {source: {address: {socketAddress: {address: 10.1.2.3}}},"
    " request: {http: {method: GET, host: lake.internal, path: PATH, headers: {x-n: 5, x-b: true}}}}}, expect: EXPECT}"
)


def test_a_whole_request_goes_the_whole_way(snapshot):
    expect = (
        '{decision: deny, reason: no_policy, subject: "anonymous:", resource: {type: dataset, id: clicks}, '
        'action: read_data, http_status: 403, policy: ""}'
    )
    (result,) = run(snapshot, REQUEST.replace("PATH", "/datasets/clicks/d").replace("EXPECT", expect)).results
    assert result.failures == ()
    assert result.outcome.context.time_ns == 1_795_428_000_000_000_000
    assert str(result.outcome.context.ip) == "10.1.2.3"


def test_headers_of_a_whole_request_can_be_expected(snapshot):
    expect = "{decision: allow, reason: public_route, headers: {x-authz-decision-id: test, x-authz-subject: null}, remove_headers: [x-authz-subject]}"
    (result,) = run(snapshot, REQUEST.replace("PATH", "/healthz").replace("EXPECT", expect)).results
    assert result.failures == ()
    wrong = expect.replace("x-authz-subject: null", "x-authz-subject: alice").replace("[x-authz-subject]", "[x-other]")
    (result,) = run(snapshot, REQUEST.replace("PATH", "/healthz").replace("EXPECT", wrong)).results
    assert result.failures == (
        "expected header `x-authz-subject` `alice`, got none",
        "expected header `x-other` to be removed",
    )


def test_a_whole_requests_risk_and_approvals_are_the_cases_own(snapshot):
    line = REQUEST.replace("PATH", "/datasets/a/b").replace("EXPECT", "{decision: deny}")
    (result,) = run(snapshot, line.replace(", expect", ", context: {risk: high, approvals: [g]}, expect")).results
    assert result.outcome.context.risk is Risk.HIGH
    assert [each.group for each in result.outcome.context.approvals] == ["g"]


def test_junit_is_well_formed_whatever_names_hold():
    import xml.etree.ElementTree as ET
    from dataclasses import replace

    from ext_authz.tools.runner import CaseResult, Report

    (made,) = cases(one())
    odd = replace(made, name='<&"]]>\x00\x1b\ufffe')
    result = CaseResult(odd, ("a <b> ]]> \x01",), None, 0.5)
    root = ET.fromstring(junit(Report((result, CaseResult(odd, (), None, 0.1)), (), ())))
    assert root.attrib["tests"] == "2"
    assert root.find("testsuite").attrib["failures"] == "1"
    assert [each.attrib["name"] for each in root.iter("testcase")] == ['<&"]]>'] * 2
