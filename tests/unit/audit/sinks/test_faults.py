"""What each receiver can say besides yes, and what becomes of the events: retried, refused, or held, never lost."""

import itertools
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from audit_events import EVENTS, HOSTILE, LOG, item, poisoned
from http_receiver import Reply, server_context
from sidecar_process import wait_until
from sink_servers import (
    ElasticsearchRig,
    HttpRig,
    KafkaRig,
    NatsRig,
    OpaRig,
    OtlpGrpcRig,
    OtlpRig,
    RedisRig,
    Rig,
    S3Rig,
    SplunkRig,
    free_port,
)

from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.sinks import Hold, Item, Refused, Retry, Sink, Split
from ext_authz.audit.sinks import extras as extras_module
from ext_authz.audit.sinks.opening import open_sinks, sink_problem
from ext_authz.audit.sinks.otlp_grpc import _delay
from ext_authz.audit.sinks.places import place

ITEMS = [item(EVENTS["allow"] | {"event_id": f"{LOG}:{seq}", "seq": seq}) for seq in range(6)]
IDS = [each.event_id for each in ITEMS]


@pytest.fixture
def rigged(tmp_path: Path) -> Iterator[Any]:
    made: list[Rig] = []

    def make(kind: type[Rig]) -> Any:
        made.append(kind(tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


def opened(settings: dict[str, Any]) -> Sink:
    (outlet,) = open_sinks(AuditSettings.model_validate({"sinks": [settings]}).sinks, Path("/nowhere"))
    return outlet.sink


def outcome(sink: Sink, some: Sequence[Item] = ITEMS) -> Any:
    """What delivering gives: refusals, or the outcome with its words."""
    try:
        return list(sink.deliver(some))
    except (Retry, Split, Hold) as error:
        return type(error), str(error).replace("alice", "what the receiver said")
    finally:
        sink.close()


@pytest.mark.parametrize("kind", [HttpRig, OpaRig, SplunkRig, ElasticsearchRig, OtlpRig])
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(429, headers={"retry-after": "3"}), Retry),
        (Reply(500), Retry),
        (Reply(503), Retry),
        (Reply(413), Split),
        (Reply(401), Hold),
        (Reply(404), Hold),
        (Reply(302, headers={"location": "https://elsewhere.example"}), Hold),
        (Reply(how="reset"), Retry),
        (Reply(how="garbage"), Retry),
    ],
)
def test_every_http_sink_judges_a_status_the_same(rigged: Any, kind: type[Rig], reply: Reply, expected: type) -> None:
    rig = rigged(kind)
    rig.fault = iter([reply])
    assert outcome(rig.sink())[0] is expected
    assert rig.kept == []
    assert outcome(rig.sink()) == []
    assert rig.kept == IDS


@pytest.mark.parametrize("kind", [HttpRig, SplunkRig, ElasticsearchRig, OtlpRig])
def test_an_answer_that_was_lost_makes_the_batch_come_again(rigged: Any, kind: type[Rig]) -> None:
    rig = rigged(kind)
    rig.after = True
    rig.fault = iter([Reply(how="reset")])
    assert outcome(rig.sink())[0] is Retry
    assert outcome(rig.sink()) == []
    assert list(dict.fromkeys(rig.kept)) == IDS
    assert (rig.kept == IDS) == rig.once


@pytest.mark.parametrize("how", ["cut", "huge", "drip"])
@pytest.mark.parametrize("kind", [ElasticsearchRig, OtlpRig])
def test_a_sink_that_must_read_the_answer_waits_for_a_whole_one(rigged: Any, kind: type[Rig], how: str) -> None:
    rig = rigged(kind)
    rig.fault = iter([Reply(body=b" " * 3000, how=how)])
    assert outcome(rig.sink(timeout=0.5))[0] is Retry
    assert outcome(rig.sink()) == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b'{"errors":false}', b'{"errors":false,"items":[]}', b'{"items":[{"create":{"status":201}}]}',
        orjson.dumps({"items": [{"create": {"_id": id_, "status": 201}} for id_ in IDS[:-1]]}),
        orjson.dumps({"items": [{"create": {"_id": id_, "status": 201}} for id_ in reversed(IDS)]}),
        orjson.dumps({"items": [{"create": {"_id": id_, "status": "201"}} for id_ in IDS]}),
        orjson.dumps({"items": [{"index": {"_id": id_, "status": 201}} for id_ in IDS]}),
    ],
)  # fmt: skip
def test_a_bulk_answer_about_something_else_is_no_acknowledgement(rigged: Any, body: bytes) -> None:
    rig = rigged(ElasticsearchRig)
    rig.fault = iter([Reply(body=body)])
    assert outcome(rig.sink()) == (Retry, "the answer does not say what became of the documents")


