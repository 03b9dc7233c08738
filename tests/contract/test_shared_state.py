"""What hosts that share a store promise each other; the fake log and a real Redis pass the same tests."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_log import MemoryLog, RedisServer, redis_if_any

from ext_authz.model import Risk
from ext_authz.state import State, StoreError
from ext_authz.state.book import read_book
from ext_authz.state.changes import Change, Kind
from ext_authz.state.redis import PREFIX, RedisLog
from ext_authz.state.replica import ReplicaStore
from ext_authz.state.replicator import Replicator, SharedLog

NOW = 1_800_000_000
NOW_NS = NOW * 1_000_000_000
SECRET = b"0123456789abcdef0123456789abcdef"


class Host:
    """One host: its file, and what carries rows; `clock` stands still unless moved."""

    def __init__(self, path: Path, open_log: Callable[[], SharedLog], clock_ns: int = NOW_NS) -> None:
        self.path = path
        self.clock = clock_ns
        self.store = ReplicaStore(path, create=True, clock_ns=lambda: self.clock)
        self.replicator = Replicator(
            lambda: ReplicaStore(path, clock_ns=lambda: self.clock), open_log, clock_ns=lambda: self.clock
        )

    def sync(self) -> int:
        return self.replicator.sync()

    def quarantine(self, subject: str, *, withdraw: bool = False, reason: str = "odd") -> Change:
        ends = None if withdraw else NOW + 600
        return self.store.append(
            Change(Kind.QUARANTINE, "os:ops", self.clock, reason, withdraw=withdraw, subject=subject, expires_at=ends)
        )

    def state(self) -> State:
        return read_book(self.store).state(NOW_NS, None)

    def close(self) -> None:
        self.replicator.drop()
        self.store.close()


Hosts = Callable[..., Host]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | None]:
    with redis_if_any(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def open_log(request: pytest.FixtureRequest, server: RedisServer | None) -> Iterator[Callable[[], SharedLog]]:
    if request.param == "memory":
        log = MemoryLog()
        yield lambda: log
        return
    if server is None:
        pytest.skip("no redis-server")
    with server.client() as client:
        client.flushall()
    yield lambda: RedisLog(server.url, secret=SECRET)


@pytest.fixture
def host(tmp_path: Path, open_log: Callable[[], SharedLog]) -> Iterator[Hosts]:
    made: list[Host] = []

    def make(**more: int) -> Host:
        made.append(Host(tmp_path / f"{len(made)}.db", open_log, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def settle(*hosts: Host) -> None:
    for each in (*hosts, *hosts):
        each.sync()


def test_what_one_host_records_every_other_has_after_a_look(host: Hosts) -> None:
    a, b = host(), host()
    a.quarantine("sub:mallory")
    assert (a.sync(), b.sync()) == (0, 1)
    assert b.state().quarantine_of("sub:mallory", NOW_NS) == "quarantined: odd"
    assert (a.sync(), b.sync()) == (0, 0)


def test_a_row_says_which_host_it_came_from(host: Hosts) -> None:
    a, b = host(), host()
    first = a.quarantine("sub:mallory")
    settle(a, b)
    page = b.store.read(0)
    assert page.origins == {1: f"{a.store.read(0).store_id}:{first.id}"}
    assert not page.repeats
    assert not a.store.read(0).origins


def test_a_withdrawal_on_a_host_whose_clock_is_behind_still_takes_back(host: Hosts) -> None:
    a, b = host(), host(clock_ns=NOW_NS - 120 * 1_000_000_000)
    a.quarantine("sub:mallory")
    settle(a, b)
    b.quarantine("sub:mallory", withdraw=True)
    settle(a, b)
    for each in (a, b):
        assert each.state().quarantine_of("sub:mallory", NOW_NS) is None


def test_a_row_from_a_host_whose_clock_was_years_ahead_undoes_nothing_that_was_recorded_knowing_it(host: Hosts) -> None:
    a, b, c = host(), host(clock_ns=NOW_NS + 10 * 365 * 86_400 * 1_000_000_000), host()
    a.quarantine("sub:mallory")
    settle(a, b, c)
    b.quarantine("sub:mallory", withdraw=True)
    settle(a, b, c)
    a.quarantine("sub:mallory", reason="again")
    settle(a, b, c)
    told = [each.state().quarantine_of("sub:mallory", NOW_NS) for each in (a, b, c)]
    assert told == ["quarantined: again"] * 3


def test_hosts_that_were_apart_agree_once_they_meet(host: Hosts) -> None:
    a, b = host(), host(clock_ns=NOW_NS + 1)
    a.quarantine("sub:mallory", reason="first")
    settle(a, b)
    a.clock += 5
    a.quarantine("sub:mallory", withdraw=True)
    b.clock += 9
    b.quarantine("sub:mallory", reason="again")
    settle(b, a)
    assert [each.state().quarantine_of("sub:mallory", NOW_NS) for each in (a, b)] == ["quarantined: again"] * 2


def test_hosts_that_were_apart_for_long_grow_by_what_happened_and_not_by_its_square(host: Hosts) -> None:
    a, b = host(), host(clock_ns=NOW_NS + 1)
    settle(a, b)
    for number in range(60):
        for each in (a, b):
            each.clock += 1_000_000_000
            each.quarantine("sub:mallory", withdraw=number % 2 == 0)
    settle(a, b)
    told = [each.state().quarantine_of("sub:mallory", NOW_NS) for each in (a, b)]
    assert told == ["quarantined: odd"] * 2
    assert max(each.store.read(0).last_id for each in (a, b)) <= 3 * 60


def test_a_withdrawal_of_all_of_a_groups_approvals_reaches_one_that_arrives_later(host: Hosts) -> None:
    a, b = host(), host(clock_ns=NOW_NS + 10)

    def approval(at: Host, by: str, **more: object) -> None:
        ends = None if more.get("withdraw") else NOW + 60
        digest = "" if more.get("withdraw") else "d"
        at.store.append(
            Change(Kind.APPROVAL, by, at.clock, subject="sub:alice", expires_at=ends, policy="p", policy_digest=digest,
                   group="security", **more)  # type: ignore[arg-type]
        )  # fmt: skip

    approval(a, "sub:carol")
    approval(b, "sub:dave", withdraw=True)
    settle(b, a)
    for each in (a, b):
        assert each.state().approvals_for("sub:alice", NOW_NS) == ()


def test_what_the_shared_log_forgot_it_is_given_again(
    host: Hosts, open_log: Callable[[], SharedLog], server: RedisServer | None
) -> None:
    a, b = host(), host()
    a.quarantine("sub:mallory")
    settle(a, b)
    log = open_log()
    if isinstance(log, MemoryLog):
        log.forget()
    else:
        assert server is not None
        with server.client() as client:
            client.flushall()
    log.close()
    b.quarantine("sub:eve")
    settle(b, a)
    c = host()
    c.sync()
    for each in (a, b, c):
        assert set(each.state().quarantines) == {"sub:mallory", "sub:eve"}


def test_a_place_handed_out_twice_loses_neither_row(
    host: Hosts, open_log: Callable[[], SharedLog], server: RedisServer | None
) -> None:
    a, b = host(), host()
    a.quarantine("sub:one")
    settle(a, b)
    a.quarantine("sub:lost")
    a.sync()
    log = open_log()
    if isinstance(log, MemoryLog):
        log.lose(1)
    else:
        assert server is not None
        with server.client() as client:  # as a Redis that was restarted with its last second missing
            (last,) = client.xrevrange("{ext-authz}:changes", count=1)
            client.xdel("{ext-authz}:changes", last[0])
            client.execute_command("XSETID", "{ext-authz}:changes", "1-0")
            client.set("{ext-authz}:last", 1)
            client.srem("{ext-authz}:origins", last[1][b"o"])
    log.close()
    b.quarantine("sub:two")
    settle(b, a, b)
    for each in (a, b):
        assert set(each.state().quarantines) == {"sub:one", "sub:lost", "sub:two"}


def test_a_host_whose_file_was_restored_from_an_older_copy_gets_back_what_it_lost(
    host: Hosts, tmp_path: Path, open_log: Callable[[], SharedLog]
) -> None:
    a, b = host(), host()
    a.quarantine("sub:one")
    settle(a, b)
    a.store.close()
    a.replicator.drop()
    copy = a.path.read_bytes()
    again = Host(a.path, open_log)
    again.quarantine("sub:two")
    settle(again, b)
    again.close()
    a.path.write_bytes(copy)
    restored = Host(a.path, open_log)
    restored.quarantine("sub:three")  # the number that `sub:two` had
    settle(restored, b)
    for each in (restored, b):
        assert set(each.state().quarantines) == {"sub:one", "sub:two", "sub:three"}
    restored.close()


def test_a_change_made_while_the_log_is_away_holds_here_at_once_and_there_later(host: Hosts) -> None:
    a, b = host(), host()
    a.quarantine("sub:mallory")
    assert a.state().quarantine_of("sub:mallory", NOW_NS)
    assert b.state().quarantine_of("sub:mallory", NOW_NS) is None
    settle(a, b)
    assert b.state().quarantine_of("sub:mallory", NOW_NS)


def test_contact_is_the_moment_of_the_last_whole_look(host: Hosts) -> None:
    a = host()
    assert a.replicator.contact() < 0
    a.sync()
    assert a.replicator.contact() == NOW_NS
    a.clock += 7
    a.sync()
    assert a.replicator.contact() == NOW_NS + 7


def test_two_processes_of_one_host_take_each_row_once(host: Hosts, open_log: Callable[[], SharedLog]) -> None:
    a, b = host(), host()
    second = Replicator(lambda: ReplicaStore(b.path), open_log, clock_ns=lambda: NOW_NS)
    for number in range(5):
        a.quarantine(f"sub:{number}")
    a.sync()
    taken = b.sync() + second.sync()
    b.quarantine("sub:own")
    second.sync()
    b.sync()
    second.drop()
    assert taken == 5
    assert len(b.store.read(0).changes) == 6
    a.sync()
    assert len(a.state().quarantines) == 6


def test_a_row_that_this_version_does_not_understand_is_not_passed_over(
    host: Hosts, open_log: Callable[[], SharedLog]
) -> None:
    from ext_authz.state.replica import Origin, Row

    a = host()
    log = open_log()
    log.give(log.name(), [Row(Origin("f" * 32, 1), '{"kind": "curfew", "by": "os:x", "at_ns": 1}')])
    log.close()
    for _ in range(2):
        with pytest.raises(ValueError, match="not a change that this version knows"):
            a.sync()
    assert a.replicator.contact() < 0


SUBJECTS = ("sub:a", "sub:b")
STEP = st.tuples(
    st.sampled_from(["quarantine", "withdraw", "risk", "approve", "unapprove", "sync", "sync", "forget", "lose"]),
    st.integers(0, 2),
    st.sampled_from(SUBJECTS),
    st.integers(0, 3),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=st.lists(STEP, max_size=25))
def test_whatever_happens_in_whatever_order_hosts_that_met_hold_the_same(
    steps: list[tuple[str, int, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("hosts")
    log = MemoryLog()
    hosts = [Host(folder / f"{number}.db", lambda: log, NOW_NS + number * 1000) for number in range(3)]
    counter = itertools.count()
    try:
        for what, number, subject, later in steps:
            each = hosts[number]
            each.clock += later * 500
            if what in ("quarantine", "withdraw"):
                each.quarantine(subject, withdraw=what == "withdraw", reason=f"r{next(counter)}")
            elif what == "risk":
                each.store.append(
                    Change(Kind.RISK, "monitor", each.clock, subject=subject, risk=list(Risk)[later].value)
                )
            elif what in ("approve", "unapprove"):
                gone = what == "unapprove"
                each.store.append(
                    Change(
                        Kind.APPROVAL,
                        f"sub:approver{later}",
                        each.clock,
                        withdraw=gone,
                        subject=subject,
                        policy="p",
                        group="g",
                        policy_digest="" if gone else "d",
                        expires_at=None if gone else NOW + 60 + next(counter),
                        resource="model/x" if later % 2 else "",
                    )
                )
            elif what == "sync":
                each.sync()
            elif what == "forget":
                log.forget()
            else:
                log.lose(len(log._rows) // 2)
        settle(*hosts, *hosts)
        states = [each.state() for each in hosts]
        for other in states[1:]:
            assert other.quarantines == states[0].quarantines
            assert other.risks == states[0].risks
            for subject in SUBJECTS:
                assert set(other.approvals.get(subject, ())) == set(states[0].approvals.get(subject, ()))
        given_ = [each.store.read(0) for each in hosts]
        sizes = {len(page.changes) - len(page.repeats) for page in given_}
        assert len(sizes) == 1, "every change reached every host once"
    finally:
        for each in hosts:
            each.close()


def _evict(key: str) -> Callable[[redis.Redis], object]:
    return lambda client: client.delete(f"{PREFIX}:{key}")


LOST: dict[str, Callable[[redis.Redis], object]] = {
    "the name": _evict("log"),
    "the rows": _evict("changes"),
    "the origins": _evict("origins"),
    "rows of the middle": lambda client: client.xdel(f"{PREFIX}:changes", "2-0"),
    "the first rows": lambda client: client.xtrim(f"{PREFIX}:changes", maxlen=1, approximate=False),
    "a row that a stranger put far ahead": lambda client: client.xadd(f"{PREFIX}:changes", {"o": "x:1"}, id="9000-0"),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_a_redis_that_lost_a_part_of_the_log_keeps_no_later_change_from_anybody(
    tmp_path: Path, server: RedisServer | None, lose: Callable[[redis.Redis], object]
) -> None:
    if server is None:
        pytest.skip("no redis-server")
    with server.client() as client:
        client.flushall()
    hosts = [Host(tmp_path / f"{number}.db", lambda: RedisLog(server.url, secret=SECRET)) for number in range(3)]
    a, b, late = hosts
    for number in range(3):
        a.quarantine(f"sub:early-{number}")
    settle(a, b)
    with server.client() as client:
        lose(client)
    a.quarantine("sub:mallory")
    for each in (a, b, a, b, a, b, late, late):
        with contextlib.suppress(StoreError):  # tried again, as the replicator's thread does
            each.sync()
    for each in hosts:
        held = [
            each.state().quarantine_of(f"sub:{name}", NOW_NS) for name in ("early-0", "early-1", "early-2", "mallory")
        ]
        assert held == ["quarantined: odd"] * 4
        each.close()
