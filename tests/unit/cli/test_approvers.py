"""Who may approve is itself a policy: it narrows the fixed rules, is never a way round them, and is on record."""

import time

import credentials as made
import orjson
import pytest
from approving import ASK, CONFIG, POLICY, approvals, token
from command_line import ran
from projects import SEED_POLICIES, project

from ext_authz.audit.event import state_event
from ext_authz.state.book import Book
from ext_authz.state.changes import Change, Kind, from_record
from ext_authz.state.sqlite import FILE_NAME, SqliteStore

LEADS = """\
  - id: leads_approve
    subjects: [{role: lead}]
    resources: [{type: policy, id: "production_*", group: security_team}]
    actions: [approve]
    conditions: [{mfa_required: true}, {max: {ttl: 14400}}]
"""


def configured(tmp_path, policies=LEADS, config=CONFIG):
    files = {"policies.yaml": SEED_POLICIES + policies, "jwks.json": made.jwks(made.jwk(made.rsa_key(), kid="1"))}
    return project(tmp_path, config, files)


def rows(config):
    path = config.parent / "run" / FILE_NAME
    if not path.exists():
        return ()
    store = SqliteStore(path)
    try:
        return store.read(0).changes
    finally:
        store.close()


def test_an_approver_whom_a_policy_allows_approves_and_the_decision_is_on_record(tmp_path, capfd):
    config = configured(tmp_path)
    done = ran(capfd, *ASK, "--as", token(config, roles=["lead"]), "-c", config)
    assert done.status == 0, done.err
    (row,) = rows(config)
    assert (row.kind, row.by, row.decision, row.decided_by) == (Kind.APPROVAL, "sub:carol", "allowed", "leads_approve")
    assert len(row.decision_id) == 32
    assert len(row.policy_revision) == 16
    assert len(approvals(config)) == 1
    event = orjson.loads(state_event(row, store_id="s", log_id="l", seq=1, now_ns=time.time_ns()))
    assert event["event"] == "approval_recorded"
    assert event["record"]["decision_id"] == row.decision_id


@pytest.mark.parametrize(
    ("claims", "arguments", "reason"),
    [
        ({"roles": []}, (), "no_policy"),
        ({"roles": ["lead"]}, ("--ttl", "5h"), "conditions_not_met"),
    ],
)
def test_an_approver_whom_no_policy_allows_approves_nothing_and_that_is_on_record_too(
    tmp_path, capfd, claims, arguments, reason
):
    config = configured(tmp_path)
    done = ran(capfd, *ASK, *arguments, "--as", token(config, **claims), "-c", config)
    assert done.status == 1
    assert f"no policy lets sub:carol approve `{POLICY}` ({reason}, decision " in done.err
    (row,) = rows(config)
    assert (row.kind, row.decision, row.subject) == (Kind.REFUSAL, reason, "sub:alice")
    assert row.decision_id in done.err
    assert approvals(config) == ()
    event = orjson.loads(state_event(row, store_id="s", log_id="l", seq=1, now_ns=time.time_ns()))
    assert event["event"] == "refusal_recorded"


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"amr": ["pwd"]}, "more than one factor"),
        ({"groups": ["other"]}, "does not hold `security_team`"),
        ({"sub": "alice"}, "nobody approves for themselves"),
    ],
)
def test_a_policy_never_replaces_the_fixed_rules(tmp_path, capfd, claims, words):
    anyone = "  - {id: anyone, subjects: [{any: true}], resources: [{type: policy}], actions: [approve]}\n"
    config = configured(tmp_path, anyone)
    done = ran(capfd, *ASK, "--as", token(config, **claims), "-c", config)
    assert done.status == 2
    assert words in done.err
    assert rows(config) == ()


def test_an_operating_system_user_is_no_approver_where_policies_decide_but_may_withdraw(tmp_path, capfd):
    config = configured(tmp_path)
    done = ran(capfd, *ASK, "-c", config)
    assert (done.status, "give the approver's token" in done.err) == (2, True)
    assert ran(capfd, *ASK, "--as", token(config, roles=["lead"]), "-c", config).status == 0
    assert ran(capfd, *ASK[:6], "--withdraw", "-c", config).status == 0
    assert approvals(config) == ()


def test_state_approvers_policy_asks_even_where_no_policy_names_the_action(tmp_path, capfd):
    config = configured(tmp_path, "", CONFIG + "state: {approvers: policy}\n")
    done = ran(capfd, *ASK, "--as", token(config), "-c", config)
    assert (done.status, "no_policy" in done.err) == (1, True)
    everything = '  - {id: all, subjects: [{group: security_team}], resources: [{type: "*"}], actions: ["*"]}\n'
    config = configured(tmp_path, everything, CONFIG + "state: {approvers: policy}\n")
    assert ran(capfd, *ASK, "--as", token(config), "-c", config).status == 0