def test_a_bulk_request_is_judged_document_by_document(rigged: Any) -> None:
    rig = rigged(ElasticsearchRig)
    rig.statuses = {IDS[1]: (400, "document_parsing_exception"), IDS[4]: (400, "x" * 100 + "alice")}
    no = outcome(rig.sink())
    assert [each.index for each in no] == [1, 4]
    assert no[0].reason == "status 400 (document_parsing_exception)"
    assert "alice" not in no[1].reason
    rig.passing = {IDS[2]: (429, "es_rejected_execution_exception")}
    rig.kept.clear()
    assert outcome(rig.sink())[0] is Retry
    assert [each.index for each in outcome(rig.sink())] == [1, 4]
    assert sorted(rig.kept) == [IDS[index] for index in (0, 2, 3, 5)]
    rig.statuses = {IDS[0]: (403, "security_exception")}
    rig.kept.clear()
    assert outcome(rig.sink())[0] is Hold


def test_splunk_names_the_event_it_does_not_take_and_has_those_before_it(rigged: Any) -> None:
    rig = rigged(SplunkRig)
    rig.refuses = {IDS[2], IDS[5]}
    assert outcome(rig.sink()) == [Refused(2, "code 6"), Refused(5, "code 6")]
    assert list(dict.fromkeys(rig.kept)) == [IDS[index] for index in (0, 1, 3, 4)]
    assert outcome(rig.sink(index="other")) == (Hold, "incorrect index")
    assert outcome(rig.sink(token="wrong")) == (Hold, "status 403")
    for number in (6, -1, "0", None, True):
        rig.fault = iter([Reply(400, orjson.dumps({"code": 6, "invalid-event-number": number}))])
        assert outcome(rig.sink()) == (Split, "status 400")


def test_splunk_counts_once_the_indexers_have_it_where_that_was_asked_for(rigged: Any) -> None:
    rig = rigged(SplunkRig)
    rig.ack_after = 2
    assert outcome(rig.sink(indexer_ack=True)) == []
    assert [posted.path for posted in rig.receiver.requests] == [
        "/services/collector/event",
        *["/services/collector/ack"] * 2,
    ]
    channels = {posted.headers["x-splunk-request-channel"] for posted in rig.receiver.requests}
    assert len(channels) == 1
    rig.ack_after = 10**6
    assert outcome(rig.sink(indexer_ack=True, timeout=1)) == (Retry, "the indexers did not acknowledge in time")
    rig.fault = iter([Reply(body=b'{"code":0}')])
    assert outcome(rig.sink(indexer_ack=True))[0] is Hold


@pytest.mark.parametrize("kind", [OtlpRig, OtlpGrpcRig])
def test_what_a_partial_success_rejects_is_final_and_counted(rigged: Any, kind: type[OtlpRig]) -> None:
    rig = rigged(kind)
    rig.rejects = 2
    assert outcome(rig.sink()) == [Refused(0, "rejected", 6)] * 2
    rig.rejects = 99
    assert outcome(rig.sink()) == [Refused(index, "rejected") for index in range(6)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *(
            (code, Retry)
            for code in ("CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS")
        ),
        *((code, Retry) for code in ("RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN")),
        ("INVALID_ARGUMENT", Split),
        *((code, Hold) for code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "UNIMPLEMENTED")),
    ],
)
def test_a_grpc_status_says_what_becomes_of_the_batch(rigged: Any, code: str, expected: type) -> None:
    rig = rigged(OtlpGrpcRig)
    rig.fails = iter([getattr(grpc.StatusCode, code)])
    assert outcome(rig.sink()) == (expected, f"status {code}")
    assert outcome(rig.sink()) == []
    assert ("x-key", "k") in [tuple(each) for each in rig.metadata[-1]]


def test_a_grpc_receiver_that_is_not_trusted_is_held(rigged: Any) -> None:
    rig = rigged(OtlpGrpcRig)
    assert outcome(rig.sink(tls={}))[0] in (Hold, Retry)
    assert outcome(rig.sink(tls={"ca_file": "/none"})) == (
        Hold, "the CA file, client certificate or key cannot be read: No such file or directory",
    )  # fmt: skip
    assert rig.kept == []


