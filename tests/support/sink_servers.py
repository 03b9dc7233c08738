"""Receivers for every kind of sink, real where they can be run here, each of which can go down and come back.

What Splunk, Elasticsearch and an OpenTelemetry collector answer is written from their documentation.
"""

import gzip
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import debian
import grpc
import orjson
from http_receiver import Posted, Receiver, Reply, server_context
from sidecar_process import wait_until

from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.sinks import Sink
from ext_authz.audit.sinks.opening import open_sinks
from ext_authz.demo.pki import Authority


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Rig:
    """A receiver: `settings` of a sink that reaches it, `received` event ids in order of arrival."""

    falls = True
    once = False
    """Whether the receiver itself keeps what comes twice from standing there twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def settings(self) -> dict[str, Any]:
        raise NotImplementedError

    def received(self) -> list[str]:
        raise NotImplementedError

    def copy(self) -> list[bytes]:
        """Return the events as they arrived, in the native format, where the receiver keeps that."""
        raise NotImplementedError

    def down(self) -> None:
        raise NotImplementedError

    def up(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def sink(self, **more: Any) -> Sink:
        plain = AuditSettings.model_validate({"sinks": [{**self.settings(), **more}]})
        (outlet,) = open_sinks(plain.sinks, Path("/nowhere"))
        return outlet.sink


def id_of(line: bytes) -> str:
    return str(orjson.loads(line)["event_id"])


class FileRig(Rig):
    falls = False

    def settings(self) -> dict[str, Any]:
        return {"type": "file", "path": self.folder / "events.jsonl"}

    def received(self) -> list[str]:
        return [id_of(line) for line in self.copy()]

    def copy(self) -> list[bytes]:
        path = self.folder / "events.jsonl"
        return path.read_bytes().splitlines() if path.exists() else []

    def down(self) -> None:
        pass

    def up(self) -> None:
        pass


class HttpRig(Rig):
    """Any sink over HTTP; a subclass says what the receiver keeps."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fault: Iterator[Reply | None] = itertools.repeat(None)
        self.kept: list[str] = []
        self.lines: list[bytes] = []
        self.after: bool = False
        self.receiver = Receiver(self._answer, server_context(folder))

    def _answer(self, posted: Posted) -> Reply:
        reply = next(self.fault, None)
        if reply is not None and not self.after:
            return reply
        good = self.keep(posted)
        return reply or good

    def keep(self, posted: Posted) -> Reply:
        events = orjson.loads(posted.body)
        self.lines += [orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in events]
        self.kept += [each["event_id"] for each in events]
        return Reply()

    def copy(self) -> list[bytes]:
        if len(self.lines) != len(self.kept):
            raise NotImplementedError
        return list(self.lines)

    def settings(self) -> dict[str, Any]:
        return {"type": "http", "url": self.receiver.url, **self.common()}

    def common(self) -> dict[str, Any]:
        return {"timeout": 2, "tls": {"ca_file": self.folder / "ca.pem"}}

    def received(self) -> list[str]:
        return list(self.kept)

    def down(self) -> None:
        self.receiver.down()

    def up(self) -> None:
        self.receiver.up()

    def close(self) -> None:
        self.receiver.down()


class OpaRig(HttpRig):
    def settings(self) -> dict[str, Any]:
        return {"type": "opa", "url": f"{self.receiver.url}/logs", **self.common()}

    def keep(self, posted: Posted) -> Reply:
        if posted.headers["content-encoding"] != "gzip" or posted.path != "/logs":
            return Reply(400)
        self.kept += [each["result"]["event_id"] for each in orjson.loads(posted.body)]
        return Reply()


