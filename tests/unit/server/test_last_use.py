import stat

from ext_authz.server import last_use
from ext_authz.server.last_use import FOLDER, LastUseWriter, last_uses


def test_what_was_used_is_kept_over_restarts_and_the_latest_of_all_workers_counts(tmp_path):
    for name, used in (("worker-0", {"a": 10, "b": 20}), ("worker-1", {"a": 30}), ("worker-0", {"c": 5})):
        writer = LastUseWriter(dict(used), tmp_path, name)
        writer.start()
        writer.stop()
    assert last_uses(tmp_path) == {"a": 30, "b": 20, "c": 5}
    path = tmp_path / FOLDER / "worker-0.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_that_is_none_of_ours_says_nothing(tmp_path):
    (tmp_path / FOLDER).mkdir()
    for name, text in {"a": "x", "b": "[1]", "c": '{"k": "x", "n": -1, "m": 7}'}.items():
        (tmp_path / FOLDER / f"{name}.json").write_text(text)
    assert last_uses(tmp_path) == {"m": 7}
    assert last_uses(tmp_path / "nowhere") == {}


def test_a_full_disk_stops_nothing(tmp_path):
    (tmp_path / FOLDER).write_text("a file")
    writer = LastUseWriter({"a": 1}, tmp_path, "worker-0")
    writer.start()
    writer.stop()


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(last_use, "MAX_IDS", 3)
    writer = LastUseWriter({str(number): number for number in range(9)}, tmp_path, "worker-0")
    writer.start()
    writer.stop()
    assert last_uses(tmp_path) == {"6": 6, "7": 7, "8": 8}
