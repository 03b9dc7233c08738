"""Both transports serve the same checks, health, reflection, limits, parking and drain."""

import contextlib
import os
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_service import DEPLOYER, SCORER, start
from wire_requests import check_request, read_reply

from ext_authz import response
from ext_authz.server import service as frame
from ext_authz.server.metrics import CHECKS
from ext_authz.server.service import METHOD, SERVICE
from ext_authz.server.transport import BindError, ListenOptions, open_transport

LIMIT = 256 * 1024 + 4096
KINDS = ("grpcio", "grpcio by threads", "native")


def transport_of(kind, service, options):
    """Open a transport; `grpcio by threads` is what is left where grpcio's inside is not what we know."""
    made = open_transport(kind.partition(" ")[0], service, options)
    if kind == "grpcio by threads":
        made._take_calls = lambda: None
    return made


class Serving:
    def __init__(self, folder, kind):
        self.running = start(folder)
        self.address = f"unix:{folder}/t.sock"
        self.transport = transport_of(kind, self.running.service, ListenOptions((self.address,), LIMIT))
        assert self.transport.start() == (self.address,)
        self.transport.set_serving(serving=True)
        self.channel = grpc.insecure_channel(self.address, options=[("grpc.max_send_message_length", -1)])
        self.call = self.channel.unary_unary(METHOD)

    def check(self, message, timeout=10):
        return read_reply(self.call(message, timeout=timeout))

    def close(self):
        self.channel.close()
        self.transport.stop(1)
        self.running.close()


@pytest.fixture(params=KINDS, scope="module")
def serving(request, tmp_path_factory):
    made = Serving(tmp_path_factory.mktemp("t"), request.param)
    yield made
    made.close()


def load(model="fraud"):
    headers = {"content-type": "application/json", "content-length": "2"}
    path = f"/v2/repository/models/{model}/load"
    return check_request("POST", path, principal=DEPLOYER, headers=headers, body=b"{}")


def infer(model="fraud", **more):
    return check_request("POST", f"/v2/models/{model}/infer", principal=SCORER, **more)


def test_a_check_is_answered(serving):
    assert serving.check(infer()).allowed
    assert serving.check(infer("other")).reason == "no_policy"


def test_an_answer_that_waits_for_the_disk_arrives(serving):
    replies = [serving.call.future(load(), timeout=10) for _ in range(50)]
    assert all(read_reply(each.result()).allowed for each in replies)


def test_a_failing_commit_or_reply_is_a_denial_and_the_next_call_is_served(serving, monkeypatch):
    def broken(*_args, **_named):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(serving.running.committer, "commit", broken)
        assert serving.check(load()).reason == "audit_unavailable"
    with monkeypatch.context() as patch:
        patch.setattr(response, "write", broken)
        assert not serving.check(infer()).allowed
    assert serving.check(infer()).allowed
    assert serving.check(load()).allowed


def test_a_slow_disk_holds_up_only_those_who_asked_for_it(serving, monkeypatch):
    entered, release = threading.Event(), threading.Event()
    real = serving.running.spool.sync

    def slow():
        entered.set()
        release.wait(10)
        return real()

    monkeypatch.setattr(serving.running.spool, "sync", slow)
    waiting = [serving.call.future(load(), timeout=10) for _ in range(40)]
    assert entered.wait(5)
    try:
        assert all(serving.check(infer()).allowed for _ in range(100))
        assert {read_reply(each.result()).http_status for each in waiting} == {503}
    finally:
        release.set()


def test_health_is_answered_for_the_server_and_the_service(serving):
    stub = health_pb2_grpc.HealthStub(serving.channel)
    for name in ("", SERVICE):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_knows_the_service(serving):
    stub = reflection_pb2_grpc.ServerReflectionStub(serving.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)])
    (answer,) = stub.ServerReflectionInfo(asked, timeout=5)
    assert answer.WhichOneof("message_response") == "file_descriptor_response"


def test_another_method_is_unimplemented(serving):
    with pytest.raises(grpc.RpcError) as caught:
        serving.channel.unary_unary("/envoy.service.auth.v3.Authorization/Allow")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def checks_counted(serving, reason="malformed_request"):
    counters = serving.running.metrics.snapshot(0)["counters"]
    return sum(value for name, *labels, value in counters if (name, labels) == (CHECKS, ["deny", reason]))


def test_a_message_over_the_limit_is_denied_counted_and_recorded_and_the_next_is_served(serving):
    before = checks_counted(serving)
    reply = serving.check(b"\0" * (LIMIT + 1))
    assert (reply.allowed, reply.http_status) == (False, 400)
    assert checks_counted(serving) == before + 1
    assert serving.running.events()[-1]["detail"] == "the message is over the receive limit"
    assert serving.check(infer()).allowed


@pytest.mark.parametrize("kind", ["grpcio", "native"])  # the public interface of grpcio does not tell of it
def test_a_message_that_the_transport_does_not_take_is_counted_and_recorded_too(tmp_path, kind):
    serving = Serving(tmp_path, kind)
    try:
        with contextlib.suppress(grpc.RpcError):
            assert not serving.check(b"\0" * (3 * LIMIT)).allowed
        assert serving.check(infer()).allowed
        assert checks_counted(serving) == 1
        assert "over the receive limit" in serving.running.events()[0]["detail"]
    finally:
        serving.close()


