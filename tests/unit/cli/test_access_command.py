"""`access` as auditors use it."""

import csv
import io

import orjson
import pytest
from command_line import ran
from policy_support import ask, compiled, subject
from projects import LAKE, MINIMAL, SEED_POLICIES, project
from recorded_events import event_of

BINDINGS = """\
identity:
  role_bindings:
    - {role: data_scientist, members: ["spiffe://ml.example/ns/research/sa/*", "group:science", "sub:alice"]}
"""


@pytest.fixture
def config(tmp_path):
    return project(tmp_path, MINIMAL + LAKE + BINDINGS, {"policies.yaml": SEED_POLICIES})


def test_who_may_read_a_data_set(config, capfd):
    done = ran(capfd, "access", "-c", config, "--action", "read_data", "--resource", "dataset/clicks")
    assert done.status == 0
    assert "role data_scientist" in done.out
    assert "group:science" in done.out
    assert "10.0.0.0/8" in done.out
    done = ran(capfd, "access", "-c", config, "--action", "drop", "--resource", "dataset/clicks")
    assert done.out == "nobody, ever\n"


def test_the_catalog_says_what_the_resource_is(config, capfd):
    known = ran(capfd, "access", "-c", config, "--resource", "dataset/clicks", "--format", "json").out
    [row] = orjson.loads(known)["allowed"]
    assert row["conditions"][0] == "from 10.0.0.0/8"
    unknown = ran(capfd, "access", "-c", config, "--resource", "dataset/other", "--format", "json").out
    assert orjson.loads(unknown)["allowed"][0]["conditions"][0] == "sensitivity is low"
    high = ("--resource", "dataset/other", "--attribute", "sensitivity=high", "--format", "json")
    assert orjson.loads(ran(capfd, "access", "-c", config, *high).out) == {"allowed": [], "never": []}


def test_a_name_that_no_policy_has_is_pointed_out_beside_the_answer(config, capfd):
    done = ran(capfd, "access", "-c", config, "--action", "read_dat", "--resource", "datasets/clicks")
    assert (done.status, done.out) == (0, "nobody, ever\n")
    assert done.err == (
        "warning: no policy names the action `read_dat`, did you mean `read_data`?\n"
        "warning: no policy names the resource type `datasets`, did you mean `dataset`?\n"
    )
    done = ran(capfd, "access", "-c", config, "--subject", "bob", "--role", "data_scientists\x1b")
    assert done.out == "nothing\n"
    assert done.err == ("warning: no policy names the role `data_scientists\\x1b`, did you mean `data_scientist`?\n")
    assert ran(capfd, "access", "-c", config, "--subject", "bob", "--role", "mlops_engineer").err == ""


def test_a_table_cuts_no_name_off(tmp_path, capfd):
    member = "spiffe://ml.example/ns/" + "a-namespace-with-a-long-name/" * 8 + "sa/caller"
    bindings = f'identity:\n  role_bindings:\n    - {{role: data_scientist, members: ["{member}"]}}\n'
    config = project(tmp_path, MINIMAL + LAKE + bindings, {"policies.yaml": SEED_POLICIES})
    out = ran(capfd, "access", "-c", config, "--action", "read_data", "--resource", "dataset/clicks").out
    assert "…" not in out
    assert "a-namespace-with-a-long-name/" in out


def test_what_a_subject_may_do_by_its_bindings(config, capfd):
    certificate = ran(capfd, "access", "-c", config, "--subject", "spiffe://ml.example/ns/research/sa/x")
    assert "data_scientist_training" in certificate.out
    assert "production_model_deployment" not in certificate.out
    assert ran(capfd, "access", "-c", config, "--subject", "spiffe://ml.example/ns/ops/sa/x").out == "nothing\n"
    token = ran(capfd, "access", "-c", config, "--subject", "bob", "--format", "json").out
    assert {row["conditions"][0] for row in orjson.loads(token)["allowed"]} == {
        "role data_scientist",
        "role mlops_engineer",
    }
    said = ran(
        capfd, "access", "-c", config, "--subject", "bob", "--role", "x", "--group", "science", "--format", "json"
    )
    assert {row["policy"] for row in orjson.loads(said.out)["allowed"]} == {"data_scientist_training"}
    assert ran(capfd, "access", "-c", config, "--subject", "anonymous").out == "nothing\n"


