"""Output that appears whole or not at all."""

import errno
import os
import stat

import pytest

from ext_authz.envelope import files
from ext_authz.envelope.files import replacing


@pytest.fixture(params=["nameless", "named"])
def folder(request, tmp_path, monkeypatch):
    """A folder on a file system with O_TMPFILE, and one without."""
    if request.param == "named":
        real = os.open

        def refusing(path, flags, *arguments, **options):
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "not supported")
            return real(path, flags, *arguments, **options)

        monkeypatch.setattr(files.os, "open", refusing)
    return tmp_path


def test_it_appears_when_the_block_ends(folder):
    with replacing(folder / "out") as file:
        file.write(b"new")
        assert not (folder / "out").exists()
    assert (folder / "out").read_bytes() == b"new"
    assert stat.S_IMODE((folder / "out").stat().st_mode) == 0o600
    assert os.listdir(folder) == ["out"]


def test_it_takes_the_place_of_a_file(folder):
    (folder / "out").write_bytes(b"old")
    with replacing(folder / "out") as file:
        file.write(b"new")
        assert (folder / "out").read_bytes() == b"old"
    assert (folder / "out").read_bytes() == b"new"
    assert os.listdir(folder) == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
def test_a_block_that_fails_leaves_what_was_there(folder, error):
    (folder / "out").write_bytes(b"old")

    def fail():
        with replacing(folder / "out") as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert (folder / "out").read_bytes() == b"old"
    assert os.listdir(folder) == ["out"]


def test_what_cannot_be_synced_does_not_appear(folder, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="input/output"), replacing(folder / "out") as file:
        file.write(b"new")
    assert os.listdir(folder) == []


def test_only_a_regular_file_is_replaced(folder):
    (folder / "target").write_bytes(b"old")
    (folder / "link").symlink_to("target")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    before = sorted(os.listdir(folder))
    for name in ("link", "dangling", "folder", "pipe"):
        with pytest.raises(FileExistsError), replacing(folder / name):
            pytest.fail("nothing is to be written")
    assert sorted(os.listdir(folder)) == before
    assert (folder / "target").read_bytes() == b"old"


def test_without_overwriting_a_file_made_meanwhile_stays(folder):
    def late():
        with replacing(folder / "out", overwrite=False) as file:
            file.write(b"mine")
            (folder / "out").write_bytes(b"theirs")

    with pytest.raises(FileExistsError):
        late()
    assert (folder / "out").read_bytes() == b"theirs"
    assert os.listdir(folder) == ["out"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "none" / "out"):
        pytest.fail("nothing is to be written")


def test_a_long_name_is_no_trouble(folder):
    name = "x" * 250
    with replacing(folder / name) as file:
        file.write(b"new")
    assert os.listdir(folder) == [name]
