"""`ext-authz bundle`: from a folder to an archive that a server believes, and every way it says no."""

import json
import os
import stat

import pytest
from bundles import FILES, BundleServer, bundle, foreign, fresh, key, members, public_pem
from command_line import ran
from projects import project

from ext_authz.bundle.archive import write_archive
from ext_authz.bundle.build import look


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return tmp_path


def test_a_folder_becomes_a_signed_archive_that_verifies(here, capfd):
    assert ran(capfd, "bundle", "key", "k.pem").status == 0
    assert stat.S_IMODE((here / "k.pem").stat().st_mode) == 0o600
    built = ran(capfd, "bundle", "build", ".", "--name", "ml-prod", "--revision", 3, "-o", "b.tar.gz")
    assert (built.status, "nobody has signed it yet" in built.out) == (0, True)
    assert (
        ran(capfd, "bundle", "verify", "b.tar.gz", "--key", "k.pem.pub").err
        == "b.tar.gz: nobody signed it (unsigned)\n"
    )
    assert ran(capfd, "bundle", "sign", "b.tar.gz", "--key", "k.pem").status == 0
    verified = ran(capfd, "bundle", "verify", "b.tar.gz", "--key", "k.pem.pub", "--name", "ml-prod")
    assert verified.status == 0
    assert "whole; `ml-prod` revision 3, 1 policy in 3 files" in verified.out
    other = ran(capfd, "bundle", "verify", "b.tar.gz", "--key", "k.pem.pub", "--name", "ml-test")
    assert (other.status, "(other_name)" in other.err) == (1, True)
    late = ran(capfd, "bundle", "verify", "b.tar.gz", "--key", "k.pem.pub", "--at", "2099-01-01T00:00:00Z")
    assert (late.status, "(expired)" in late.err) == (1, True)
    shown = json.loads(ran(capfd, "bundle", "inspect", "b.tar.gz", "--json").out)
    assert shown["revision"] == 3
    assert [each["path"] for each in shown["files"]] == sorted(FILES)
    assert "not verified" in ran(capfd, "bundle", "inspect", "b.tar.gz").out


def test_the_same_folder_and_time_give_the_same_bytes(here, capfd):
    made = []
    for name in ("1.tar.gz", "2.tar.gz"):
        arguments = ("--name", "a", "--revision", 1, "--created", "2026-11-23T10:00:00Z", "-o", name)
        assert ran(capfd, "bundle", "build", ".", *arguments).status == 0
        made.append((here / name).read_bytes())
    assert made[0] == made[1]


def test_signatures_of_two_keys_stand_side_by_side(here, capfd):
    (here / "b.tar.gz").write_bytes(bundle())
    ran(capfd, "bundle", "key", "k2.pem")
    assert ran(capfd, "bundle", "sign", "b.tar.gz", "--key", "k2.pem").status == 0
    (here / "k1.pub").write_bytes(public_pem(key()))
    for public in ("k1.pub", "k2.pem.pub"):
        found = ran(capfd, "bundle", "verify", "b.tar.gz", "--key", public, "--at", "2027-01-16T00:00:00Z")
        assert found.status == 0, found.err


def test_an_altered_archive_is_not_signed(here, capfd):
    listed = members(bundle())
    (here / "b.tar.gz").write_bytes(write_archive([*listed[:2], ("policies/a.yaml", b"policies: []\n"), *listed[3:]]))
    ran(capfd, "bundle", "key", "k.pem")
    before = (here / "b.tar.gz").read_bytes()
    signed = ran(capfd, "bundle", "sign", "b.tar.gz", "--key", "k.pem")
    assert signed.status == 1
    assert "(wrong_size)" in signed.err
    assert (here / "b.tar.gz").read_bytes() == before


def test_what_a_server_would_refuse_is_not_built(here, capfd):
    def built():
        return ran(capfd, "bundle", "build", ".", "--name", "a", "--revision", 1)

    (here / "policies/link.yaml").symlink_to("/etc/passwd")
    assert (built().status, "neither a file nor a folder" in built().err) == (1, True)
    (here / "policies/link.yaml").unlink()
    (here / "policies/.hidden.yaml").write_text("")
    assert (built().status, "is hidden" in built().err) == (1, True)
    (here / "policies/.hidden.yaml").unlink()
    (here / "policies/A.yaml").write_bytes(FILES["policies/a.yaml"])
    assert "differs from" in built().err
    (here / "policies/A.yaml").unlink()
    (here / "policies/b.yaml").write_text("policies:\n  - {id: x, effect: maybe}\n")
    broken = built()
    assert broken.status == 2
    assert "policies/b.yaml:2:" in broken.err
    assert not (here / "bundle.tar.gz").exists()
    (here / "policies/b.yaml").unlink()
    (here / "resources/r.yaml").write_text("routes: [{host: 1..2}]\n")
    assert "resources/r.yaml:1:" in built().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("build", "nowhere", "--name", "a", "--revision", 1), "there is no file below"),
        (("build", ".", "--name", "../a", "--revision", 1), "--name: `../a` is not"),
        (("build", ".", "--name", "a", "--revision", 0), "`revision` is not a whole number"),
        (("build", ".", "--name", "a", "--revision", 1, "--valid", "soon"), "--valid: `soon` is not a duration"),
        (
            ("build", ".", "--name", "a", "--revision", 1, "--key", "policies/a.yaml"),
            "is not an unencrypted private key",
        ),
        (("sign", "nowhere", "--key", "k.pem"), "cannot read"),
        (("inspect", "policies/a.yaml"), "(damaged)"),
    ],
)
def test_mistakes_are_told(here, capfd, arguments, said):
    result = ran(capfd, "bundle", *arguments)
    assert result.status in (1, 2)
    assert said in result.err
    assert "Traceback" not in result.err


