"""Who may approve what, for whom."""

import pwd
import time

import credentials as made
import pytest
from approving import ASK, CONFIG, POLICY, approvals, token
from command_line import ran
from projects import SEED_POLICIES, project


@pytest.fixture
def config(tmp_path):
    files = {"policies.yaml": SEED_POLICIES, "jwks.json": made.jwks(made.jwk(made.rsa_key(), kid="1"))}
    return project(tmp_path, CONFIG, files)


def test_an_approval_is_bound_to_policy_digest_subject_and_time(config, capfd):
    assert ran(capfd, *ASK, "--resource", "model/fraud", "-c", config).status == 0
    (one,) = approvals(config)
    assert one.policy == POLICY
    assert len(one.policy_digest) == 64
    assert (one.group, one.subject, one.resource) == ("security_team", "sub:alice", "model/fraud")
    assert one.approver.startswith("os:")
    assert abs(one.expires_at - time.time() - 7200) < 60


def test_a_verified_approver_is_recorded_by_name(config, capfd):
    assert ran(capfd, *ASK, "--as", token(config), "-c", config).status == 0
    assert approvals(config)[0].approver == "sub:carol"


def test_a_role_serves_as_well_as_a_group(config, capfd):
    assert ran(capfd, *ASK, "--as", token(config, groups=[], roles=["security_team"]), "-c", config).status == 0


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"amr": ["pwd"]}, "more than one factor"),
        ({"groups": ["other"]}, "does not hold `security_team`"),
        ({"sub": "alice"}, "nobody approves for themselves"),
        ({"exp": 1_000_000_000, "iat": 999_999_000}, "expired_token"),
        ({"iss": "https://evil.example"}, "invalid_token"),
        ({"aud": "other"}, "invalid_token"),
        ({"cnf": {"x5t#S256": "A" * 43}}, "token_not_bound"),
    ],
)
def test_a_token_that_does_not_prove_enough_approves_nothing(config, capfd, claims, words):
    done = ran(capfd, *ASK, "--as", token(config, **claims), "-c", config)
    assert done.status == 2
    assert words in done.err
    assert approvals(config) == ()


@pytest.mark.parametrize("kind", ["sub", "key"])
def test_who_runs_the_command_approves_nothing_for_the_account_of_the_same_name(config, capfd, monkeypatch, kind):
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("alice", "x", uid, uid, "", "/", "/bin/sh")))
    asked = [f"{kind}:alice" if each == "alice" else each for each in ASK]
    done = ran(capfd, *asked, "-c", config)
    assert (done.status, approvals(config, f"{kind}:alice")) == (2, ())
    assert "nobody approves for themselves" in done.err
    assert ran(capfd, *(f"{kind}:bob" if each == "alice" else each for each in ASK), "-c", config).status == 0


def test_a_revoked_or_quarantined_approver_approves_nothing(config, capfd):
    path = token(config)
    ran(capfd, "quarantine", "carol", "--for", "1h", "--reason", "x", "-c", config)
    assert "quarantined" in ran(capfd, *ASK, "--as", path, "-c", config).err
    ran(capfd, "quarantine", "carol", "--withdraw", "-c", config)
    ran(capfd, "revoke", "--subject", "carol", "-c", config)
    assert "revoked" in ran(capfd, *ASK, "--as", path, "-c", config).err
    assert approvals(config) == ()


def test_what_is_no_token_is_refused(config, capfd):
    path = config.parent / "t"
    for content in (b"", b"two words", b"\xff" * 10, b"x" * 70_000, b"a.b.c"):
        path.write_bytes(content)
        assert ran(capfd, *ASK, "--as", path, "-c", config).status == 2
    assert ran(capfd, *ASK, "--as", path.with_name("none"), "-c", config).status == 2
    assert approvals(config) == ()


def test_an_operating_system_user_is_not_enough_for_two_approvals(config, capfd):
    policies = config.parent / "policies.yaml"
    policies.write_text(SEED_POLICIES + "    approvals: 2\n")
    done = ran(capfd, *ASK, "-c", config)
    assert done.status == 2
    assert "2 verified approvers" in done.err
    assert ran(capfd, *ASK, "--as", token(config), "-c", config).status == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["production_model_deploymnt"], "did you mean `production_model_deployment`"),
        (["data_scientist_training"], "asks for no approval of `security_team` (it asks for: none)"),
    ],
)
def test_only_what_a_policy_asks_for_can_be_approved(config, capfd, change, words):
    done = ran(capfd, "approve", *change, *ASK[2:], "-c", config)
    assert done.status == 2
    assert words in done.err


def test_a_group_the_policy_does_not_ask_for_is_refused(config, capfd):
    done = ran(capfd, *[each.replace("security_team", "friends") for each in ASK], "-c", config)
    assert "it asks for: `security_team`" in done.err


@pytest.mark.parametrize("drop", ["--ttl", "--reason"])
def test_an_end_and_a_reason_are_required(config, capfd, drop):
    at = ASK.index(drop)
    assert ran(capfd, *ASK[:at], *ASK[at + 2 :], "-c", config).status == 2


def test_withdrawing_needs_neither_and_takes_it_back(config, capfd):
    ran(capfd, *ASK, "-c", config)
    assert ran(capfd, *ASK[:6], "--withdraw", "-c", config).status == 0
    assert approvals(config) == ()


def test_a_withdrawal_names_by_number_all_that_it_takes_back(config, capfd):
    ran(capfd, *ASK, "-c", config)
    ran(capfd, *ASK, "--resource", "model/fraud", "-c", config)
    ran(capfd, *ASK, "--resource", "model/churn", "-c", config)
    done = ran(capfd, "approvals", "--withdraw", "2", "-c", config)
    assert done.out.startswith("withdrew approval 2: ")
    done = ran(capfd, "approvals", "--withdraw", "1", "-c", config)
    assert done.out.startswith("withdrew approvals 1, 3: ")
    assert approvals(config) == ()


def test_a_group_cannot_be_approved_for(config, capfd):
    done = ran(capfd, *[each.replace("alice", "group:all") for each in ASK], "-c", config)
    assert done.status == 2