class SplunkRig(HttpRig):
    """HEC as "HEC error codes" has it: events before an invalid one are taken."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.refuses: set[str] = set()
        self.acks: dict[int, int] = {}
        self.ack_after = 1

    def settings(self) -> dict[str, Any]:
        return {"type": "splunk", "url": self.receiver.url, "token": "t0ken", "index": "main", **self.common()}

    def keep(self, posted: Posted) -> Reply:
        if posted.headers.get("authorization") != "Splunk t0ken":
            return self.say(401 if "authorization" not in posted.headers else 403, 4, "Invalid token")
        if posted.path == "/services/collector/ack":
            asked = orjson.loads(posted.body)["acks"]
            self.acks = {ack: self.acks[ack] - 1 for ack in asked}
            return Reply(body=orjson.dumps({"acks": {str(ack): self.acks[ack] <= 0 for ack in asked}}))
        if posted.path != "/services/collector/event":
            return self.say(404, 404, "not found")
        for number, event in enumerate(concatenated(posted.body)):
            if event.get("index") != "main" or not event.get("sourcetype"):
                return self.say(400, 7, "Incorrect index", number)
            if event["event"]["event_id"] in self.refuses:
                return self.say(400, 6, "Invalid data format", number)
            self.kept.append(event["event"]["event_id"])
        reply: dict[str, Any] = {"text": "Success", "code": 0}
        if "x-splunk-request-channel" in posted.headers:
            reply["ackId"] = len(self.acks)
            self.acks[len(self.acks)] = self.ack_after
        return Reply(body=orjson.dumps(reply))

    def say(self, status: int, code: int, text: str, number: int | None = None) -> Reply:
        about = {} if number is None else {"invalid-event-number": number}
        return Reply(status, orjson.dumps({"text": text, "code": code, **about}))


def concatenated(body: bytes) -> list[Any]:
    decoder, text, at, found = json.JSONDecoder(), body.decode(), 0, []
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        at += len(text[at:]) - len(text[at:].lstrip())
        found.append(value)
    return found


class ElasticsearchRig(HttpRig):
    """The bulk API: `statuses` gives some ids another fate, once each where the value is a list."""

    once = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.statuses: dict[str, tuple[int, str]] = {}
        self.passing: dict[str, tuple[int, str]] = {}

    def settings(self) -> dict[str, Any]:
        return {
            "type": "elasticsearch",
            "url": f"{self.receiver.url}/es/",
            "api_key": "a2V5",
            "index": "audit",
            **self.common(),
        }

    def keep(self, posted: Posted) -> Reply:
        if posted.headers.get("authorization") != "ApiKey a2V5":
            return Reply(401)
        if posted.path != "/es/_bulk":
            return Reply(404)
        lines = posted.body.split(b"\n")
        assert lines.pop() == b""
        results = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            about = orjson.loads(action)["create"]
            assert about["_index"] == "audit"
            assert orjson.loads(document)["@timestamp"]
            results.append({"create": {"_index": "audit", "_id": about["_id"], **self.fate(about["_id"])}})
        errors = any("error" in each["create"] for each in results)
        return Reply(body=orjson.dumps({"took": 1, "errors": errors, "items": results}))

    def fate(self, id_: str) -> dict[str, Any]:
        status, kind = self.passing.pop(id_, None) or self.statuses.get(id_, (201, ""))
        if status == 201 and id_ in self.kept:
            status, kind = 409, "version_conflict_engine_exception"
        if status == 201:
            self.kept.append(id_)
            return {"status": 201, "result": "created"}
        return {"status": status, "error": {"type": kind, "reason": "failed to parse: 'sub:alice'"}}


class OtlpRig(HttpRig):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rejects = 0

    def settings(self) -> dict[str, Any]:
        return {"type": "otlp", "url": f"{self.receiver.url}/v1/logs", **self.common()}

    def keep(self, posted: Posted) -> Reply:
        assert (posted.path, posted.headers["content-type"]) == ("/v1/logs", "application/x-protobuf")
        return Reply(body=self.export(posted.body), headers={"content-type": "application/x-protobuf"})

    def export(self, body: bytes) -> bytes:
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

        request = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                records = scope.log_records[self.rejects :]
                self.kept += [self.uid(record) for record in records]
        reply = logs_service_pb2.ExportLogsServiceResponse()
        if self.rejects:
            reply.partial_success.rejected_log_records = self.rejects
            reply.partial_success.error_message = "sub:alice"
        return reply.SerializeToString()

    @staticmethod
    def uid(record: Any) -> str:
        return next(each.value.string_value for each in record.attributes if each.key == "log.record.uid")


class OtlpGrpcRig(OtlpRig):
    """The same as a gRPC service, over TLS; `fails` are status codes to answer with, one by one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.receiver.down()
        self.port = free_port()
        self.fails: Iterator[grpc.StatusCode | None] = itertools.repeat(None)
        self.metadata: list[Any] = []
        self.server: Any = None
        self.up()

    def settings(self) -> dict[str, Any]:
        return {
            "type": "otlp", "protocol": "grpc", "url": f"https://127.0.0.1:{self.port}", "headers": {"x-key": "k"},
            **self.common(),
        }  # fmt: skip

    def up(self) -> None:
        rig = self

        def export(request: bytes, context: grpc.ServicerContext) -> bytes:
            rig.metadata.append(context.invocation_metadata())
            code = next(rig.fails, None)
            if code is not None:
                context.abort(code, "said sub:alice")
            return rig.export(request)

        class Handler(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                assert details.method == "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
                return grpc.unary_unary_rpc_method_handler(export)

        self.server = grpc.server(futures.ThreadPoolExecutor(2), options=(("grpc.so_reuseport", 0),))
        self.server.add_generic_rpc_handlers((Handler(),))
        pair = [next(self.folder.glob(f"*{end}")).read_bytes() for end in ("receiver*key*", "receiver*.pem")]
        self.server.add_secure_port(f"127.0.0.1:{self.port}", grpc.ssl_server_credentials([(pair[0], pair[1])]))
        self.server.start()

    def down(self) -> None:
        if self.server is not None:
            self.server.stop(0).wait()
            self.server = None

    def close(self) -> None:
        self.down()


class ProcessRig(Rig):
    """A real server on loopback."""

    program = ""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.found = debian.needed(self.program)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.up()

    def command(self) -> list[str]:
        raise NotImplementedError

    def up(self) -> None:
        self.process = subprocess.Popen(
            [self.found.path, *self.command()], env=self.found.environment, cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._listens, what=f"{self.program} listening")

    def down(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None

    def close(self) -> None:
        self.down()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class RedisRig(ProcessRig):
    program = "redis-server"
    once = True

    def command(self) -> list[str]:
        return [
            "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--appendonly", "yes",
            "--appendfsync", "always", "--save", "", "--requirepass", "pw",
        ]  # fmt: skip

    def settings(self) -> dict[str, Any]:
        return {
            "type": "redis",
            "url": f"redis://127.0.0.1:{self.port}/1",
            "password": "pw",
            "stream": "audit",
            "timeout": 5,
        }

    def client(self) -> Any:
        import redis

        return redis.Redis(port=self.port, db=1, password="pw")

    def received(self) -> list[str]:
        return [id_of(line) for line in self.copy()]

    def copy(self) -> list[bytes]:
        with self.client() as client:
            logs = sorted(client.smembers("audit:logs"))
            entries = [entry for log in logs for entry in client.xrange(b"audit:" + log)]
        assert all(id_of(fields[b"event"]) == fields[b"event_id"].decode() for _, fields in entries)
        return [fields[b"event"] for _, fields in entries]


class NatsRig(ProcessRig):
    program = "nats-server"
    once = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ask(lambda stream: stream.add_stream(name="audit", subjects=["ext-authz.audit"]))

    def command(self) -> list[str]:
        return [
            "-js",
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-sd",
            str(self.folder / "js"),
            "--user",
            "u",
            "--pass",
            "pw",
        ]

    def settings(self) -> dict[str, Any]:
        return {"type": "nats", "url": f"nats://127.0.0.1:{self.port}", "username": "u", "password": "pw", "timeout": 5}

    def ask(self, question: Any) -> Any:
        import asyncio

        import nats

        async def run() -> Any:
            connection = await nats.connect(
                f"nats://127.0.0.1:{self.port}", user="u", password="pw", allow_reconnect=False
            )
            try:
                return await question(connection.jetstream())
            finally:
                await connection.close()

        return asyncio.run(run())

    def received(self) -> list[str]:
        return [id_of(line) for line in self.copy()]

    def copy(self) -> list[bytes]:
        async def read(stream: Any) -> list[bytes]:
            state = (await stream.stream_info("audit")).state
            found = []
            for seq in range(state.first_seq, state.last_seq + 1):
                message = await stream.get_msg("audit", seq)
                assert message.headers["Nats-Msg-Id"] == id_of(message.data)
                found.append(message.data)
            return found

        return list(self.ask(read))


class KafkaRig(Rig):
    """librdkafka's mock cluster; it cannot go down and keep what it has."""

    falls = False
    once = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import confluent_kafka

        from ext_authz.audit.sinks.kafka import _silent

        self.library = confluent_kafka
        self.cluster = confluent_kafka.Producer(
            {"bootstrap.servers": "-", "test.mock.num.brokers": 3, "logger": _silent()}
        )
        brokers = self.cluster.list_topics(timeout=10).brokers.values()
        self.brokers = [f"127.0.0.1:{broker.port}" for broker in brokers]
        self.partitions = len(self.cluster.list_topics("audit", 10).topics["audit"].partitions)

    def settings(self) -> dict[str, Any]:
        return {"type": "kafka", "brokers": self.brokers, "topic": "audit", "timeout": 10}

    def received(self) -> list[str]:
        consumer = self.library.Consumer({
            "bootstrap.servers": self.brokers[0], "group.id": os.urandom(4).hex(), "enable.partition.eof": True,
            "auto.offset.reset": "earliest", "enable.auto.commit": False,
        })  # fmt: skip
        consumer.assign([self.library.TopicPartition("audit", number, 0) for number in range(self.partitions)])
        found: list[str] = []
        ended = 0
        while ended < self.partitions:
            message = consumer.poll(10)
            assert message is not None
            if message.error():
                ended += 1
                continue
            assert id_of(message.value()).startswith(message.key().decode())
            found.append(id_of(message.value()))
        consumer.close()
        return found


AWS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}


class S3Rig(Rig):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.before = {name: os.environ.get(name) for name in AWS}
        os.environ.update(AWS)
        self.port = free_port()
        self.server: Any = None
        self.up()
        self.client().create_bucket(Bucket=self.bucket)

    @property
    def bucket(self) -> str:
        return f"audit-{self.port}"

    def client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}")

    def settings(self) -> dict[str, Any]:
        return {"type": "s3", "bucket": self.bucket, "endpoint": f"http://127.0.0.1:{self.port}", "timeout": 5}

    def received(self) -> list[str]:
        client = self.client()
        found = []
        for entry in client.list_objects_v2(Bucket=self.bucket).get("Contents", []):
            body = gzip.decompress(client.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read())
            found += [id_of(line) for line in body.splitlines()]
        client.close()
        return found

    def up(self) -> None:
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        self.server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()

    def down(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def close(self) -> None:
        self.down()
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class SyslogRig(ProcessRig):
    """A real rsyslog over TLS that writes every message to a file."""

    program = "rsyslogd"

    def command(self) -> list[str]:
        return ["-n", "-iNONE", "-M", str(self.modules()), "-f", str(self.folder / "rsyslog.conf")]

    def modules(self) -> Path:
        return next((self.found.root / "usr/lib").glob("*-linux-*/rsyslog"))

    def up(self) -> None:
        self.secure()
        super().up()

    def secure(self) -> None:
        if not (self.folder / "ca.pem").exists():
            pair = Authority(self.folder).server("syslog")
            (self.folder / "rsyslog.conf").write_text(f"""
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
global(workDirectory="{self.folder}" maxMessageSize="64k"
  defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="{self.folder}/ca.pem"
  defaultNetstreamDriverCertFile="{pair.certificate}" defaultNetstreamDriverKeyFile="{pair.private_key}")
template(name="whole" type="string" string="%rawmsg%\\n")
input(type="imtcp" port="{self.port}" address="127.0.0.1")
*.* action(type="omfile" file="{self.folder}/messages" template="whole" fileCreateMode="0600")
""")

    def settings(self) -> dict[str, Any]:
        return {
            "type": "syslog", "address": f"127.0.0.1:{self.port}", "tls": {"ca_file": self.folder / "ca.pem"},
            "window": "1MiB", "timeout": 5,
        }  # fmt: skip

    def received(self) -> list[str]:
        return [id_of(line) for line in self.copy()]

    def copy(self) -> list[bytes]:
        path = self.folder / "messages"
        lines = path.read_bytes().splitlines() if path.exists() else []
        found = [re.fullmatch(rb"<\d+>1 \S+ \S+ ext-authz \S+ \S+ - (\{.*\})", line) for line in lines]
        return [each[1] for each in found if each]


RIGS: dict[str, type[Rig]] = {
    "file": FileRig,
    "http": HttpRig,
    "opa": OpaRig,
    "splunk": SplunkRig,
    "elasticsearch": ElasticsearchRig,
    "otlp": OtlpRig,
    "otlp-grpc": OtlpGrpcRig,
    "syslog": SyslogRig,
    "kafka": KafkaRig,
    "redis": RedisRig,
    "nats": NatsRig,
    "s3": S3Rig,
}


def until_received(rig: Rig, wanted: set[str], seconds: float = 20) -> None:
    """Wait until all of `wanted` is there (a receiver without acknowledgement takes its time)."""
    end = time.monotonic() + seconds
    while not wanted <= set(rig.received()):
        assert time.monotonic() < end, f"{len(wanted - set(rig.received()))} of {len(wanted)} events did not arrive"
        time.sleep(0.05)
