"""What every store promises; the fake and the real one pass the same tests."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ext_authz.model import Risk
from ext_authz.state import Store
from ext_authz.state.book import read_book
from ext_authz.state.changes import Change, Kind
from ext_authz.state.memory import MemoryStore
from ext_authz.state.sqlite import SqliteStore

NOW = 1_800_000_000
NOW_NS = NOW * 1_000_000_000

Opener = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    opened: list[Store] = []
    memory = MemoryStore()

    def open_store() -> Store:
        if request.param == "memory":
            return memory
        store = SqliteStore(tmp_path / "state.db", create=True)
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


def quarantine(subject: str = "sub:mallory", **more: object) -> Change:
    return Change(Kind.QUARANTINE, "os:root", NOW_NS, "odd", subject=subject, expires_at=NOW + 60, **more)  # type: ignore[arg-type]


def test_a_new_store_is_empty_and_has_a_name(opener: Opener) -> None:
    page = opener().read(0)
    assert (page.last_id, page.changes) == (0, ())
    assert page.store_id


def test_a_change_comes_back_as_it_was_with_ids_counting_from_one(opener: Opener) -> None:
    store = opener()
    approval = Change(
        Kind.APPROVAL,
        "os:ops",
        NOW_NS,
        "löuft ✓",
        subject="sub:alice",
        expires_at=NOW + 3600,
        policy="p",
        policy_digest="d1",
        group="security",
        resource="model/a/b",
    )
    revocation = Change(Kind.REVOCATION, "os:ops", NOW_NS, issuer="https://idp", before=NOW)
    first, second = store.append(approval), store.append(revocation)
    assert (first.id, second.id) == (1, 2)
    assert store.read(0).changes == (first, second)
    assert first.record() == approval.record()
    assert second.record() == revocation.record()


def test_reading_goes_on_where_it_stopped_and_is_bounded_by_the_limit(opener: Opener) -> None:
    store = opener()
    for number in range(5):
        store.append(quarantine(f"sub:{number}"))
    assert [each.id for each in store.read(2).changes] == [3, 4, 5]
    assert [each.id for each in store.read(1, limit=2).changes] == [2, 3]
    assert store.read(5).changes == ()
    assert store.read(1, limit=2).last_id == 5


def test_what_makes_no_sense_is_refused_and_leaves_no_row(opener: Opener) -> None:
    store = opener()
    with pytest.raises(ValueError, match="typed name"):
        store.append(quarantine("mallory"))
    assert store.read(0).last_id == 0


def test_the_version_changes_with_every_append_of_anybody_and_only_then(opener: Opener) -> None:
    mine, theirs = opener(), opener()
    start = mine.version()
    assert mine.version() == start
    theirs.append(quarantine())
    after = mine.version()
    assert after != start
    assert mine.version() == after
    mine.append(quarantine())
    assert mine.version() != after


def test_two_openings_of_one_store_share_name_and_changes(opener: Opener) -> None:
    mine, theirs = opener(), opener()
    stored = theirs.append(quarantine())
    assert mine.read(0).changes == (stored,)
    assert mine.read(0).store_id == theirs.read(0).store_id


def test_appends_of_many_threads_are_all_there_without_a_hole(opener: Opener) -> None:
    store = opener()
    threads = [threading.Thread(target=lambda: [store.append(quarantine()) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.id for each in store.read(0).changes] == list(range(1, 21))


def test_a_book_read_from_the_store_gives_the_state(opener: Opener) -> None:
    store = opener()
    store.append(quarantine())
    store.append(Change(Kind.RISK, "monitor", NOW_NS, subject="sub:alice", risk="high", expires_at=NOW + 60))
    state = read_book(store).state(NOW_NS)
    assert state.quarantine_of("sub:mallory", NOW_NS) == "quarantined: odd"
    assert state.risk_of("sub:alice", NOW_NS) is Risk.HIGH
    assert state.version == 2