def test_csv_is_csv_and_no_formula(tmp_path, capfd):
    text = 'policies: [{id: p, subjects: [{id: "*"}, {org: "=1+1"}], resources: [{type: "=x,y"}], actions: ["-a"]}]'
    config = project(tmp_path, files={"policies.yaml": text})
    done = ran(capfd, "access", "-c", config, "--action", "-a", "--format", "csv")
    head, *rows = csv.reader(io.StringIO(done.out))
    assert head == ["subject", "held_by", "resource", "policy", "conditions", "unless", "ttl"]
    assert [row[0] for row in rows] == ["*", "org =1+1"]
    assert rows[0][2] == "'=x,y"


def test_what_nobody_used(config, tmp_path, capfd):
    policies = compiled(SEED_POLICIES)
    alice = subject(roles=["data_scientist"], claims={"a": 1})
    query = ask(alice, "dataset", "clicks", "read_data", attributes={"sensitivity": "low"})
    trail = tmp_path / "events.jsonl"
    trail.write_bytes(event_of(query, policies) + b"\n")
    at = ("--at", "2026-11-24T00:00:00Z")
    done = ran(capfd, "access", trail, "-c", config, "--unused", "30d", *at)
    assert "submit_training_job" in done.out
    assert "read_data" not in done.out
    assert "the trail does not reach back 30d" in done.err
    plain = orjson.loads(ran(capfd, "access", trail, "-c", config, "--unused", "1h", *at, "--format", "json").out)
    assert {each["policy"]: each["part"] for each in plain["unused"]} == dict.fromkeys(
        ["data_scientist_training", "production_model_deployment"], "policy"
    )
    assert plain["allows"] == 1
    rows = ran(capfd, "access", trail, "-c", config, "--unused", "1h", *at, "--format", "csv").out
    assert rows.splitlines()[0] == "policy,part,alternative,uses,last_used"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say `--action`"),
        (["--action", "a", "--unused", "1d"], "say `--action`"),
        (["trail", "--action", "a"], "AUDIT goes with"),
        (["--action", "a", "--role", "r"], "goes with `--subject`"),
        (["--action", "a", "--attribute", "a=b"], "goes with `--resource`"),
        (["--resource", "a/b", "--attribute", "a"], "`a` is not NAME=VALUE"),
        (["--subject", "anonymous", "--role", "r"], "an anonymous caller has no role"),
        (["--unused", "soon"], "--unused"),
        (["--unused", "1d"], "there is no audit trail"),
    ],
)
def test_what_makes_no_sense_is_refused(config, arguments, says, capfd):
    done = ran(capfd, "access", "-c", config, *arguments)
    assert done.status == 2
    assert says in done.err


BOUND = """\
identity:
  jwt: [{issuer: https://idp.example, audiences: [ml], hmac_secret_file: secret, claims: {groups: groups%s}}]
  role_bindings: [{role: data_scientist, members: ["group:ds"]}, {role: owner, members: ["sub:olga"]}]
resources: {routes: [{host: a.internal, protocol: open-inference}]}
policies: {files: [policies.yaml]}
"""
TWO = """\
policies:
  - {id: ds, subjects: [{role: data_scientist}], resources: [{type: model}], actions: [infer]}
  - {id: owners, subjects: [{role: owner}], resources: [{type: model}], actions: [delete_model, infr]}
"""


@pytest.mark.parametrize(
    ("roles", "arguments", "wanted"),
    [
        ("", ("--group", "ds"), [["ds", ""]]),
        ("", ("--group", "other"), []),
        ("", (), [["ds", "role data_scientist"], ["owners", "role owner"]]),  # of groups nothing was said
        (", roles: roles", ("--group", "ds"), [["ds", "role data_scientist"], ["owners", "role owner"]]),
    ],
)
def test_bound_roles_are_all_there_are_where_no_issuer_grants_any_and_the_groups_are_known(
    tmp_path, capfd, roles, arguments, wanted
):
    config = project(tmp_path, BOUND % roles, {"policies.yaml": TWO, "secret": "s" * 40})
    out = ran(capfd, "access", "--subject", "alice", *arguments, "--format", "csv", "-c", config).out
    rows = [line.split(",") for line in out.splitlines()[1:]]
    assert [[row[-4], row[-3]] for row in rows] == wanted


def test_an_action_of_another_adapter_is_no_slip_of_the_pen(tmp_path, capfd):
    config = project(tmp_path, BOUND % "", {"policies.yaml": TWO, "secret": "s" * 40})
    told = ran(capfd, "check", "-c", config).err
    assert "yields action `infr`, did you mean `infer`?" in told
    assert "yields action `delete_model`\n" in told
