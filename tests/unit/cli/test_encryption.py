"""encrypt, decrypt, rewrap, keyring: what is written, what is refused, with which status."""

import json
import os
import stat

import fake_transit
import independent_envelope
import pytest
from command_line import ran
from projects import MINIMAL, project
from trails import write_run

from ext_authz.envelope.format import HEADER_BYTES, PAGE

PLAIN = os.urandom(200_000)
NAMED = ("--data-id", "clicks", "--data-type", "dataset")


@pytest.fixture
def folder(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_bytes(PLAIN)
    assert ran(capfd, "keyring", "new", "k").status == 0
    return tmp_path


@pytest.fixture
def sealed(folder, capfd):
    assert ran(capfd, "encrypt", "plain", "-o", "sealed", *NAMED, "--key", "file:k") == (0, "", "")
    return folder / "sealed"


def decrypt(capfd, *arguments, key="file:k", named=NAMED):
    return ran(capfd, "decrypt", "sealed", "-o", "out", *named, "--key", key, *arguments)


def test_there_and_back(folder, sealed, capfd):
    assert PLAIN[:64] not in sealed.read_bytes()
    assert decrypt(capfd) == (0, "", "")
    assert (folder / "out").read_bytes() == PLAIN
    for name in ("sealed", "out", "k"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert sorted(os.listdir(folder)) == ["k", "out", "plain", "sealed"]


def test_a_second_implementation_opens_what_the_command_writes(folder, sealed):
    text = (folder / "k").read_text()
    assert independent_envelope.open_envelope(sealed.read_bytes(), text, "dataset", "clicks") == PLAIN


def test_an_empty_file_goes_there_and_back(folder, capfd):
    (folder / "plain").write_bytes(b"")
    assert ran(capfd, "encrypt", "plain", "-o", "sealed", *NAMED, "--key", "file:k").status == 0
    assert decrypt(capfd).status == 0
    assert (folder / "out").read_bytes() == b""


@pytest.mark.parametrize(
    "named", [("--data-id", "other", "--data-type", "dataset"), ("--data-id", "clicks", "--data-type", "model")]
)
def test_another_name_does_not_hold(folder, sealed, capfd, named):
    done = decrypt(capfd, named=named)
    assert done.status == 1
    assert done.err.startswith("sealed: was encrypted as `dataset/clicks`, not as `")
    assert not (folder / "out").exists()


@pytest.mark.parametrize("at", [0, 95, PAGE + 20, HEADER_BYTES + 5, HEADER_BYTES + 100_000, -1])
def test_an_altered_file_does_not_hold_and_the_old_output_stays(folder, sealed, capfd, at):
    data = bytearray(sealed.read_bytes())
    data[at] ^= 1
    sealed.write_bytes(data)
    (folder / "out").write_bytes(b"old")
    done = decrypt(capfd)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("sealed: ")
    assert done.err.count("\n") == 1
    assert (folder / "out").read_bytes() == b"old"
    assert sorted(os.listdir(folder)) == ["k", "out", "plain", "sealed"]


@pytest.mark.parametrize("length", [0, 5, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 65_552, -1])
def test_a_truncated_file_does_not_hold(folder, sealed, capfd, length):
    sealed.write_bytes(sealed.read_bytes()[:length])
    assert decrypt(capfd).status == 1
    assert not (folder / "out").exists()


def test_a_control_character_from_the_file_does_not_reach_the_terminal(folder, sealed, capfd):
    done = ran(capfd, "decrypt", "sealed", "-o", "out", "--data-id", "a\x1b[31m", "--data-type", "d", "--key", "file:k")
    assert done.status == 2
    assert "\x1b" not in done.err
    assert "--data-id: the data id holds a control character" in done.err


def test_what_is_no_envelope_does_not_hold(folder, capfd):
    done = ran(capfd, "decrypt", "plain", "-o", "out", *NAMED, "--key", "file:k")
    assert done == (1, "", "plain: is not a file that `ext-authz encrypt` made, or its beginning was altered\n")


def test_a_later_format_is_not_available(folder, sealed, capfd):
    data = sealed.read_bytes()
    sealed.write_bytes(data[:9] + b"\2" + data[10:])
    done = decrypt(capfd)
    assert (done.status, "not available in this version" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encrypt", "none", "-o", "out", *NAMED, "--key", "file:k"), "cannot use `none`: no such file or directory"),
        (("encrypt", ".", "-o", "out", *NAMED, "--key", "file:k"), "cannot use `.`: is a directory"),
        (("encrypt", "plain", "-o", "no/out", *NAMED, "--key", "file:k"), "cannot write `no/out`: no such file"),
        (("encrypt", "plain", "-o", ".", *NAMED, "--key", "file:k"), "cannot write `.`: "),
        (("encrypt", "plain", "-o", "/dev/null", *NAMED, "--key", "file:k"), "cannot write `/dev/null`: is not a regular"),
        (("encrypt", "plain", "-o", "./plain", *NAMED, "--key", "file:k"), "`./plain` is the file that is read"),
        (("encrypt", "plain", "-o", "out", *NAMED, "--key", "file:none"), "--key: cannot read `none`: no such file"),
        (("encrypt", "plain", "-o", "out", *NAMED, "--key", "fiel:k"), "did you mean `file`?"),
        (("encrypt", "plain", "-o", "out", *NAMED, "--key", "file:plain"), "--key: `plain` can be used by others"),
        (("encrypt", "plain", "-o", "out", *NAMED), "no configuration names a key in `audit.encryption`"),
        (("encrypt", "plain", *NAMED, "--key", "file:k"), "missing option `-o`"),
        (("encrypt", "plain", "-o", "out", "--data-id", "", "--data-type", "d", "--key", "file:k"), "--data-id: the data id is empty"),
        (("encrypt", "plain", "-o", "out", "--data-id", "x", "--data-type", "d" * 129, "--key", "file:k"), "longer than 128"),
        (("encrypt", "plain", "-o", "out", "--data-id", "\udcff", "--data-type", "d", "--key", "file:k"), "not UTF-8"),
        (("rewrap", "none", "--key", "file:k"), "cannot use `none`: no such file"),
        (("rewrap", ".", "--key", "file:k"), "cannot use `.`"),
        (("keyring", "new", "k"), "cannot use `k`: exists already"),
        (("keyring", "rotate", "none"), "none`: no such file or directory"),
        (("keyring", "remove", "k", "--version", "1"), "version 1 is the current one; rotate first"),
        (("keyring", "remove", "k", "--version", "7"), "`k` has no version 7"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_status_2(folder, capfd, arguments, message):
    (folder / "plain").chmod(0o644)
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    done = ran(capfd, *arguments)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before


def test_without_a_key_the_configured_one_is_used(folder, capfd):
    config = project(folder, MINIMAL + "audit: {encryption: {key: 'file:mine'}}\n", {})
    done = ran(capfd, "encrypt", "plain", "-o", "out", *NAMED, "-c", config)
    assert (done.status, done.out) == (2, "")
    assert "audit.encryption.key: cannot read" in done.err
    ran(capfd, "keyring", "new", "mine")
    assert ran(capfd, "encrypt", "plain", "-o", "out", *NAMED, "-c", config).status == 0
    assert ran(capfd, "decrypt", "out", "-o", "back", *NAMED, "--key", "file:mine").status == 0
    assert (folder / "back").read_bytes() == (folder / "plain").read_bytes()


def test_another_keyring_is_no_alteration(folder, sealed, capfd):
    ran(capfd, "keyring", "new", "other")
    done = decrypt(capfd, key="file:other")
    assert done.status == 2
    assert "wrapped by `file:" in done.err


def test_a_file_is_moved_to_the_newest_version_and_then_the_old_one_can_go(folder, sealed, capfd):
    body = sealed.read_bytes()[HEADER_BYTES:]
    assert ran(capfd, "keyring", "rotate", "k").status == 0
    done = ran(capfd, "rewrap", "sealed", "--key", "file:k")
    ring = json.loads(ran(capfd, "keyring", "list", "k", "--json").out)
    assert done.out == f"sealed: dataset/clicks from file:{ring['id']} version 1 to file:{ring['id']} version 2\n"
    assert sealed.read_bytes()[HEADER_BYTES:] == body
    assert ran(capfd, "keyring", "remove", "k", "--version", "1").status == 0
    assert decrypt(capfd).status == 0
    assert (folder / "out").read_bytes() == PLAIN


def test_a_file_not_moved_cannot_be_opened_once_its_version_is_gone(sealed, capfd):
    ran(capfd, "keyring", "rotate", "k")
    ran(capfd, "keyring", "remove", "k", "--version", "1")
    done = decrypt(capfd)
    assert (done.status, "has no such version" in done.err) == (2, True)


def test_files_are_moved_to_a_vault_and_the_one_that_cannot_be_is_said(folder, sealed, capfd, monkeypatch):
    (folder / "altered").write_bytes(sealed.read_bytes()[:100] + b"\1" + sealed.read_bytes()[101:])
    with fake_transit.running() as transit:
        monkeypatch.setenv("VAULT_ADDR", transit.address)
        monkeypatch.setenv("VAULT_TOKEN", fake_transit.TOKEN)
        done = ran(capfd, "rewrap", "altered", "sealed", "--key", "file:k", "--to", "vault:ml-data")
        assert (done.status, done.err) == (1, "altered: the header was altered\n")
        assert "to vault:transit/ml-data version 1" in done.out
        assert decrypt(capfd, key="vault:ml-data").status == 0
        assert (folder / "out").read_bytes() == PLAIN
    assert decrypt(capfd).status == 2


def test_a_new_key_that_cannot_open_changes_nothing(folder, sealed, capfd, monkeypatch):
    before = sealed.read_bytes()
    with fake_transit.running() as transit:
        monkeypatch.setenv("VAULT_ADDR", transit.address)
        monkeypatch.setenv("VAULT_TOKEN", fake_transit.TOKEN)
        transit.decrypt = lambda *_: (403, {"errors": ["permission denied"]})
        done = ran(capfd, "rewrap", "sealed", "--key", "file:k", "--to", "vault:ml-data")
    assert (done.status, done.out) == (2, "")
    assert "nothing was changed" in done.err
    assert sealed.read_bytes() == before


def test_a_rewrap_that_was_cut_off_is_warned_of_and_finished(folder, sealed, capfd):
    data = sealed.read_bytes()
    sealed.write_bytes(data[: 2 * PAGE] + b"SLOT".ljust(PAGE, b"\0") + data[HEADER_BYTES:])
    done = decrypt(capfd)
    assert done.status == 0
    assert done.err.startswith("warning: a `rewrap` of sealed was cut off")
    assert ran(capfd, "rewrap", "sealed", "--key", "file:k").status == 0
    assert decrypt(capfd).err == ""


def test_the_keyring_is_listed_without_its_keys(folder, capfd):
    ran(capfd, "keyring", "rotate", "k")
    secrets = [each["key"] for each in json.loads((folder / "k").read_text())["keys"]]
    listed = ran(capfd, "keyring", "list", "k").out
    machine = ran(capfd, "keyring", "list", "k", "--json").out
    assert "version 2" in listed
    assert "current" in listed.splitlines()[2]
    assert json.loads(machine)["current"] == 2
    assert not any(secret in listed + machine for secret in secrets)


def test_segments_of_the_trail_are_rewrapped_beside_other_files(folder, sealed, capfd):
    segment = write_run(folder, [b"{}"])
    before = segment.read_bytes()
    ran(capfd, "keyring", "new", "other")
    done = ran(capfd, "rewrap", segment, "--key", f"file:{folder / 'audit.key'}", "--to", "file:other")
    assert done.status == 0
    assert " from file:3132333435363738 version 1 to file:" in done.out
    assert segment.read_bytes() == before
    assert ran(capfd, "audit", "cat", "--json", segment, "--key", "file:other").out == "{}\n"
    assert ran(capfd, "audit", "cat", segment, "--key", f"file:{folder / 'audit.key'}").status == 3
    segment.with_suffix(".key").unlink()
    assert ran(capfd, "rewrap", segment, "--key", "file:other").status == 2
