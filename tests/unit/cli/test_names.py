"""What an operator writes and nothing would ever match must not look recorded; what differs in spelling matches."""

import json

import pytest
from command_line import ran
from projects import SEED_POLICIES, project


@pytest.fixture
def config(tmp_path):
    return project(tmp_path, files={"policies.yaml": SEED_POLICIES})


def listed(capfd, command, config):
    return json.loads(ran(capfd, command, "-c", config, "--json").out)


@pytest.mark.parametrize(
    ("written", "identity"),
    [
        ("dns:Batch.Example", "dns:batch.example"),
        ("x509:CN=ci,O=Caf\\C3\\A9", "x509:CN=ci,O=Café"),
        ("alice", "sub:alice"),
    ],
)
def test_what_is_recorded_is_the_name_that_identities_have(config, capfd, written, identity):
    assert ran(capfd, "revoke", "--subject", written, "-c", config).status == 0
    assert ran(capfd, "quarantine", written, "--for", "1h", "--reason", "x", "-c", config).status == 0
    assert [one["subject"] for one in listed(capfd, "revocations", config)] == [identity]
    assert [one["subject"] for one in listed(capfd, "quarantines", config)] == [identity]


@pytest.mark.parametrize("written", ["DNS:batch.example", "dns:*.example", "spiffe:ml.example/x", "x509:ci", "key:"])
def test_a_name_that_nobody_can_have_is_refused(config, capfd, written):
    assert ran(capfd, "revoke", "--subject", written, "-c", config).status == 2
    assert ran(capfd, "quarantine", written, "--for", "1h", "--reason", "x", "-c", config).status == 2
    assert listed(capfd, "revocations", config) == []


def test_an_issuer_in_openssl_s_old_form_is_refused_since_it_matches_no_certificate(config, capfd):
    done = ran(capfd, "revoke", "--serial", "0a", "--issuer-dn", "/C=US/O=Acme/CN=CA", "-c", config)
    assert (done.status, listed(capfd, "revocations", config)) == (2, [])


def test_the_escapes_of_an_issuer_s_name_do_not_count(config, capfd):
    assert ran(capfd, "revoke", "--serial", "0a", "--issuer-dn", "O=Caf\\C3\\A9, CN=ca", "-c", config).status == 0
    (one,) = listed(capfd, "revocations", config)
    assert "Café" in one["issuer_dn"]


def test_a_time_beyond_the_calendar_is_refused_and_breaks_no_listing(config, capfd):
    done = ran(capfd, "quarantine", "alice", "--for", "3000000d", "--reason", "x", "-c", config)
    assert (done.status, done.err) == (2, "--for: `3000000d` is longer than 100 years\n")
    assert ran(capfd, "quarantines", "-c", config).out == "no quarantines\n"


def test_a_time_beyond_the_calendar_that_was_recorded_once_is_listed(config, capfd):
    from ext_authz.state.changes import Change, Kind
    from ext_authz.state.sqlite import FILE_NAME, SqliteStore

    (config.parent / "run").mkdir(mode=0o700, exist_ok=True)
    store = SqliteStore(config.parent / "run" / FILE_NAME, create=True)
    store.append(
        Change(kind=Kind.QUARANTINE, by="os:root", at_ns=1, reason="x", subject="sub:alice", expires_at=1 << 39)
    )
    store.close()
    done = ran(capfd, "quarantines", "-c", config)
    assert (done.status, "after the year 9999" in done.out) == (0, True)


def test_more_lines_than_anybody_reads_are_a_usage_error(config, capfd):
    done = ran(capfd, "audit", "tail", "--no-follow", "-n", "9" * 20, config.parent)
    assert done.status == 2
