"""check, explain, test: from files to exit status."""

import io
import json
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import broken
import pytest
from command_line import ran
from projects import LAKE, MINIMAL, SEED_POLICIES, project

ANONYMOUS = "identity: {unsafe_anonymous: true}\n"
TESTS = """\
tests:
  - name: a data scientist reads clicks in office hours
    at: 2026-11-23T10:00:00Z
    subject: {id: alice, roles: [data_scientist]}
    resource: {type: dataset, id: clicks, sensitivity: low}
    action: read_data
    context: {ip: 10.1.2.3}
    expect: {decision: allow, policy: data_scientist_training}
"""


def request(**http):
    made = {"method": "GET", "host": "lake.internal", "path": "/datasets/clicks/day", **http}
    source = {"address": {"socketAddress": {"address": "10.1.2.3", "portValue": 4}}}
    return json.dumps({"attributes": {"source": source, "request": {"http": made}}})


@pytest.fixture
def lake(tmp_path):
    files = {"policies.yaml": SEED_POLICIES, "request.json": request(), "policies_test.yaml": TESTS}
    return project(tmp_path, ANONYMOUS + LAKE + MINIMAL, files)


@pytest.mark.parametrize("case", broken.CASES)
def test_check_prints_the_whole_report_and_exits_2(case, capfd, monkeypatch):
    monkeypatch.chdir(broken.FOLDER / case)
    # Policy tests are read by the command that runs them.
    done = ran(capfd, *(("test", "policies_test.yaml") if broken.has_tests(case) else ("check",)))
    assert done.status == 2
    assert done.err == (broken.FOLDER / case / "expected.txt").read_text()
    assert done.out == ""


def test_a_clean_configuration_says_what_it_is(tmp_path, capfd):
    config = project(
        tmp_path,
        "identity: {mtls: {trust_domains: [a]}}\n"
        "resources: {routes: [{host: a.internal, path: /x, resource: {type: t, id: i}, action: read_data}]}\n"
        + MINIMAL,
    )
    done = ran(capfd, "check", "--strict", "-c", config)
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(r".*ext-authz\.yaml: 1 policy, 1 route, 0 catalog entries, revision [0-9a-f]{16}\n", done.out)


def test_warnings_fail_only_when_asked_to(lake, capfd):
    assert ran(capfd, "check", "-c", lake).status == 0
    done = ran(capfd, "check", "--strict", "-c", lake)
    assert done.status == 1
    assert "warning: nobody can hold role `data_scientist`" in done.err


def test_check_as_json_is_one_array(lake, capfd):
    found = json.loads(ran(capfd, "check", "--format", "json", "-c", lake).out)
    assert {each["severity"] for each in found} == {"warning"}
    assert all(each["code"] and each["line"] for each in found)


def test_check_for_github_escapes_what_would_end_a_command(tmp_path, capfd):
    config = project(tmp_path, '"a%b:c,d": x\n' + MINIMAL)
    done = ran(capfd, "check", "--format", "github", "-c", config)
    assert done.status == 2
    (line,) = done.out.splitlines()
    assert line.startswith("::error file=")
    assert line.endswith("line=1,col=1::unknown key `a%25b:c,d`")


def test_check_creates_nothing(lake, capfd):
    before = sorted(lake.parent.rglob("*"))
    ran(capfd, "check", "-c", lake)
    assert sorted(lake.parent.rglob("*")) == before


def test_check_says_where_a_key_of_the_trail_is_not_to_be_had(tmp_path, capfd):
    keys = "audit: {encryption: {key: 'file:none.keyring'}, signing: {key: 'file:none.pem'}}\n"
    done = ran(capfd, "check", "-c", project(tmp_path, ANONYMOUS + keys + MINIMAL))
    assert done.status == 2
    assert re.findall(r":2:\d+: .*", done.err) == [
        f":2:27: cannot read `{tmp_path}/none.keyring`: no such file or directory",
        f":2:64: cannot read `{tmp_path}/none.pem`: no such file or directory",
    ]


def test_check_warns_of_secrets_that_others_can_read(tmp_path, capfd):
    text = "identity: {jwt: [{issuer: i, audiences: [a], hmac_secret_file: secret}]}\n" + MINIMAL
    config = project(tmp_path, text, {"secret": "0123456789abcdef" * 4})
    (tmp_path / "secret").chmod(0o644)
    assert "holds a secret and others can use it (mode 0644)" in ran(capfd, "check", "-c", config).err
    (tmp_path / "secret").chmod(0o600)
    assert "holds a secret" not in ran(capfd, "check", "-c", config).err


