"""approve, revoke, quarantine: what is stored, listed and taken back."""

import json
import time

import pytest
from command_line import ran
from projects import MINIMAL, SEED_POLICIES, project

from ext_authz.state.book import read_book
from ext_authz.state.sqlite import FILE_NAME, SqliteStore


@pytest.fixture
def config(tmp_path):
    return project(tmp_path, files={"policies.yaml": SEED_POLICIES})


def state(config):
    store = SqliteStore(config.parent / "run" / FILE_NAME)
    try:
        return read_book(store).state(time.time_ns(), None)
    finally:
        store.close()


def listed(capfd, command, config):
    return json.loads(ran(capfd, command, "-c", config, "--json").out)


def test_a_revocation_is_stored_listed_and_withdrawn(config, capfd):
    done = ran(capfd, "revoke", "--jti", "abc", "--issuer", "https://i", "--reason", "leaked", "-c", config)
    assert (done.status, done.out) == (
        0, "recorded revocation 1: jti abc, issuer https://i; every worker knows within 1 s\n",
    )  # fmt: skip
    assert state(config).revocations.tokens == {("https://i", "abc"): "revocation 1: leaked"}
    (one,) = listed(capfd, "revocations", config)
    assert one["by"].startswith("os:")
    assert ran(capfd, "revoke", "--jti", "abc", "--withdraw", "-c", config).status == 1, "another key"
    done = ran(capfd, "revoke", "--jti", "abc", "--issuer", "https://i", "--withdraw", "-c", config)
    assert (done.status, done.out) == (
        0, "withdrew revocation 1: jti abc, issuer https://i; every worker knows within 1 s\n",
    )  # fmt: skip
    assert listed(capfd, "revocations", config) == []
    assert ran(capfd, "revocations", "-c", config).out == "no revocations\n"


@pytest.mark.parametrize(
    "options",
    [
        ["--subject", "alice"],
        ["--subject", "key:b", "--before", "now"],
        ["--issuer", "https://i", "--before", "2026-01-01T00:00:00Z"],
        ["--fingerprint", "AB" * 32],
        ["--serial", "0a:0b", "--issuer-dn", "CN=ca"],
        ["--key-id", "4f1d"],
    ],
)
def test_every_kind_of_revocation_is_stored_and_withdrawn_by_its_number(config, capfd, options):
    assert ran(capfd, "revoke", *options, "-c", config).status == 0
    (one,) = listed(capfd, "revocations", config)
    assert ran(capfd, "revocations", "--withdraw", one["id"], "-c", config).status == 0
    assert listed(capfd, "revocations", config) == []
    assert ran(capfd, "revocations", "--withdraw", one["id"], "-c", config).status == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "a revocation names one of"),
        (["--jti", "a", "--key-id", "b"], "a revocation names one of"),
        (["--issuer", "i"], "a revocation names one of"),
        (["--subject", "a", "--before", "yesterday"], "is not a time with an offset"),
        (["--fingerprint", "abc"], "not a SHA-256 fingerprint"),
        (["--jti", "a\x1bb"], "printable characters"),
    ],
)
def test_a_revocation_of_nothing_in_particular_is_refused(config, capfd, options, words):
    done = ran(capfd, "revoke", *options, "-c", config)
    assert done.status == 2
    assert words in done.err
    assert "\x1b" not in done.err


def test_a_bare_subject_means_sub(config, capfd):
    ran(capfd, "revoke", "--subject", "alice", "-c", config)
    ran(capfd, "quarantine", "bob", "--for", "10m", "--reason", "x", "-c", config)
    assert set(state(config).revocations.subjects) == {"sub:alice"}
    assert set(state(config).quarantines) == {"sub:bob"}


def test_a_quarantine_ends_and_can_be_ended(config, capfd):
    before = int(time.time())
    assert ran(capfd, "quarantine", "spiffe://a/b", "--for", "10m", "--reason", "odd", "-c", config).status == 0
    reason, ends = state(config).quarantines["spiffe://a/b"]
    assert reason == "quarantined: odd"
    assert before + 600 <= ends <= time.time() + 600
    assert "spiffe://a/b" in ran(capfd, "quarantines", "-c", config).out
    assert ran(capfd, "quarantine", "spiffe://a/b", "--withdraw", "-c", config).status == 0
    assert state(config).quarantines == {}


@pytest.mark.parametrize("options", [[], ["--for", "10m"], ["--reason", "x"], ["--for", "0s", "--reason", "x"]])
def test_a_quarantine_needs_an_end_and_a_reason(config, capfd, options):
    assert ran(capfd, "quarantine", "bob", *options, "-c", config).status == 2


def test_revoking_needs_neither_variables_nor_policies(tmp_path, capfd):
    text = "server: {socket_group: '${NOT_SET}'}\npolicies: {files: [gone.yaml]}\nidentity: {oops: 1}\n"
    config = project(tmp_path, text)
    assert ran(capfd, "check", "-c", config).status == 2
    assert ran(capfd, "revoke", "--jti", "abc", "-c", config).status == 0


def test_a_run_dir_that_others_can_write_is_refused(config, capfd):
    (config.parent / "run").mkdir(mode=0o777)
    (config.parent / "run").chmod(0o777)
    done = ran(capfd, "revoke", "--jti", "abc", "-c", config)
    assert done.status == 2
    assert "can be written by others" in done.err


def test_a_store_that_is_none_is_a_users_mistake(config, capfd):
    (config.parent / "run").mkdir(mode=0o700)
    (config.parent / "run" / FILE_NAME).write_text("no database")
    done = ran(capfd, "revocations", "-c", config)
    assert done.status == 2
    assert "Traceback" not in done.err


def test_a_bare_name_that_an_api_key_has_is_taken_for_sub_and_said_so(tmp_path, capfd):
    text = "identity: {api_keys: {file: keys.yaml}}\n" + MINIMAL
    config = project(tmp_path, text, {"keys.yaml": "keys: []\n"})
    (tmp_path / "keys.yaml").chmod(0o600)
    assert ran(capfd, "apikey", "new", "--subject", "batch-7", "-c", config).status == 0
    asked = ("quarantine", "batch-7", "--for", "10m", "--reason", "x", "-c", config)
    done = ran(capfd, *asked)
    assert done.status == 0
    assert "subject sub:batch-7" in done.out
    assert done.err == "warning: `batch-7` means `sub:batch-7`; the API key of this name is `key:batch-7`\n"
    assert "warning: `batch-7`" in ran(capfd, "revoke", "--subject", "batch-7", "-c", config).err
    for name in ("key:batch-7", "sub:batch-7", "alice"):
        assert ran(capfd, "quarantine", name, *asked[2:]).err == ""
    (tmp_path / "keys.yaml").write_text("keys: [")  # a broken key file holds up no quarantine
    assert ran(capfd, *asked)[::2] == (0, "")
