"""A key in a PKCS#11 token (SoftHSM) through the commands and a whole trail: encrypted, rotated, moved, verified."""

import os
import subprocess
import sys

import orjson
import pytest
import softhsm
from fault_harness import Installation
from sidecar_process import Sidecar

pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
PLAIN = os.urandom(200_000)
NAMED = ("--data-id", "clicks", "--data-type", "dataset")


@pytest.fixture
def token(tmp_path, monkeypatch):
    made = softhsm.Token(tmp_path)
    made.key("kek")
    made.seen(monkeypatch)
    return made


def run(folder, *arguments):
    command = [sys.executable, "-m", "ext_authz", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_file_goes_there_and_back_and_from_one_version_to_the_next_and_to_another_holder(token, tmp_path):
    (tmp_path / "plain").write_bytes(PLAIN)
    key = ("--key", token.uri("kek", pin="pin"))
    assert run(tmp_path, "encrypt", "plain", "-o", "sealed", *NAMED, *key).returncode == 0
    token.key("kek", "02")
    moved = run(tmp_path, "rewrap", "sealed", *key)
    assert moved.returncode == 0, moved.stderr
    assert (
        moved.stdout
        == "sealed: dataset/clicks from pkcs11:audit%20token/kek version 01 to pkcs11:audit%20token/kek version 02\n"
    )
    assert run(tmp_path, "decrypt", "sealed", "-o", "out", *NAMED, *key).returncode == 0
    assert (tmp_path / "out").read_bytes() == PLAIN
    another = run(tmp_path, "decrypt", "sealed", "-o", "no", "--data-id", "x", "--data-type", "dataset", *key)
    assert another.returncode == 1
    assert run(tmp_path, "keyring", "new", "k").returncode == 0
    assert run(tmp_path, "rewrap", "sealed", *key, "--to", "file:k").returncode == 0
    assert run(tmp_path, "rewrap", "sealed", "--key", "file:k", "--to", key[1]).returncode == 0
    assert run(tmp_path, "decrypt", "sealed", "-o", "out", *NAMED, *key).returncode == 0
    wrong = run(tmp_path, "decrypt", "sealed", "-o", "no", *NAMED, "--key", "file:k")
    assert (wrong.returncode, (tmp_path / "no").exists()) == (2, False)
    assert "wrapped by `pkcs11:audit%20token/kek version 02`" in wrong.stderr


def test_a_wrong_pin_ends_a_start_with_one_try_and_one_line(token, tmp_path):
    token.write_pin("wrong")
    made = Installation(tmp_path, more={"encryption": {"key": token.uri("kek")}})
    started = Sidecar(made.configuration)
    try:
        assert started.process.wait(60) == 2
    finally:
        started.kill()
    said = (tmp_path / "stderr.log").read_text()
    assert said.count("the PIN is wrong") == 1, said
    assert not (made.run / "audit").exists() or not list((made.run / "audit").iterdir())


def test_a_new_version_in_the_token_is_used_by_a_running_trail_and_recorded(token, tmp_path):
    made = Installation(tmp_path, open_key=token.open("kek"), more={"encryption": {"key": token.uri("kek")}})
    try:
        made.start()
        token.key("kek", "02")
        callers = made.ask(pause=0.0)
        names = ("pkcs11:audit%20token/kek version 01", "pkcs11:audit%20token/kek version 02")

        def rotated():
            events = [orjson.loads(line) for line in made.entries().values()]
            return any(each.get("event") == "key_rotation" for each in events)

        for _ in range(40):
            callers.more(150)
            if rotated():
                break
        callers.stop()
        assert made.sidecar.stop() == 0
        found = made.judge()
        details = [orjson.loads(line) for line in made.entries().values()]
        (rotation,) = [each["details"] for each in details if each.get("event") == "key_rotation"]
        assert tuple(rotation[name] for name in ("before", "after")) == names
        assert found.told == len(callers.told) > 0
    finally:
        made.close()