def test_explain_prints_the_decision_object(lake, capfd):
    done = ran(capfd, "explain", lake.parent / "request.json", "--json", "-c", lake)
    assert done.status == 0
    found = json.loads(done.out)
    wanted = {
        "decision", "reason", "http_status", "policy_id", "policies", "shadow", "policy_revision", "subject", "resource",
        "action", "context", "headers", "remove_headers", "ttl", "trace", "would_allow_if",
    }  # fmt: skip
    assert wanted <= set(found)
    assert (found["decision"], found["reason"], found["http_status"]) == ("deny", "no_policy", 403)
    assert found["resource"] == {"type": "dataset", "id": "clicks", "version": "", "attributes": {"sensitivity": "low"}}
    assert [each["policy_id"] for each in found["trace"]] == ["data_scientist_training", "production_model_deployment"]
    assert any("role data_scientist" in each for each in found["would_allow_if"])


def test_explain_decides_as_of_the_time_given(lake, capfd):
    policies = SEED_POLICIES.replace("{role: data_scientist}", "{auth: anonymous}")
    (lake.parent / "policies.yaml").write_text(policies)
    ask = ["explain", lake.parent / "request.json", "--json", "-c", lake, "--at"]
    assert json.loads(ran(capfd, *ask, "2026-11-23T10:00:00Z").out)["decision"] == "allow"
    closed = json.loads(ran(capfd, *ask, "2026-11-22T03:00:00Z").out)
    assert (closed["decision"], closed["reason"]) == ("deny", "conditions_not_met")
    assert closed["context"]["time"].startswith("2026-11-22T03:00:00")


def test_explain_for_people_shows_no_control_characters(lake, capfd):
    (lake.parent / "request.json").write_text(request(path="/datasets/%1b%5b31m/x"))
    for path in ("/datasets/a/x", "/datasets/caf%C3%A9/x", "/nothing"):
        (lake.parent / "request.json").write_text(request(path=path))
        done = ran(capfd, "explain", lake.parent / "request.json", "-c", lake)
        assert done.status == 0
        assert done.out.startswith("DENY")
        assert "\x1b" not in done.out


def test_explain_counts_the_policies_that_do_not_concern_the_request_among_many(lake, capfd):
    others = [
        f"  - {{id: p{n}, subjects: [{{role: r{n}}}], resources: [{{type: dataset}}], actions: [x]}}" for n in range(8)
    ]
    others += ["  - {id: models, subjects: [{auth: anonymous}], resources: [{type: model}], actions: [x]}"]
    near = "  - {id: near, subjects: [{auth: anonymous}], resources: [{type: dataset}], actions: [read_data], conditions: [{ip_range: 192.0.2.0/24}]}"
    file = lake.parent / "policies.yaml"
    file.write_text("\n".join(["policies:", *others, near, ""]))
    short = ran(capfd, "explain", lake.parent / "request.json", "-c", lake)
    assert "p7" in short.out  # ten are shown
    more = "  - {id: another, subjects: [{auth: anonymous}], resources: [{type: dataset}], actions: [write_data]}"
    file.write_text("\n".join(["policies:", *others, near, more, ""]))
    short = ran(capfd, "explain", lake.parent / "request.json", "-c", lake).out
    assert "near " in short
    assert "p7" not in short
    told = "10 policies do not concern it: 8 for other subjects, 1 of other resources, 1 of other actions (`--all` shows them)"
    assert told in short
    whole = ran(capfd, "explain", lake.parent / "request.json", "--all", "-c", lake).out
    assert told not in whole
    assert all(f"p{n} " in whole for n in range(8))


def test_explain_reads_stdin(lake, capfd, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(request(path="/healthz").encode())))
    done = ran(capfd, "explain", "-", "-c", lake)
    assert done.out.startswith("ALLOW  public_route (200)")


def test_explain_knows_the_recorded_state(lake, capfd):
    policies = SEED_POLICIES.replace("{role: data_scientist}", "{auth: anonymous}")
    (lake.parent / "policies.yaml").write_text(policies)
    ran(capfd, "quarantine", "anonymous:", "--for", "1h", "--reason", "x", "-c", lake)
    done = ran(capfd, "explain", lake.parent / "request.json", "--json", "-c", lake)
    assert json.loads(done.out)["reason"] == "quarantined"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"attributs": {}}', "\x00\xff"])
