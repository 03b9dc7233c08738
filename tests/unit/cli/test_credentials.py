"""apikey and token: what is printed, what is kept."""

import json
import re
import time

import credentials as made
import jwt as pyjwt
import pytest
from command_line import ran
from projects import MINIMAL, project

from ext_authz import wiring
from ext_authz.config import load_inputs
from ext_authz.model import Identity
from ext_authz.state import EMPTY_STATE

CONFIG = """\
identity: {api_keys: {file: keys.yaml}}
tokens: {issuer: "https://authz.example", audience: ml-platform, private_key: tokens.pem}
"""


@pytest.fixture
def config(tmp_path):
    files = {"keys.yaml": "", "tokens.pem": made.private_pem(made.ed_key())}
    (tmp_path / "tokens.pem").touch(0o600)
    return project(tmp_path, CONFIG + MINIMAL, files)


def ask(config, headers):
    snapshot = wiring.build(load_inputs(config, {}))
    now_ns = time.time_ns()
    return snapshot.authenticators.authenticate(made.facts(headers=headers), EMPTY_STATE, now_ns)


def test_a_new_key_is_printed_once_and_only_its_hash_is_kept(config, capfd):
    done = ran(
        capfd, "apikey", "new", "--subject", "batch-7", "--role", "scorer", "--org", "o", "--ttl", "90d", "-c", config
    )
    assert done.status == 0
    key = done.out.strip()
    assert re.fullmatch(r"eak_[0-9A-Za-z]{49}", key)
    assert key not in done.err
    assert key not in (config.parent / "keys.yaml").read_text()
    identity = ask(config, {"x-api-key": key})
    assert isinstance(identity, Identity)
    assert (identity.id, identity.roles, identity.org) == ("key:batch-7", frozenset({"scorer"}), "o")
    assert abs(identity.expires_at - time.time() - 90 * 86400) < 60


def test_keys_are_listed_and_revoked(config, capfd):
    key = ran(capfd, "apikey", "new", "--subject", "batch-7", "-c", config).out.strip()
    (one,) = json.loads(ran(capfd, "apikey", "list", "--json", "-c", config).out)
    assert (one["subject"], one["revoked"]) == ("key:batch-7", None)
    assert one["id"] in ran(capfd, "apikey", "list", "-c", config).out
    assert ran(capfd, "apikey", "revoke", one["id"], "-c", config).status == 0
    assert ask(config, {"x-api-key": key}).reason == "revoked"


def test_an_unknown_key_id_does_not_hold(config, capfd):
    assert ran(capfd, "apikey", "revoke", "none", "-c", config).status == 1


@pytest.mark.parametrize("subject", ["key:x", "spiffe://a/b", "a\x1bb", ""])
def test_a_subject_that_could_be_another_kinds_name_is_refused(config, capfd, subject):
    for command in (["apikey", "new"], ["token", "issue"]):
        done = ran(capfd, *command, "--subject", subject, "-c", config)
        assert (done.status, done.out) == (2, "")


def test_without_a_key_file_in_the_configuration_there_are_no_keys(tmp_path, capfd):
    done = ran(capfd, "apikey", "list", "-c", project(tmp_path))
    assert done.status == 2
    assert "`identity.api_keys.file` is not configured" in done.err


def test_the_first_key_makes_the_file(config, capfd):
    (config.parent / "keys.yaml").unlink()
    assert ran(capfd, "apikey", "new", "--subject", "a", "-c", config).status == 0
    assert (config.parent / "keys.yaml").stat().st_mode & 0o777 == 0o600


def test_a_broken_key_file_is_reported_at_its_place(config, capfd):
    (config.parent / "keys.yaml").write_text("keys: [x]\n")
    done = ran(capfd, "apikey", "list", "-c", config)
    assert done.status == 2
    assert "keys.yaml:1:8: " in done.err


def test_an_issued_token_is_accepted_here_and_by_others(config, capfd):
    done = ran(
        capfd, "token", "issue", "--subject", "alice", "--role", "data_scientist", "--group", "g", "--org", "o",
        "--permission", "p", "--mfa", "-c", config,
    )  # fmt: skip
    assert done.status == 0
    token = done.out.strip()
    assert token not in done.err
    claims = pyjwt.decode(token, made.ed_key().public_key(), ["EdDSA"], audience="ml-platform")
    assert (claims["sub"], claims["roles"], claims["permissions"]) == ("alice", ["data_scientist"], ["p"])
    assert claims["exp"] - claims["iat"] == 900
    identity = ask(config, made.bearer(token))
    assert isinstance(identity, Identity)
    assert (identity.id, identity.roles, identity.mfa) == ("sub:alice", frozenset({"data_scientist"}), True)


def test_a_bound_token_needs_its_certificate(config, capfd, tmp_path):
    leaf = made.root().leaf(uris=["spiffe://ml.example/x"])
    (tmp_path / "cert.pem").write_text(leaf.pem)
    done = ran(capfd, "token", "issue", "--subject", "alice", "--bind", tmp_path / "cert.pem", "-c", config)
    assert done.status == 0
    assert ask(config, made.bearer(done.out.strip())).reason == "token_not_bound"


@pytest.mark.parametrize("ttl", ["0s", "61m", "1", "500ms"])
def test_a_token_lives_for_at_most_an_hour(config, capfd, ttl):
    done = ran(capfd, "token", "issue", "--subject", "a", "--ttl", ttl, "-c", config)
    assert (done.status, done.out) == (2, "")


def test_without_tokens_in_the_configuration_none_is_issued(tmp_path, capfd):
    done = ran(capfd, "token", "issue", "--subject", "a", "-c", project(tmp_path))
    assert "`tokens` is not configured" in done.err


def test_a_key_that_cannot_sign_is_placed(config, capfd):
    (config.parent / "tokens.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    done = ran(capfd, "token", "issue", "--subject", "a", "-c", config)
    assert done.status == 2
    assert "ext-authz.yaml:2:" in done.err


def test_published_keys_verify_issued_tokens(config, capfd):
    token = ran(capfd, "token", "issue", "--subject", "alice", "-c", config).out.strip()
    keys = pyjwt.PyJWKSet.from_json(wiring.published_keys(load_inputs(config, {})).decode())
    kid = pyjwt.get_unverified_header(token)["kid"]
    assert pyjwt.decode(token, keys[kid], ["EdDSA"], audience="ml-platform")["sub"] == "alice"
