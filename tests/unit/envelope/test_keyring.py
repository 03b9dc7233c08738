"""The keyring file: who may read it, what it must look like, how it changes."""

import json
import os
import stat
import threading

import pytest
from envelopes import keyring

from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.envelope.keys.keyring import (
    create_keyring,
    parse_keyring,
    read_keyring,
    remove_version,
    rotate_keyring,
)

NOW = 1_795_428_000
SECRET = "c2VjcmV0"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "k"
    create_keyring(path, keyring_id=bytes(range(8)), key=b"\1" * 32, now=NOW)
    return path


def test_a_new_keyring_is_for_its_owner_alone(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = read_keyring(path)
    assert (made.id, made.current, made.versions[1].key) == ("0001020304050607", 1, b"\1" * 32)
    assert made.versions[1].created == "2026-11-23T10:00:00Z"


def test_a_new_keyring_overwrites_nothing(path):
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        create_keyring(path, keyring_id=bytes(8), key=b"\2" * 32, now=NOW)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["k"]


def test_a_rotation_adds_a_version_and_keeps_the_old_one(path):
    rotate_keyring(path, key=b"\2" * 32, now=NOW)
    made = read_keyring(path)
    assert made.current == 2
    assert {number: each.key[0] for number, each in made.versions.items()} == {1: 1, 2: 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rotation_through_a_link_changes_what_it_points_to(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    rotate_keyring(link, key=b"\2" * 32, now=NOW)
    assert link.is_symlink()
    assert read_keyring(path).current == 2


def test_rotations_at_the_same_time_lose_no_version(path):
    threads = [
        threading.Thread(target=rotate_keyring, args=(path,), kwargs={"key": bytes([number]) * 32, "now": NOW})
        for number in range(2, 10)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    made = read_keyring(path)
    assert made.current == 9
    assert {each.key[0] for each in made.versions.values()} == set(range(1, 10))


def test_an_old_version_is_removed_and_the_current_one_never(path):
    rotate_keyring(path, key=b"\2" * 32, now=NOW)
    for number in (2, 3):
        with pytest.raises(ValueError, match=f"{number}"):
            remove_version(path, number)
    assert set(remove_version(path, 1).versions) == {2}
    assert set(rotate_keyring(path, key=b"\3" * 32, now=NOW).versions) == {2, 3}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601, 0o777])
def test_a_keyring_that_others_can_use_is_refused(path, mode):
    path.chmod(mode)
    with pytest.raises(KeyUnavailableError, match=r"can be used by others .*chmod 600"):
        read_keyring(path)


def test_a_keyring_that_is_read_only_for_its_owner_is_taken(path):
    path.chmod(0o400)
    assert read_keyring(path).current == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_keyring_of_another_user_is_refused(path):
    os.chown(path, 12345, -1)
    with pytest.raises(KeyUnavailableError, match="belongs to another user"):
        read_keyring(path)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "missing", "."):
        with pytest.raises(KeyUnavailableError):
            read_keyring(tmp_path / name)


def changed(**changes):
    plain = json.loads(keyring(2).text())
    return json.dumps({**plain, **changes})


def key(**changes):
    return changed(keys=[{"version": 2, "created": "2026-11-23T10:00:00Z", "key": "BwcH" * 10 + "Bwc=", **changes}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        (SECRET, "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a keyring"),
        ('{"schema": "ext_authz.keyring/2"}', "is not a keyring"),
        (changed(extra=SECRET), "other keys"),
        (changed(id=SECRET), "`id`"),
        (changed(id="00000000000000AB"), "`id`"),
        (changed(keys={}), "`keys`"),
        (changed(keys=[]), "`current`"),
        (changed(keys=[SECRET]), r"`keys\[0\]`"),
        (changed(current=3), "`current`"),
        (changed(current="2"), "`current`"),
        (changed(current=True), "`current`"),
        (changed(current=1), "newest"),
        (changed(current=2.5), "number"),
        (key(version=0), "version"),
        (key(version="2"), "version"),
        (key(version=10**12), "version"),
        (key(created="today"), "created"),
        (key(key=SECRET), "32 bytes"),
        (key(key="!" * 44), "32 bytes"),
        (key(key="A" * 43 + "="), "32 bytes"),
        (key(key=None), "32 bytes"),
        (key(other=1), "alone"),
        (changed(keys=json.loads(keyring(2).text())["keys"] * 2), "twice"),
        ('{"schema": "ext_authz.keyring/1", "schema": "ext_authz.keyring/1"}', "twice"),
    ],
)
def test_a_broken_keyring_is_refused_and_not_repeated(text, message):
    with pytest.raises(ValueError, match=message) as refused:
        parse_keyring(text)
    assert SECRET not in str(refused.value)


def test_a_keyring_reads_back_as_it_was_written():
    assert parse_keyring(keyring(3).text()) == keyring(3)


def test_a_keyring_does_not_show_its_keys():
    made = keyring()
    assert repr(made.versions[1].key) not in repr(made) + repr(made.versions) + str(made)


def test_a_broken_file_is_named_and_stays_as_it_is(path):
    for raw in (b"\xff", b"{}", b" " * (2**20 + 1)):
        path.write_bytes(raw)
        with pytest.raises(KeyUnavailableError, match=str(path)):
            rotate_keyring(path, key=b"\2" * 32, now=NOW)
        assert path.read_bytes() == raw
