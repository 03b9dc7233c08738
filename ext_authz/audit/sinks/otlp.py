"""OpenTelemetry logs, over HTTP or gRPC, from the trail itself: no queue in between drops anything.

Law: what a partial success rejects is final (the protocol forbids sending it again); which events it was is not said.
Source: OTLP specification 1.x, "OTLP/gRPC response", "OTLP/HTTP response", "Partial success", "Throttling".
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError

from ext_authz import __version__
from ext_authz.audit.formats.reading import (
    PRODUCT,
    Event,
    at,
    count,
    kind,
    microseconds,
    number,
    severity,
    text,
    texts,
)
from ext_authz.audit.sinks import Item, Refused, Retry
from ext_authz.audit.sinks.extras import needs
from ext_authz.audit.sinks.http_client import Answer, Http, judge

_SEVERITIES: Final = {1: (9, "INFO"), 2: (13, "WARN"), 3: (17, "ERROR"), 4: (18, "ERROR2"), 5: (21, "FATAL")}
_FIELDS: Final = {
    "user.id": ("subject", "id"),
    "user.name": ("subject", "name"),
    "client.address": ("context", "ip"),
    "server.address": ("context", "host"),
    "http.request.method": ("context", "method"),
    "url.path": ("context", "path"),
    "authz.decision": ("decision",),
    "authz.decision_id": ("decision_id",),
    "authz.reason": ("reason",),
    "authz.policy.id": ("policy_id",),
    "authz.policy.revision": ("policy_revision",),
    "authz.action": ("action",),
    "authz.resource.type": ("resource", "type"),
    "authz.resource.id": ("resource", "id"),
    "authz.risk": ("context", "risk"),
    "authz.event": ("event",),
    "authz.result": ("result",),
    "authz.detector": ("detector",),
    "authz.explanation": ("explanation",),
}


class Sender(Protocol):
    """One of OTLP's transports."""

    def send(self, request: bytes) -> bytes:
        """Return the response's bytes. Raises Retry, Split and Hold."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class OtlpSink:
    """Sends ExportLogsServiceRequests."""

    best_effort = False

    def __init__(self, name: str, sender: Sender) -> None:
        try:
            from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
            from opentelemetry.proto.common.v1 import common_pb2
            from opentelemetry.proto.logs.v1 import logs_pb2
        except ImportError:
            raise needs("otlp") from None
        self.name = name
        self._sender = sender
        self._service: Any = logs_service_pb2
        self._common: Any = common_pb2
        self._logs: Any = logs_pb2

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Export the items as records of one resource and scope."""
        scope = self._logs.ScopeLogs(
            scope=self._common.InstrumentationScope(name=PRODUCT, version=__version__),
            log_records=[self._record(item) for item in items],
        )
        resource = self._logs.ResourceLogs(scope_logs=[scope])
        resource.resource.attributes.extend(
            self._attributes(
                {"service.name": PRODUCT, "service.version": __version__, "service.instance.id": items[0].log_id}
            )
        )
        request = self._service.ExportLogsServiceRequest(resource_logs=[resource])
        reply = self._service.ExportLogsServiceResponse()
        try:
            reply.ParseFromString(self._sender.send(request.SerializeToString()))
        except DecodeError:
            raise Retry("the answer is no ExportLogsServiceResponse") from None
        rejected = min(max(reply.partial_success.rejected_log_records, 0), len(items))
        if rejected == len(items):
            return [Refused(index, "rejected") for index in range(rejected)]
        return [Refused(0, "rejected", len(items))] * rejected

    def close(self) -> None:
        """End the connection."""
        self._sender.close()

    def _record(self, item: Item) -> Any:  # noqa: ANN401  protobuf
        event = item.event
        level, name = _SEVERITIES[severity(event)]
        values: dict[str, Any] = {key: text(event, *path) for key, path in _FIELDS.items()}
        values |= {
            "user.roles": texts(event, "subject", "roles"),
            "authz.policies": texts(event, "policies"),
            "authz.seq": number(event, "seq"),
            "authz.count": count(event),
            "authz.log": item.log_id,
            "http.response.status_code": number(event, "http_status"),
            "log.record.uid": item.event_id,
            "log.record.original": item.line.decode("utf-8", "replace"),
        }
        return self._logs.LogRecord(
            time_unix_nano=max(microseconds(event), 0) * 1000,
            observed_time_unix_nano=time.time_ns(),
            severity_number=level,
            severity_text=name,
            event_name=f"ext_authz.{kind(event)}",
            attributes=self._attributes(values),
            **_trace(event),
        )

    def _attributes(self, values: Mapping[str, Any]) -> list[Any]:
        return [
            self._common.KeyValue(key=key, value=self._value(value))
            for key, value in values.items()
            if value is not None and value not in ("", [])
        ]

    def _value(self, value: str | int | list[str]) -> Any:  # noqa: ANN401  protobuf
        if isinstance(value, list):
            return self._common.AnyValue(
                array_value=self._common.ArrayValue(values=[self._common.AnyValue(string_value=each) for each in value])
            )
        return self._common.AnyValue(**{"int_value" if isinstance(value, int) else "string_value": value})


class HttpSender:
    """OTLP/HTTP with binary protobuf."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def send(self, request: bytes) -> bytes:
        """Return the response's bytes. Raises as http_client.judge does, and Retry where the answer is cut."""
        answer: Answer = self._http.post(request, "application/x-protobuf")
        judge(answer)
        if not answer.whole:
            raise Retry("the answer is cut")
        return answer.body

    def close(self) -> None:
        """End the connection."""
        self._http.close()


def _trace(event: Event) -> dict[str, bytes]:
    """Return trace and span ids where the event has them."""
    made: dict[str, bytes] = {}
    for field, name, size in (("trace_id", "trace_id", 16), ("span_id", "span_id", 8)):
        value = at(event, "trace", name)
        if isinstance(value, str) and len(value) == 2 * size:
            try:
                made[field] = bytes.fromhex(value)
            except ValueError:
                continue
    return made
