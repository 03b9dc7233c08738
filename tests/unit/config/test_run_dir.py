"""run_dir is ours alone."""

import os
import stat

import pytest

from ext_authz.config import prepare_run_dir, run_dir_problem
from ext_authz.documents import DocumentError


def test_it_is_created_for_us_alone(tmp_path):
    path = tmp_path / "a" / "run"
    old = os.umask(0)
    try:
        prepare_run_dir(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    prepare_run_dir(path)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_one_that_others_can_write_is_refused(tmp_path, mode):
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(DocumentError, match="can be written by others"):
        prepare_run_dir(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_one_that_others_can_read_is_not(tmp_path):
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    prepare_run_dir(path)


def test_a_file_is_no_directory(tmp_path):
    path = tmp_path / "run"
    path.write_text("")
    with pytest.raises(DocumentError, match="not a directory"):
        prepare_run_dir(path)
    assert "not a directory" in (run_dir_problem(path) or "")


def test_another_users_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert "belongs to another user" in (run_dir_problem(path) or "")


def test_checking_creates_nothing(tmp_path):
    assert run_dir_problem(tmp_path / "run") is None
    assert not (tmp_path / "run").exists()
