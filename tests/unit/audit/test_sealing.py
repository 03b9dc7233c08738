"""Data keys: one for each segment, ready before it is needed, never given twice."""

import os
import threading

import pytest
from trails import KEYS, SIGNER, new_spool

from ext_authz.audit.sealing import DataKeys, ShreddedError, key_path, read_key, rewrap_key, write_key
from ext_authz.audit.segment import HEADER_BYTES, read_header
from ext_authz.audit.spool import AuditUnavailable, Spool
from ext_authz.audit.trail import segments
from ext_authz.envelope.errors import AlteredError, KeyUnavailableError
from ext_authz.envelope.keys.memory import MemoryKey


def test_a_data_key_is_given_once_and_no_two_are_the_same():
    keys = DataKeys(KEYS, "log")
    given = []
    for number in range(20):
        assert keys.wait(number, 5)
        given.append(keys.take(number))
        assert keys.take(number) is None
    assert len({data_key for data_key, _ in given}) == 20
    for number, (data_key, wrapped) in enumerate(given):
        context = {"app": "ext-authz", "log_id": "log", "segment": str(number)}
        assert KEYS.unwrap(wrapped, context) == data_key
        with pytest.raises(AlteredError):
            KEYS.unwrap(wrapped, {**context, "segment": str(number + 1)})


def test_a_key_service_that_hangs_holds_up_nobody_and_is_asked_by_one_thread():
    release, asked = threading.Event(), []

    class Hanging(MemoryKey):
        def wrap(self, data_key, context):
            asked.append(1)
            release.wait(30)
            return super().wrap(data_key, context)

    keys = DataKeys(Hanging(), "log")
    for _ in range(5):
        keys.prepare(1)
    assert not keys.wait(1, 0.01)
    assert keys.take(1) is None
    release.set()
    assert keys.wait(1, 5)
    assert len(asked) == 1


def test_after_a_failure_the_key_service_is_left_alone_for_a_while():
    down, now = MemoryKey(), [0.0]
    down.down = True
    keys = DataKeys(down, "log", monotonic=lambda: now[0])
    assert not keys.wait(1, 1)
    assert keys.failures == 1
    keys.prepare(1)
    assert not keys.wait(1, 1)
    assert (keys.failures, "does not answer" in keys.last_error) == (1, True)
    now[0], down.down = 60, False
    assert keys.wait(1, 5)
    assert keys.last_error == ""


def test_a_wrapped_key_is_read_as_written_and_damage_is_told_from_loss(tmp_path):
    path = tmp_path / "x.key"
    with pytest.raises(ShreddedError):
        read_key(path)
    wrapped = KEYS.wrap(bytes(32), {})
    write_key(path, wrapped)
    assert read_key(path) == wrapped
    good = path.read_bytes()
    for bad in (b"", b"[]", b"null", good.replace(b"key/1", b"key/2"), good.replace(b'"memory"', b"7"), good[:-20]):
        path.write_bytes(bad)
        with pytest.raises(AlteredError):
            read_key(path)


def test_a_rewrap_touches_the_wrapped_key_alone_and_only_when_the_new_one_opens(tmp_path):
    spool = new_spool(tmp_path)
    spool.append(lambda _: b"{}")
    spool.close()
    path = segments(tmp_path)[0].path
    before, old = path.read_bytes(), key_path(path).read_bytes()
    header, _ = read_header(before[:HEADER_BYTES])

    class Broken(MemoryKey):
        def unwrap(self, wrapped, context):
            return bytes(32)

    with pytest.raises(KeyUnavailableError, match="nothing was changed"):
        rewrap_key(path, header, KEYS, Broken())
    assert key_path(path).read_bytes() == old
    target = MemoryKey("target")
    _, after = rewrap_key(path, header, KEYS, target)
    assert (read_key(key_path(path)), path.read_bytes()) == (after, before)
    with pytest.raises(KeyUnavailableError):
        rewrap_key(path, header, KEYS, target)


def test_a_forked_child_seals_nothing_under_its_parents_key(tmp_path):
    spool = Spool.create(tmp_path, "worker-0", keys=KEYS, signer=SIGNER)
    spool.append(lambda _: b"{}")
    size = spool.size
    child = os.fork()
    if child == 0:
        status = 1
        try:
            spool.append(lambda _: b"{}")
        except AuditUnavailable:
            status = 0 if spool.append_all([lambda _: b"{}"]) == 0 and not spool.sync() else 2
            spool.check()
            spool.rotate()
            spool.close()
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [each.path.stat().st_size for each in segments(tmp_path)] == [size]
    assert spool.append(lambda _: b"{}") == 1
    spool.close()