def test_a_retry_info_says_how_long() -> None:
    from google.rpc import error_details_pb2, status_pb2

    info = error_details_pb2.RetryInfo()
    info.retry_delay.seconds = 7
    status = status_pb2.Status()
    status.details.add().Pack(info)
    assert _delay([("x", "y"), ("grpc-status-details-bin", status.SerializeToString())]) == 7
    assert _delay([("grpc-status-details-bin", b"\xff\xff")]) is None
    assert _delay([]) is None


def test_redis_refuses_no_event_silently(rigged: Any) -> None:
    rig = rigged(RedisRig)
    assert outcome(rig.sink(), ITEMS[:4]) == []
    with rig.client() as client:
        client.xadd(f"audit:{LOG}", {"event_id": "forged"}, id="5-7")
    assert outcome(rig.sink()) == [Refused(4, "the stream is past its id and does not hold it")]
    with rig.client() as client:
        client.xtrim(f"audit:{LOG}", maxlen=1, approximate=False)
    assert outcome(rig.sink(), ITEMS[:3]) == []
    with rig.client() as client:
        client.delete(f"audit:{LOG}")
        client.set(f"audit:{LOG}", "x")
    assert outcome(rig.sink()) == (Hold, "the server says WRONGTYPE")
    assert outcome(rig.sink(password="wrong"))[0] is Hold
    with rig.client() as client:
        client.delete(f"audit:{LOG}")
    assert outcome(rig.sink(replicas=1, timeout=0.5)) == (Retry, "too few replicas have it")
    assert outcome(rig.sink(), [Item(b'{"no":"id"}')]) == [Refused(0, "no place in a log")]


def test_redis_without_memory_takes_all_of_a_batch_or_nothing(rigged: Any) -> None:
    rig = rigged(RedisRig)
    with rig.client() as client:
        client.config_set("maxmemory", "1")
    assert outcome(rig.sink())[0] is Retry
    with rig.client() as client:
        assert client.exists(f"audit:{LOG}") == 0
        client.config_set("maxmemory", "0")
    assert outcome(rig.sink()) == []
    assert rig.received() == IDS


def test_nats_without_a_stream_or_with_another_password_is_held(rigged: Any) -> None:
    rig = rigged(NatsRig)
    assert outcome(rig.sink(subject="elsewhere")) == (Hold, "no stream takes the subject")
    assert outcome(rig.sink(password="wrong")) == (Hold, "not authorized")
    assert outcome(rig.sink()) == []
    assert rig.received() == IDS


def test_nats_says_which_event_its_stream_is_too_small_for(rigged: Any) -> None:
    rig = rigged(NatsRig)

    async def narrow(stream: Any) -> None:
        config = (await stream.stream_info("audit")).config
        config.max_msg_size = 2000
        await stream.update_stream(config)

    rig.ask(narrow)
    large = item(EVENTS["allow"] | {"event_id": f"{LOG}:6", "seq": 6, "policy_id": "x" * 3000})
    assert outcome(rig.sink(), [*ITEMS, large]) == [Refused(6, "too large for the stream")]


def test_kafka_that_is_not_there_is_tried_again_and_what_is_too_large_is_refused(rigged: Any) -> None:
    away = {"type": "kafka", "brokers": [f"127.0.0.1:{free_port()}"], "topic": "audit", "timeout": 1}
    assert outcome(opened(away))[0] is Retry
    rig = rigged(KafkaRig)
    sink = rig.sink()
    sink._configuration["message.max.bytes"] = 3000  # type: ignore[attr-defined]
    large = item(EVENTS["allow"] | {"event_id": f"{LOG}:9", "policy_id": "x" * 4000})
    assert outcome(sink, [ITEMS[0], large, ITEMS[1]]) == [Refused(1, "MSG_SIZE_TOO_LARGE")]


def test_s3_never_replaces_an_object_and_never_takes_another_for_its_own(rigged: Any) -> None:
    rig = rigged(S3Rig)
    assert outcome(rig.sink(), ITEMS[:2]) == []
    assert outcome(rig.sink(), ITEMS) == []
    assert rig.received() == IDS
    client = rig.client()
    names = [each["Key"] for each in client.list_objects_v2(Bucket=rig.bucket)["Contents"]]
    assert names == [f"ext-authz/{LOG}/{seq:012d}.jsonl.gz" for seq in (0, 2)]
    foreign = item(EVENTS["allow"] | {"event_id": f"{LOG}:100", "seq": 100})
    client.put_object(Bucket=rig.bucket, Key=f"ext-authz/{LOG}/{100:012d}.jsonl.gz", Body=b"mine")
    client.close()
    assert outcome(rig.sink(), [foreign]) == (Hold, "an object that is not ours has an event's name")
    assert outcome(rig.sink(bucket="nowhere"))[0] is Hold


