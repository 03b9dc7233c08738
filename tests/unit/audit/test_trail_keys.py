"""Writers and readers of a trail find the same keys; a missing one is made once, and never in place of a lost one."""

import os
import stat

import pytest
from trails import write_log

from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.trail_keys import TrailKeys
from ext_authz.envelope.errors import KeyUnavailableError


@pytest.fixture
def folders(tmp_path):
    base, run_dir = tmp_path / "etc", tmp_path / "run"
    base.mkdir()
    run_dir.mkdir(mode=0o700)
    return base, run_dir


def keys(folders, **settings):
    return TrailKeys(AuditSettings.model_validate(settings, context={"base": folders[0]}), *folders, {})


def test_the_first_start_makes_both_keys_beside_the_configuration_and_every_start_warns(folders):
    first = keys(folders).prepare()
    made = {name: (folders[0] / name).read_bytes() for name in ("audit.key", "audit-signing.key")}
    assert [stat.S_IMODE((folders[0] / name).stat().st_mode) for name in made] == [0o600, 0o600]
    assert keys(folders).prepare() == first
    assert len(first) == 2
    assert {name: (folders[0] / name).read_bytes() for name in made} == made
    wrapped = keys(folders).open().wrap(bytes(32), {})
    assert keys(folders).open().unwrap(wrapped, {}) == bytes(32)
    assert list(folders[1].iterdir()) == []


def test_where_the_folder_of_the_configuration_cannot_be_written_the_keys_stand_in_run_dir(folders, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != folders[0] and real(path, mode))
    keys(folders).prepare()
    assert sorted(path.name for path in folders[1].iterdir()) == [
        "audit-signing.key",
        "audit-signing.key.pub",
        "audit.key",
    ]
    monkeypatch.undo()
    # It became writable: the keys that are there go on being the keys.
    assert keys(folders).encryption.rest == str(folders[1] / "audit.key")
    keys(folders).prepare()
    assert list(folders[0].iterdir()) == []


def test_no_key_is_made_where_a_trail_is_that_needs_a_lost_one(folders):
    write_log(folders[1] / "audit", [b"{}"])
    with pytest.raises(KeyUnavailableError, match="is missing, and the trail in"):
        keys(folders).prepare()
    assert list(folders[0].iterdir()) == []


def test_configured_keys_are_taken_and_neither_made_nor_warned_of(folders):
    settings = {"encryption": {"key": "file:mine"}, "signing": {"key": "file:sign.pem"}}
    with pytest.raises(KeyUnavailableError, match="cannot read"):
        keys(folders, **settings).prepare()
    keys(folders).prepare()
    (folders[0] / "audit.key").rename(folders[0] / "mine")
    (folders[0] / "audit-signing.key").rename(folders[0] / "sign.pem")
    made = keys(folders, **settings)
    assert made.prepare() == []
    assert (made.encryption.rest, made.signing.rest) == (str(folders[0] / "mine"), str(folders[0] / "sign.pem"))


def test_a_key_that_others_can_read_is_refused(folders):
    keys(folders).prepare()
    (folders[0] / "audit.key").chmod(0o640)
    with pytest.raises(KeyUnavailableError, match="can be used by others"):
        keys(folders).open()