def test_callers_that_go_away_at_any_moment_hold_up_nobody(serving):
    for _ in range(3):  # more would be a rapid reset, which ends the connection
        calls = [serving.call.future(load() if number % 2 else infer(), timeout=60) for number in range(24)]
        for call in calls[::3]:
            call.cancel()
        assert all(read_reply(call.result()).allowed for number, call in enumerate(calls) if number % 3)
    assert serving.check(infer()).allowed


def test_many_at_once_get_each_their_own_answer(serving):
    calls = [(allowed, serving.call.future(infer("fraud" if allowed else "other"), timeout=20))
             for allowed in (True, False, True) * 200]  # fmt: skip
    assert all(read_reply(call.result()).allowed is allowed for allowed, call in calls)


def test_a_failure_of_the_frame_itself_is_a_denial_and_the_next_call_is_served(serving, monkeypatch):
    def broken(*_args, **_named):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(serving.running.service, "check_all", broken)
        patch.setattr(serving.running.service, "_check", broken)
        assert serving.check(infer()).reason == "internal_error"
    assert serving.check(infer()).allowed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    message=st.binary(max_size=2000)
    | st.builds(lambda a, b: infer()[:a] + b, st.integers(0, 400), st.binary(max_size=60))
)
def test_any_message_gets_an_answer_and_none_an_allow_by_accident(serving, message):
    reply = serving.check(message)
    assert not reply.allowed or reply.metadata["policy_id"] == "scoring"


def test_the_largest_message_within_the_limit_is_answered(serving):
    message = infer(headers={"x-large": "a" * (LIMIT - 2000)})
    assert LIMIT - 2000 < len(message) <= LIMIT
    assert serving.check(message).allowed


@pytest.mark.parametrize("kind", KINDS)
def test_draining_answers_what_is_under_way_and_says_not_serving(tmp_path, kind, monkeypatch):
    serving = Serving(tmp_path, kind)
    release = threading.Event()
    real = serving.running.spool.sync

    def slow():
        release.wait(10)
        return real()

    monkeypatch.setattr(serving.running.spool, "sync", slow)
    monkeypatch.setattr(frame, "COMMIT_DEADLINE_NS", 10_000_000_000)
    waiting = [serving.call.future(load(), timeout=10) for _ in range(10)]
    while serving.running.service.waiting < 10:
        time.sleep(0.005)
    threading.Timer(0.2, release.set).start()
    serving.transport.stop(5)
    assert all(read_reply(each.result()).allowed for each in waiting)
    assert not (tmp_path / "t.sock").exists()
    with pytest.raises(grpc.RpcError):
        serving.check(infer(), timeout=1)
    serving.channel.close()
    serving.running.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_in_use_is_a_clear_error(tmp_path, kind):
    serving = Serving(tmp_path, kind)
    try:
        with pytest.raises(BindError, match="in use"):
            transport_of(kind, serving.running.service, ListenOptions((serving.address,), LIMIT)).start()
        assert serving.check(infer()).allowed
    finally:
        serving.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_of_its_own_choice_is_told(tmp_path, kind):
    running = start(tmp_path)
    transport = transport_of(kind, running.service, ListenOptions(("127.0.0.1:0",), LIMIT))
    (address,) = transport.start()
    try:
        assert int(address.rpartition(":")[2]) > 0
        with grpc.insecure_channel(address) as channel:
            assert read_reply(channel.unary_unary(METHOD)(infer(), timeout=5)).allowed
    finally:
        transport.stop(1)
        running.close()


def test_the_native_transport_is_not_taken_where_it_cannot_serve(tmp_path):
    running = start(tmp_path)
    try:
        assert open_transport("auto", running.service, ListenOptions(("127.0.0.1:0",), LIMIT)).name == "native"
        assert open_transport("auto", running.service, ListenOptions(("0.0.0.0:0",), LIMIT)).name == "grpcio"
        with pytest.raises(BindError, match="loopback and Unix sockets only"):
            open_transport("native", running.service, ListenOptions(("0.0.0.0:0",), LIMIT))
    finally:
        running.close()


def io_policies():
    tasks = [task for task in Path("/proc/self/task").iterdir() if "grpc-native-io" in (task / "comm").read_text()]
    return {os.sched_getscheduler(int(task.name)) for task in tasks}


def test_the_threads_that_move_bytes_are_as_they_were_when_a_batch_has_left(tmp_path, monkeypatch):
    serving = Serving(tmp_path, "native")
    seen = []
    real = os.sched_setscheduler

    def noted(thread, policy, parameters):
        seen.append(policy)
        real(thread, policy, parameters)

    monkeypatch.setattr(os, "sched_setscheduler", noted)
    try:
        while not seen:
            calls = [serving.call.future(infer(), timeout=10) for _ in range(100)]
            assert all(read_reply(call.result()).allowed for call in calls)
        assert serving.check(infer()).allowed
        assert seen[0] == os.SCHED_BATCH
        while io_policies() != {os.SCHED_OTHER}:
            time.sleep(0.01)  # the last answer is out before the end of its batch
        assert seen[-1] == os.SCHED_OTHER
    finally:
        serving.close()


def test_where_threads_may_not_be_scheduled_checks_are_answered_all_the_same(tmp_path, monkeypatch):
    def forbidden(*_args):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    serving = Serving(tmp_path, "native")
    try:
        calls = [serving.call.future(infer(), timeout=10) for _ in range(300)]
        assert all(read_reply(call.result()).allowed for call in calls)
    finally:
        serving.close()