def test_places_never_repeat_and_grow_with_the_log() -> None:
    def at(event_id: str, seq: int) -> Any:
        found = place(Item(orjson.dumps({"event_id": event_id, "seq": seq})))
        return found and (found.log_id, found.seq, found.minor)

    log = [at("w:0", 0), at("w:1", 1), at("w:c0", 2), at("w:c1", 2), at("w:2", 2), at("w:c2", 3)]
    assert log == sorted(set(log))
    assert at("w:c0", 0) == ("w", 0, 1)
    for none in ("", "w", "w:", ":1", "w:01", "w:-1", "w:x", "w:c", "w:1c", "w:\u0661"):
        assert at(none, 1) is None


class Listener:
    """A TLS server that reads what it is sent, frame by frame, and can end connections in several ways."""

    def __init__(self, folder: Path) -> None:
        self.context = server_context(folder)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.connections: list[bytearray] = []
        self.ended: list[str] = []
        self.reads = itertools.repeat(True)
        self.current: ssl.SSLSocket | None = None
        self.done = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                plain, _ = self.socket.accept()
                self.current = self.context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
            except OSError:
                return
            got = bytearray()
            self.connections.append(got)
            try:
                while data := self.current.recv(65536):
                    got += data
                self.ended.append("close_notify")
                self.current = self.current.unwrap()  # type: ignore[assignment]
            except (OSError, ValueError) as error:
                self.ended.append(type(error).__name__)
            self.current.close()
            self.done.set()


def frames(data: bytes) -> list[bytes]:
    found = []
    while data:
        size, _, rest = data.partition(b" ")
        found.append(rest[: int(size)])
        data = rest[int(size) :]
    return found


def test_syslog_counts_octets_says_goodbye_and_sends_its_window_again(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    settings = {
        "type": "syslog", "address": f"127.0.0.1:{listener.port}", "tls": {"ca_file": tmp_path / "ca.pem"}, "window": 9000,
        "facility": 4,
    }  # fmt: skip
    sink = opened(settings)
    hostile = item(poisoned(EVENTS["deny"]) | {"event_id": f"{LOG}:6", "seq": 6, "time": "2026 <0>\n"})
    sink.deliver([*ITEMS, hostile])
    listener.done.clear()
    # The client's side of the handshake may end, and its bytes leave, before the listener is back from accept.
    wait_until(lambda: listener.connections and hostile.line[1:] in bytes(listener.connections[0]))
    current = listener.current
    assert current is not None
    current.shutdown(socket.SHUT_RDWR)
    assert listener.done.wait(10)
    listener.done.clear()
    for _ in range(20):
        try:
            sink.deliver(ITEMS[:1])
            break
        except Retry:
            continue
    sink.close()
    assert listener.done.wait(10)
    assert listener.ended[-1] == "close_notify"
    first, last = frames(bytes(listener.connections[0])), frames(bytes(listener.connections[-1]))
    assert [each.partition(b" - {")[2] for each in first] == [each.line[1:] for each in (*ITEMS, hostile)]
    assert last[:-1] == first[-len(last) + 1 :]
    assert 1 <= len(last) - 1 < len(first)
    assert first[0].startswith(b"<38>1 2026-11-23T10:00:00.123456Z ")
    assert first[6].startswith(b"<37>1 - ")
    assert HOSTILE.encode() not in first[6]
    listener.socket.close()


def test_syslog_to_a_receiver_that_is_not_trusted_is_held(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    settings = {"type": "syslog", "address": f"127.0.0.1:{listener.port}", "timeout": 5}
    assert outcome(opened(settings))[0] is Hold
    listener.socket.close()


def test_an_extra_that_is_missing_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras_module, "find_spec", lambda name: None)
    for settings, extra in (
        ({"type": "http", "url": "https://h"}, "http"),
        ({"type": "kafka", "brokers": ["k:9093"], "topic": "t"}, "kafka"),
        ({"type": "s3", "bucket": "b"}, "aws"),
        ({"type": "otlp", "url": "https://h"}, "otlp"),
        ({"type": "redis", "url": "rediss://h"}, "redis"),
        ({"type": "nats", "url": "tls://h"}, "nats"),
    ):
        (sink,) = AuditSettings.model_validate({"sinks": [settings]}).sinks
        assert (
            sink_problem(sink, Path("/nowhere"))
            == f"this sink needs the extra `{extra}`: `pip install 'ext-authz[{extra}]'`"
        )
    (sink,) = AuditSettings.model_validate({"sinks": [{"type": "stdout"}]}).sinks
    assert sink_problem(sink, Path("/nowhere")) is None
