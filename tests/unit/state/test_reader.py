"""The reader thread and the SQLite file under it: live, and standing still where the store does not answer."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from ext_authz.model import Risk
from ext_authz.state import Store, StoreError
from ext_authz.state.changes import Change, Kind
from ext_authz.state.memory import MemoryStore
from ext_authz.state.reader import StateReader
from ext_authz.state.settings import StateSettings
from ext_authz.state.sqlite import SqliteStore

NOW = 1_800_000_000
SECOND = 1_000_000_000
NOW_NS = NOW * SECOND


class Clock:
    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def __call__(self) -> int:
        return self.now_ns


def quarantine(subject: str = "sub:mallory", **more: object) -> Change:
    return Change(Kind.QUARANTINE, "os:root", NOW_NS, "odd", subject=subject, expires_at=NOW + 6000, **more)  # type: ignore[arg-type]


def test_before_the_first_look_nothing_that_allows_is_known() -> None:
    reader = StateReader(MemoryStore)
    assert not reader.ready
    assert reader.state.approvals_for("sub:alice", NOW_NS) is None
    assert reader.state.risk_of("sub:alice", 0) is None


def test_a_change_is_seen_at_the_next_look_and_the_state_swapped_whole() -> None:
    store = MemoryStore()
    clock = Clock()
    reader = StateReader(lambda: store, clock_ns=clock)
    assert reader.poll()
    assert reader.ready
    before = reader.state
    store.append(quarantine())
    assert reader.poll()
    assert reader.state.quarantine_of("sub:mallory", NOW_NS) == "quarantined: odd"
    assert before.quarantine_of("sub:mallory", NOW_NS) is None
    store.append(quarantine(withdraw=True))
    reader.poll()
    assert reader.state.quarantine_of("sub:mallory", NOW_NS) is None


def test_an_outage_leaves_the_last_state_standing_and_ageing_and_ends_by_itself() -> None:
    store = MemoryStore()
    clock = Clock()
    reader = StateReader(lambda: store, clock_ns=clock)
    store.append(quarantine())
    reader.poll()
    store.fail = "the disk is gone"
    clock.now_ns += 31 * SECOND
    assert not reader.poll()
    assert (reader.failures, reader.last_error) == (1, "the disk is gone")
    assert reader.state.risk_of("sub:alice", clock.now_ns) is None
    assert reader.state.quarantine_of("sub:mallory", clock.now_ns) is not None
    store.fail = ""
    assert reader.poll()
    assert reader.state.risk_of("sub:alice", clock.now_ns) is Risk.LOW
    assert reader.last_error == ""


def test_an_opener_that_fails_in_any_way_does_not_end_the_reader() -> None:
    def broken() -> Store:
        raise ZeroDivisionError

    reader = StateReader(broken)
    assert not reader.poll()
    assert reader.last_error == "ZeroDivisionError"


def test_looking_without_a_change_renews_the_age_alone() -> None:
    store, clock = MemoryStore(), Clock()
    reader = StateReader(lambda: store, clock_ns=clock)
    reader.poll()
    clock.now_ns += 100 * SECOND
    reader.poll()
    assert reader.state.age_ns(clock.now_ns) == 0


def test_another_store_in_its_place_is_read_from_the_beginning() -> None:
    stores = [MemoryStore(), MemoryStore()]
    stores[0].append(quarantine())
    stores[1].append(quarantine("sub:b"))
    stores[1].append(quarantine("sub:c"))
    current = [stores[0]]
    reader = StateReader(lambda: current[0], clock_ns=Clock())
    reader.poll()
    current[0] = stores[1]
    stores[0].fail = "replaced"
    reader.poll()
    assert reader.poll()
    assert reader.replaced == 1
    assert reader.state.quarantine_of("sub:mallory", NOW_NS) is None
    assert reader.state.quarantine_of("sub:b", NOW_NS) is not None
    assert reader.state.version == 2


def test_the_thread_sees_what_another_process_appends_and_stops(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    SqliteStore(path, create=True).close()
    seen = threading.Event()

    class Watched(StateReader):
        def poll(self) -> bool:
            well = super().poll()
            if self.state.version == 1:
                seen.set()
            return well

    reader = Watched(lambda: SqliteStore(path), interval=0.01)
    reader.start()
    with pytest.raises(RuntimeError):
        reader.start()
    code = (
        "import sys; from pathlib import Path; from ext_authz.state.sqlite import SqliteStore;"
        "from ext_authz.state.changes import Change, Kind;"
        "SqliteStore(Path(sys.argv[1])).append(Change(Kind.REVOCATION, 'os:root', 1, key_id='k'))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    assert seen.wait(10)
    reader.stop()
    assert reader.state.revocations.keys == {"k": "revocation 1: no reason given"}


def test_the_file_is_made_for_its_owner_alone_and_not_by_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with pytest.raises(StoreError, match="No such file"):
        SqliteStore(path)
    assert not path.exists()
    SqliteStore(path, create=True).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    SqliteStore(path, create=True).close()
    path.chmod(0o620)
    with pytest.raises(StoreError, match="others can write it"):
        SqliteStore(path)


def test_a_symbolic_link_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    SqliteStore(tmp_path / "real.db", create=True).close()
    path.symlink_to(tmp_path / "real.db")
    for create in (False, True):
        with pytest.raises(StoreError, match="not a regular file"):
            SqliteStore(path, create=create)


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_what_is_not_a_store_is_an_error_and_never_an_empty_answer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreError):
        SqliteStore(path)


def test_a_database_of_another_program_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    path.chmod(0o600)
    with pytest.raises(StoreError, match="not a state store"):
        SqliteStore(path, create=True)


def test_a_reader_survives_the_file_being_taken_away_overwritten_and_brought_back(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    writer = SqliteStore(path, create=True)
    writer.append(quarantine())
    writer.close()
    good = path.read_bytes()
    clock = Clock()
    reader = StateReader(lambda: SqliteStore(path, busy_timeout_ms=10), clock_ns=clock)
    assert reader.poll()
    path.unlink()
    assert not reader.poll()
    assert not path.exists()
    path.write_bytes(b"\xff" * 8192)
    path.chmod(0o600)
    assert not reader.poll()
    assert reader.state.quarantine_of("sub:mallory", NOW_NS) is not None
    path.unlink()
    path.write_bytes(good)
    path.chmod(0o600)
    assert reader.poll()
    assert reader.state.version == 1
    reader.stop()


def test_a_locked_database_is_an_outage_and_no_hang(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path, create=True, busy_timeout_ms=10)
    reader = StateReader(lambda: SqliteStore(path, busy_timeout_ms=10), clock_ns=Clock())
    reader.poll()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert not reader.poll()
    with pytest.raises(StoreError, match="locked"):
        store.append(quarantine())
    holder.execute("ROLLBACK")
    holder.close()
    assert store.append(quarantine()).id == 1
    assert reader.poll()
    assert reader.state.version == 1
    store.close()
    reader.stop()


def test_rows_cannot_be_altered_and_a_row_taken_out_by_force_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path, create=True)
    for _ in range(3):
        store.append(quarantine())
    raw = sqlite3.connect(path, isolation_level=None)
    for statement in ("UPDATE changes SET record = '{}'", "DELETE FROM changes"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            raw.execute(statement)
    raw.execute("DROP TRIGGER changes_are_never_removed")
    raw.execute("DELETE FROM changes WHERE id = 2")
    raw.close()
    reader = StateReader(lambda: SqliteStore(path), clock_ns=Clock())
    assert not reader.poll()
    assert "change 2 is missing" in reader.last_error
    assert not reader.ready
    reader.stop()
    store.close()


@pytest.mark.parametrize("record", ["{", "[]", "7", json.dumps({"kind": "approval2", "by": "x", "at_ns": 1})])
def test_a_row_of_a_later_version_ages_the_state_instead_of_being_passed_over(tmp_path: Path, record: str) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path, create=True)
    store.append(quarantine())
    reader = StateReader(lambda: SqliteStore(path), clock_ns=Clock())
    reader.poll()
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("INSERT INTO changes (record) VALUES (?)", (record,))
    raw.close()
    assert not reader.poll()
    assert "change 2" in reader.last_error
    assert reader.state.version == 1
    store.close()
    reader.stop()


def test_a_connection_is_not_used_in_a_forked_child(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db", create=True)
    store._pid += 1
    with pytest.raises(StoreError, match="another process"):
        store.append(quarantine())
    store.close()


def test_the_settings_refuse_what_this_version_cannot_do() -> None:
    assert StateSettings.model_validate({"backend": "sqlite", "max_age": "10s"}).max_age == 10
    for bad in ({"on_stale": "deny"},):
        with pytest.raises(ValidationError, match="not available in this version"):
            StateSettings.model_validate(bad)
    for bad in ({"backend": "etcd"}, {"on_stale": "panic"}, {"max_age": "0s"}, {"max_agee": "1s"}):
        with pytest.raises(ValidationError):
            StateSettings.model_validate(bad)


SHARED = {"backend": "redis", "url": "rediss://u:p4ss@redis.internal:6379/0", "secret_file": "fleet.secret"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": None}, "needs `url`"),
        ({"url": "http://redis.internal"}, "is not the URL of a Redis"),
        ({"url": "redis://:p4ss@"}, "is not the URL of a Redis"),
        ({"url": "redis://:p4ss@redis.internal"}, "use `rediss://`"),
        ({"url": "rediss://h?ssl_cert_reqs=none"}, "options have keys of their own"),
        ({"secret_file": None}, "whoever can write to Redis can approve"),
        ({"url": "redis://127.0.0.1", "ca_file": "ca.pem"}, "`ca_file` is for `rediss://`"),
        ({"backend": "sqlite"}, "`url` is for `backend: redis`"),
        ({"backend": "rediss"}, "did you mean `redis`"),
    ],
)
def test_a_shared_store_is_authenticated_and_closed_to_onlookers_or_says_unsafe(
    change: dict[str, str | None], message: str
) -> None:
    given = {name: value for name, value in {**SHARED, **change}.items() if value is not None}
    with pytest.raises(ValidationError) as caught:
        StateSettings.model_validate(given)
    said = "; ".join(each["msg"] for each in caught.value.errors())
    assert message in said
    assert "p4ss" not in said


def test_a_shared_store_whose_library_is_missing_is_a_mistake_of_the_configuration(monkeypatch) -> None:
    monkeypatch.setattr("ext_authz.state.settings.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"needs the extra `redis`: `pip install 'ext-authz\[redis\]'`"):
        StateSettings.model_validate(SHARED)


def test_what_is_unsafe_can_be_said_and_a_password_is_not_shown() -> None:
    plain = StateSettings.model_validate(
        {"backend": "redis", "url": "redis://:p4ss@10.0.0.7", "unsafe_plaintext": True, "unsafe_unauthenticated": True}
    )
    whole = StateSettings.model_validate(SHARED)
    assert "p4ss" not in repr(plain) + repr(whole)
    assert whole.url is not None
    assert whole.url.get_secret_value() == SHARED["url"]
