import os

from ext_authz.server.watch import Watch


def test_a_change_counts_once_it_stood_still_for_one_look(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("1")
    watch = Watch([str(file)], [])
    assert not watch.changed()
    file.write_text("12")
    assert not watch.changed()
    file.write_text("123")
    assert not watch.changed()
    assert watch.changed()
    assert not watch.changed()


def test_a_new_file_under_a_glob_and_a_deleted_file_are_changes(tmp_path):
    (tmp_path / "a.yaml").write_text("1")
    watch = Watch([], [str(tmp_path / "*.yaml")])
    (tmp_path / "b.yaml").write_text("1")
    watch.changed()
    assert watch.changed()
    (tmp_path / "a.yaml").unlink()
    watch.changed()
    assert watch.changed()


def test_an_atomic_replacement_of_equal_size_and_time_is_a_change(tmp_path):
    file = tmp_path / "keys.json"
    file.write_text("old")
    watch = Watch([str(file)], [])
    stamp = file.stat().st_mtime_ns
    other = tmp_path / "new"
    other.write_text("new")
    os.utime(other, ns=(stamp, stamp))
    other.replace(file)
    watch.changed()
    assert watch.changed()


def test_a_file_that_is_not_there_yet_is_watched(tmp_path):
    watch = Watch([str(tmp_path / "later")], [])
    assert not watch.changed()
    (tmp_path / "later").write_text("x")
    watch.changed()
    assert watch.changed()