def test_a_private_key_is_neither_overwritten_nor_taken_for_a_public_one(here, capfd):
    ran(capfd, "bundle", "key", "k.pem")
    assert ran(capfd, "bundle", "key", "k.pem").status == 2
    (here / "b.tar.gz").write_bytes(bundle())
    told = ran(capfd, "bundle", "verify", "b.tar.gz", "--key", "k.pem")
    assert (told.status, "is a private key" in told.err) == (2, True)


def test_inspecting_a_bomb_or_a_terminal_attack_is_safe(here, capfd):
    import tarfile

    info = tarfile.TarInfo("policies/\x1b[2J.yaml")
    (here / "b.tar.gz").write_bytes(foreign(bundle(), (info, b"x")))
    (here / "k1.pub").write_bytes(public_pem(key()))
    told = ran(capfd, "bundle", "verify", "b.tar.gz", "--key", "k1.pub", "--at", "2027-01-16T00:00:00Z")
    assert told.status == 1
    assert "\x1b" not in told.err


def test_building_asks_the_very_verifier(here, capfd):
    ran(capfd, "bundle", "key", "k.pem")
    os.umask(0o022)
    ran(capfd, "bundle", "build", ".", "--name", "a", "--revision", 1, "--key", "k.pem")
    from ext_authz.bundle.keys import load_public

    assert look((here / "bundle.tar.gz").read_bytes(), [load_public((here / "k.pem.pub").read_bytes())]).files == FILES


CONFIG = "policies: {bundle: {url: '%s', name: ml-prod, public_keys: [k.pub]}}\n"
BROAD = "policies:\n  - {id: ok, subjects: [{role: r}], resources: [{type: model}], actions: [infer]}\n"


def test_the_other_commands_read_the_bundle_that_was_fetched(tmp_path, capfd):
    server = BundleServer(fresh(BROAD, revision=4))
    try:
        config = project(tmp_path, CONFIG % server.url, {"k.pub": public_pem(key())})
        without = ran(capfd, "check", "-c", config)
        assert without.status == 2
        assert "bundle refused (unreachable): none was fetched yet; `ext-authz bundle fetch`" in without.err
        fetched = ran(capfd, "bundle", "fetch", "-c", config)
        assert (fetched.status, "`ml-prod` revision 4 is kept" in fetched.out) == (0, True)
        checked = ran(capfd, "check", "-c", config)
        assert checked.status == 0, checked.err
        assert "-b4" in checked.out
        (tmp_path / "a_test.yaml").write_text(
            "tests:\n  - name: a\n    subject: {id: 'sub:a', auth: jwt, roles: [r]}\n"
            "    resource: {type: model, id: m}\n    action: infer\n    expect: {decision: allow, policy: ok}\n"
        )
        assert ran(capfd, "test", tmp_path / "a_test.yaml", "-c", config).status == 0
        assert "role r" in ran(capfd, "access", "--action", "infer", "-c", config).out
        server.archive = fresh(BROAD, revision=3)
        older = ran(capfd, "bundle", "fetch", "-c", config)
        assert (older.status, "(rollback)" in older.err) == (1, True)
    finally:
        server.close()


def test_fetching_where_no_bundle_is_configured_is_a_mistake(tmp_path, capfd):
    assert "names no `policies.bundle`" in ran(capfd, "bundle", "fetch", "-c", project(tmp_path)).err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{}", "`url` is required"),
        ("{url: 'http://a.example/b', name: a, public_keys: [k.pub]}", "is neither `https` nor on loopback"),
        ("{url: 'https://u:p@a.example/b', name: a, public_keys: [k.pub]}", "is not a URL of a host and a path alone"),
        ("{url: 'https://a.example/b', name: a, public_keys: []}", "`public_keys` is empty"),
        ("{url: 'https://a.example/b', name: '../a', public_keys: [k.pub]}", "`../a` is not 1 to 64 letters"),
        ("{url: 'https://a.example/b', name: a, public_keys: [k.pub], poll: 0s}", "`poll` is from 1s to 1d"),
        ("{url: 'https://a.example/b', name: a, public_keys: [k.pub], timeout: 0s}", "`timeout` is 0"),
        ("{url: 'https://a.example/b', name: a, public_keys: [none]}", "cannot read `none`"),
        ("{url: 'https://a.example/b', name: a, public_keys: [policies.yaml]}", "`policies.yaml` is not a public key"),
        ("{url: 'https://a.example/b', name: a, public_keys: [k.pem]}", "`k.pem` is a private key"),
        ("{url: 'https://a.example/b', name: a, public_keys: [k.pub], headers: {Host: x}}", "`Host` is not a header"),
        (
            '{url: "https://a.example/b", name: a, public_keys: [k.pub], headers: {x-a: "s3cret\\n"}}',
            "holds a control character",
        ),
    ],
)
def test_settings_that_make_no_sense_are_told_at_their_place(tmp_path, capfd, monkeypatch, settings, said):
    monkeypatch.chdir(tmp_path)
    ran(capfd, "bundle", "key", "k.pem")
    (tmp_path / "k.pub").write_bytes((tmp_path / "k.pem.pub").read_bytes())
    project(tmp_path, f"policies: {{bundle: {settings}}}\n")
    told = ran(capfd, "check")
    assert told.status == 2
    assert said in told.err
    assert told.err.startswith("ext-authz.yaml:1:")
    assert "s3cret\n" not in told.err.splitlines()[0]