@pytest.mark.parametrize(
    "policies",
    [
        "",
        '  - {id: all, subjects: [{role: root}], resources: [{type: "*"}], actions: ["*"]}\n',
        "  - {id: s, mode: shadow, subjects: [{role: lead}], resources: [{type: policy}], actions: [approve]}\n",
    ],
)
def test_where_no_policy_in_force_names_the_action_the_fixed_rules_stand_alone(tmp_path, capfd, policies):
    config = configured(tmp_path, policies)
    assert ran(capfd, *ASK, "--as", token(config), "-c", config).status == 0
    assert rows(config)[0].decision_id == ""


@pytest.mark.parametrize(
    ("deny", "arguments", "status"),
    [
        ("{type: policy, subject: 'sub:alice'}", (), 1),
        ("{type: policy, subject: 'sub:bob'}", (), 0),
        ("{type: policy, resource_type: model, resource_id: fraud}", ("--resource", "model/fraud"), 1),
        ("{type: policy, resource_type: model, resource_id: fraud}", ("--resource", "model/churn"), 0),
        ("{type: policy, resource_type: model, resource_id: fraud}", (), 1),  # for all models, that one too
    ],
)
def test_a_deny_hits_approvals_by_subject_and_resource(tmp_path, capfd, deny, arguments, status):
    config = configured(tmp_path, LEADS + f"  - {{id: no, effect: deny, resources: [{deny}], actions: [approve]}}\n")
    done = ran(capfd, *ASK, *arguments, "--as", token(config, roles=["lead"]), "-c", config)
    assert done.status == status, done.err


def test_what_is_not_known_of_an_approver_lets_nobody_approve(tmp_path, capfd):
    config = configured(tmp_path, LEADS.replace("{mfa_required: true}", "{ip_range: 0.0.0.0/0}"))
    done = ran(capfd, *ASK, "--as", token(config, roles=["lead"]), "-c", config)
    assert (done.status, "conditions_not_met" in done.err) == (1, True)


def test_the_catalog_may_say_more_of_a_policy_but_not_for_whom_it_is_approved(tmp_path, capfd):
    known = "resources: {catalog: [{type: policy, id: production_model_deployment, tier: one, subject: 'sub:zoe'}]}\n"
    wanted = LEADS.replace("group: security_team}", "tier: one, subject: 'sub:alice'}")
    config = configured(tmp_path, wanted, CONFIG + known)
    assert ran(capfd, *ASK, "--as", token(config, roles=["lead"]), "-c", config).status == 0


def test_two_people_approve_where_two_are_wanted_and_one_of_them_twice_is_one(tmp_path, capfd):
    config = configured(tmp_path, "    approvals: 2\n" + LEADS)
    for _ in range(2):
        assert ran(capfd, *ASK, "--as", token(config, roles=["lead"]), "-c", config).status == 0
    assert {each.approver for each in approvals(config)} == {"sub:carol"}
    assert ran(capfd, *ASK, "--as", token(config, sub="dan", roles=["lead"]), "-c", config).status == 0
    assert {each.approver for each in approvals(config)} == {"sub:carol", "sub:dan"}


def test_check_knows_the_action_and_who_can_answers_for_it(tmp_path, capfd):
    routes = "resources: {routes: [{host: a.internal, protocol: open-inference}]}\n"
    config = configured(tmp_path, LEADS, CONFIG + routes)
    assert "approve" not in ran(capfd, "check", "-c", config).err
    asked = ran(capfd, "access", "--action", "approve", "--resource", f"policy/{POLICY}", "-c", config)
    assert asked.status == 0, asked.err
    assert "leads_approve" in asked.out


def test_a_refusal_changes_no_state_and_reads_back():
    refusal = Change(
        Kind.REFUSAL,
        "sub:carol",
        1,
        id=1,
        subject="sub:a",
        policy="p",
        group="g",
        decision_id="d",
        decision="no_policy",
    )
    assert from_record(refusal.record(), 1) == refusal
    book = Book()
    book.apply(refusal)
    assert book.last_id == 1
    assert book.active(2) == ()
    assert refusal.problem() is None
    assert Change(Kind.REFUSAL, "sub:carol", 1, subject="sub:a", policy="p", group="g").problem()
    assert Change(Kind.REFUSAL, "sub:c", 1, withdraw=True, subject="sub:a").problem()


@pytest.mark.parametrize("action", ["approv*", "approve*", "a*"])
def test_a_beginning_of_the_action_names_it_too(tmp_path, capfd, action):
    config = configured(tmp_path, LEADS.replace("[approve]", f'["{action}"]'))
    refused = ran(capfd, *ASK, "--as", token(config, roles=[]), "-c", config)
    assert (refused.status, approvals(config)) == (1, ())
    assert ran(capfd, *ASK, "-c", config).status == 2
    assert ran(capfd, *ASK, "--as", token(config, roles=["lead"]), "-c", config).status == 0
    assert len(approvals(config)) == 1


def test_nobody_is_let_approve_under_another_spelling_of_their_own_name(tmp_path, capfd):
    config = configured(tmp_path)
    done = ran(capfd, *ASK, "--as", token(config, roles=["lead"], sub="Alice"), "-c", config)
    assert (done.status, done.err.strip(), rows(config)) == (2, "nobody approves for themselves", ())