def test_a_request_that_is_none_is_a_usage_error(lake, capfd, content):
    path = lake.parent / "request.json"
    path.write_text(content)
    done = ran(capfd, "explain", path, "-c", lake)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"{path}: ")


def test_a_malformed_request_is_explained_as_the_server_answers_it(lake, capfd):
    (lake.parent / "request.json").write_text("{}")
    done = ran(capfd, "explain", lake.parent / "request.json", "--json", "-c", lake)
    assert json.loads(done.out)["reason"] == "malformed_request"


def test_a_time_without_an_offset_is_a_usage_error(lake, capfd):
    assert ran(capfd, "explain", lake.parent / "request.json", "--at", "2026-11-23", "-c", lake).status == 2


def test_policy_tests_beside_the_policies_are_found_and_run(lake, capfd):
    done = ran(capfd, "test", "-c", lake)
    assert done.status == 0
    assert "ok   a data scientist reads clicks in office hours" in done.out
    assert "1 passed, 0 failed; 1 of 2 policies applied (50 %)" in done.out
    assert "never applied: production_model_deployment" in done.out


def test_too_little_coverage_fails(lake, capfd):
    assert ran(capfd, "test", "--min-coverage", "50", "-c", lake).status == 0
    done = ran(capfd, "test", "--min-coverage", "51", "-c", lake)
    assert done.status == 1
    assert done.err == "coverage 50 % is below 51 %\n"


def test_a_failing_case_says_what_differed(lake, capfd):
    (lake.parent / "policies_test.yaml").write_text(TESTS.replace("10.1.2.3", "192.0.2.1"))
    report = lake.parent / "report.xml"
    done = ran(capfd, "test", "--quiet", "--junit", report, "-c", lake)
    assert done.status == 1
    assert "FAIL a data scientist" in done.out
    assert "expected allow, got deny by `data_scientist_training` (conditions_not_met)" in done.out
    assert "data_scientist_training: ip_range: " in done.out
    assert "would be allowed from 10.0.0.0/8" in done.out
    (suite,) = ET.fromstring(report.read_text())
    assert suite.attrib["failures"] == "1"
    assert suite.find("testcase/failure") is not None


def test_a_case_that_expected_an_allow_hears_of_denies_that_applied_and_of_no_others(lake, capfd):
    denies = """\
  - {id: not_here, effect: deny, resources: [{type: dataset}], conditions: [{ip_range: 203.0.113.0/24}]}
  - {id: tried, effect: deny, mode: shadow, resources: [{type: dataset}]}
  - {id: here, effect: deny, resources: [{type: dataset}], conditions: [{ip_range: 10.0.0.0/8}]}
"""
    (lake.parent / "policies.yaml").write_text("policies:\n" + denies + SEED_POLICIES.partition("policies:\n")[2])
    done = ran(capfd, "test", "--quiet", "-c", lake)
    assert done.status == 1
    assert "expected allow, got deny by `here` (denied_by_policy)" in done.out
    assert "here: matched: " in done.out
    assert "not_here" not in done.out.partition("passed")[0]
    assert "tried" not in done.out.partition("passed")[0]


def test_named_paths_and_folders_are_looked_through(lake, capfd):
    more = lake.parent / "more" / "deep"
    more.mkdir(parents=True)
    (more / "x_test.yaml").write_text(TESTS)
    assert "1 passed" in ran(capfd, "test", lake.parent / "more", "-c", lake).out
    assert "1 passed" in ran(capfd, "test", more / "x_test.yaml", "-c", lake).out
    assert ran(capfd, "test", more / "none_test.yaml", "-c", lake).status == 2


def test_no_tests_at_all_is_an_error(tmp_path, capfd):
    done = ran(capfd, "test", "-c", project(tmp_path))
    assert done.status == 2
    assert "no policy tests" in done.err


def test_other_tests_do_not_stand_in_for_those_of_a_folder_without_any(lake, capfd):
    empty = lake.parent / "empty"
    empty.mkdir()
    done = ran(capfd, "test", empty, "-c", lake)
    assert (done.status, done.out) == (2, "")
    assert done.err == f"no policy tests (`*_test.yaml`) found: {empty}\n"


def test_a_mistake_in_a_test_file_is_placed(lake, capfd):
    path = lake.parent / "policies_test.yaml"
    path.write_text(TESTS.replace("decision: allow", "decison: allow"))
    done = ran(capfd, "test", "-c", lake)
    assert done.status == 2
    assert f"{path}:8:14: unknown key of `expect` `decison`, did you mean `decision`?" in done.err
