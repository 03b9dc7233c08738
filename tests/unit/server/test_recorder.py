import contextlib
import os

import pytest
from trails import entries, new_spool, open_key, trail

from ext_authz.audit.retention import prune
from ext_authz.audit.trail import segments
from ext_authz.server.recorder import CURSOR_FILE, Recorder
from ext_authz.state.changes import Change, Kind
from ext_authz.state.memory import MemoryStore
from ext_authz.state.sqlite import SqliteStore


def quarantine(name: str) -> Change:
    return Change(kind=Kind.QUARANTINE, by="os:root", at_ns=1, subject=f"sub:{name}", expires_at=100, reason="r")


def state_events(folder):
    events = [entry.event for entry in entries(folder)]
    return [event["record"]["subject"] for event in events if event["schema"] == "ext_authz.state/1"]


def record(folder, store):
    spool = new_spool(folder, "control")
    recorder = Recorder(spool, open_key)
    recorder.changes(store)
    return spool, recorder


@pytest.fixture
def store():
    return MemoryStore()


def test_each_change_becomes_one_event_however_often_one_looks(tmp_path, store):
    store.append(quarantine("a"))
    spool, recorder = record(tmp_path / "audit", store)
    recorder.changes(store)
    store.append(quarantine("b"))
    recorder.changes(store)
    recorder.changes(store)
    spool.close()
    assert state_events(tmp_path / "audit") == ["sub:a", "sub:b"]


def test_changes_made_while_nothing_ran_are_recorded_once_at_the_next_start(tmp_path, store):
    for name in "ab":
        store.append(quarantine(name))
        record(tmp_path / "audit", store)[0].close()
    store.append(quarantine("c"))
    store.append(quarantine("d"))
    record(tmp_path / "audit", store)[0].close()
    record(tmp_path / "audit", store)[0].close()
    assert sorted(state_events(tmp_path / "audit")) == ["sub:a", "sub:b", "sub:c", "sub:d"]


def test_a_lost_cursor_costs_a_scan_and_no_event_twice(tmp_path, store):
    store.append(quarantine("a"))
    record(tmp_path / "audit", store)[0].close()
    (tmp_path / "audit" / CURSOR_FILE).unlink()
    record(tmp_path / "audit", store)[0].close()
    assert state_events(tmp_path / "audit") == ["sub:a"]


def test_a_change_made_while_the_store_was_closed_and_opened_anew_is_recorded_at_the_next_look(tmp_path):
    with contextlib.closing(SqliteStore(tmp_path / "state.db", create=True)) as writer:
        writer.append(quarantine("a"))
        with contextlib.closing(SqliteStore(tmp_path / "state.db")) as first:
            spool, recorder = record(tmp_path / "audit", first)
            version = first.version()
        writer.append(quarantine("b"))
        with contextlib.closing(SqliteStore(tmp_path / "state.db")) as second:
            assert second.version() == version, "SQLite counts for each connection anew"
            assert recorder.changes(second) == 1
            assert recorder.changes(second) == 0
    spool.close()
    assert state_events(tmp_path / "audit") == ["sub:a", "sub:b"]


def test_a_change_after_the_store_was_restored_from_an_older_copy_is_recorded(tmp_path):
    path = tmp_path / "state.db"
    with contextlib.closing(SqliteStore(path, create=True)) as store:
        store.append(quarantine("a"))
        older = path.read_bytes()
        store.append(quarantine("b"))
        spool, recorder = record(tmp_path / "audit", store)
    path.write_bytes(older)
    with contextlib.closing(SqliteStore(path)) as restored:
        assert recorder.changes(restored) == 0
        restored.append(quarantine("c"))
        assert recorder.changes(restored) == 1
    spool.close()
    assert state_events(tmp_path / "audit") == ["sub:a", "sub:b", "sub:c"]


def test_a_removed_trail_brings_no_old_change_back(tmp_path, store):
    store.append(quarantine("a"))
    record(tmp_path / "audit", store)[0].close()
    for path in (tmp_path / "audit").glob("control-*.seg"):
        path.unlink()
    store.append(quarantine("b"))
    record(tmp_path / "audit", store)[0].close()
    assert state_events(tmp_path / "audit") == ["sub:b"]


def test_damage_in_the_trail_stops_nothing(tmp_path, store):
    store.append(quarantine("a"))
    record(tmp_path / "audit", store)[0].close()
    path = next((tmp_path / "audit").glob("control-*.seg"))
    path.write_bytes(path.read_bytes() + b"\x01\x00 no frame at all, and long enough to be seen")
    (tmp_path / "audit" / CURSOR_FILE).write_bytes(b"[]")
    store.append(quarantine("b"))
    record(tmp_path / "audit", store)[0].close()
    found = trail(tmp_path / "audit")
    events = [entry.event for entry in found.entries() if entry.event["schema"] == "ext_authz.state/1"]
    assert sorted(event["record"]["subject"] for event in events) == ["sub:a", "sub:b"]
    assert found.damaged == 1


def test_more_changes_than_a_page_are_all_recorded(tmp_path, store):
    for number in range(600):
        store.append(quarantine(str(number)))
    record(tmp_path / "audit", store)[0].close()
    assert state_events(tmp_path / "audit") == [f"sub:{number}" for number in range(600)]


def test_a_trail_pruned_in_its_time_is_whole_and_one_pruned_by_hand_is_not(tmp_path):
    from altered import copied, files, verified, write

    trail_folder = write(tmp_path / "audit", 5, 5, 5)
    by_hand = copied(trail_folder, tmp_path / "by-hand")
    spool = new_spool(trail_folder, "control")
    recorder = Recorder(spool, open_key)
    old = [each.path for each in segments(trail_folder) if each.writer == "worker-0"][:2]
    for path in old:
        os.utime(path, (1, 1))
    assert len(prune(trail_folder, 3600, lambda _: True, announce=recorder.removals)) == 2
    assert verified(trail_folder).status == 0  # at once: the event is signed before anything is deleted
    spool.close()
    write(trail_folder, 1)
    assert verified(trail_folder).status == 0
    old[0].with_name(old[0].name.replace(".000000.", ".000002.")).unlink()
    assert verified(trail_folder).status == 4  # two segments were removed on record, not the log
    for path in files(by_hand)[:2]:
        path.unlink()
    assert verified(by_hand).status == 4
