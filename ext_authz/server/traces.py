"""One span for each check that Envoy traces, sent to an OpenTelemetry collector from a thread of its own.

Law: the parent is in the gRPC metadata (Envoy's own span), never in the request's headers, which the caller chose; what
the parent does not sample is not traced. A check is never slower for a collector: spans that find no room are dropped
and counted. Source: W3C Trace Context 1; OTLP 1.x; semantic conventions for RPC. Non-goal: audit.
"""

import contextlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ext_authz import __version__
from ext_authz.audit.sinks import Hold, Retry, Split
from ext_authz.audit.sinks.http_client import Http, judge
from ext_authz.config.tracing import TracingSettings
from ext_authz.model import Outcome
from ext_authz.server.transport import TRACEPARENT

HEADER: Final = TRACEPARENT
MAX_WAITING: Final = 4096
MAX_OPEN: Final = 4096
BATCH: Final = 512
SEND_SECONDS: Final = 1.0
METHOD: Final = "envoy.service.auth.v3.Authorization/Check"
_SERVER_KIND: Final = 2
_ERROR: Final = 2
_FAILED: Final = 500
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.DOTALL)
_MAX_PARENT: Final = 512


class Parent(NamedTuple):
    """What a sampled `traceparent` names."""

    trace_id: bytes
    span_id: bytes
    flags: int


class Traced(bytes):
    """A CheckRequest's bytes with the parent of its span and when it came (Unix nanoseconds)."""

    parent: Parent
    at_ns: int


class _Span(NamedTuple):
    """Plain values; what goes over the wire is made of them on the sender's thread."""

    parent: Parent
    started_ns: int
    ended_ns: int
    outcome: Outcome
    caller: str | None


def sampled(text: str | bytes | None) -> Parent | None:
    """Return the parent of a `traceparent` that is well-formed and sampled (W3C Trace Context 3.2), else None."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if text is None or len(text) > _MAX_PARENT:
        return None
    found = _PARENT.match(text)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return None
    flags = int(found[4], 16)
    if not flags & 1 or not int(found[2], 16) or not int(found[3], 16):
        return None
    return Parent(bytes.fromhex(found[2]), bytes.fromhex(found[3]), flags)


def traced(data: bytes, text: str | bytes | None) -> bytes:
    """Return a message as it is, or, where its span is to be recorded, with what the span needs."""
    parent = sampled(text)
    if parent is None:
        return data
    made = Traced(data)
    made.parent, made.at_ns = parent, time.time_ns()
    return made


class Tracer:
    """Spans begin where a check is decided and end where its answer is ready. `count(result, by)` counts them."""

    def __init__(
        self, settings: TracingSettings, process: str, count: Callable[[str, int], None], http: Http | None = None
    ) -> None:
        self._settings = settings
        self._process = process
        self._count = count
        headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._http = http or Http(
            settings.url,
            headers=headers,
            seconds=float(settings.timeout),
            compress=True,
            ca_file=None if settings.ca_file is None else str(settings.ca_file),
        )
        self._open: dict[str, tuple[Traced, str | None]] = {}
        self._waiting: deque[_Span] = deque()
        self._dropped = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def begin(self, data: bytes, outcome: Outcome) -> None:
        """Remember the span of a check that was decided just now, if it has one."""
        if type(data) is not Traced:
            return
        if len(self._open) >= MAX_OPEN:
            with contextlib.suppress(KeyError, StopIteration, RuntimeError):
                del self._open[next(iter(self._open))]
            self._dropped += 1
        self._open[outcome.decision_id] = (data, outcome.facts.header(HEADER) if outcome.facts is not None else None)

    def trace_of(self, outcome: Outcome) -> str:
        """Return the id of the trace that a check's span will be in, "" where it has none."""
        known = self._open.get(outcome.decision_id)
        return "" if known is None else known[0].parent.trace_id.hex()

    def end(self, outcome: Outcome) -> None:
        """End the span of a check whose answer is ready; `outcome` is what was answered."""
        known = self._open.pop(outcome.decision_id, None)
        if known is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        data, caller = known
        self._waiting.append(_Span(data.parent, data.at_ns, time.time_ns(), outcome, caller))

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send what there is, once, and end."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(float(self._settings.timeout) + 1)
        self._http.close()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._done.wait(SEND_SECONDS)
            dropped, self._dropped = self._dropped, 0
            if dropped:
                self._count("dropped", dropped)
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                if not self._sent(batch):
                    break  # a collector that is down is asked once a second

    def _sent(self, batch: list[_Span]) -> bool:
        try:
            judge(self._http.post(self._request(batch), "application/x-protobuf"))
        except (Retry, Hold, Split):
            self._count("failed", len(batch))
            return False
        except Exception:  # noqa: BLE001  a span is not worth the thread
            self._count("failed", len(batch))
            return False
        self._count("sent", len(batch))
        return True

    def _request(self, batch: list[_Span]) -> bytes:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        _put(group.resource, {"service.name": self._settings.service_name, "service.version": __version__})
        _put(group.resource, {"service.instance.id": self._process, "process.pid": os.getpid()})
        scope = group.scope_spans.add()
        scope.scope.name, scope.scope.version = "ext-authz", __version__
        for each in batch:
            self._write(scope.spans.add(), each)
        return bytes(request.SerializeToString())

    @staticmethod
    def _write(span: Any, each: _Span) -> None:  # noqa: ANN401  a protobuf message
        decision, access = each.outcome.decision, each.outcome.access
        span.trace_id, span.parent_span_id = each.parent.trace_id, each.parent.span_id
        span.span_id, span.flags = os.urandom(8), each.parent.flags | 0x300  # the parent is known to be remote
        span.name, span.kind = METHOD, _SERVER_KIND
        span.start_time_unix_nano, span.end_time_unix_nano = each.started_ns, max(each.started_ns, each.ended_ns)
        attributes: dict[str, str | int] = {
            "rpc.system.name": "grpc",
            "rpc.method": METHOD,
            "authz.decision": "allow" if decision.allowed else "deny",
            "authz.reason": decision.reason.value,
            "authz.decision_id": each.outcome.decision_id,
            "authz.policy.revision": each.outcome.policy_revision,
        }
        if decision.policy_id:
            attributes["authz.policy.id"] = decision.policy_id
        if access is not None:
            attributes |= {"authz.resource.type": access.resource.type, "authz.action": access.action}
        if decision.reason.http_status >= _FAILED:
            span.status.code, span.status.message = _ERROR, decision.reason.value
        caller = sampled_or_not(each.caller)
        if caller is not None and caller != each.parent[:2]:
            link = span.links.add()
            link.trace_id, link.span_id = caller
            _put(link, {"authz.link": "the request's own traceparent"})
        _put(span, attributes)


def sampled_or_not(text: str | None) -> tuple[bytes, bytes] | None:
    """Return trace and span of a `traceparent` in the request's headers, whatever its flags."""
    found = _PARENT.match(text) if text is not None and len(text) <= _MAX_PARENT else None
    if found is None or found[1] == "ff" or not int(found[2], 16) or not int(found[3], 16):
        return None
    return bytes.fromhex(found[2]), bytes.fromhex(found[3])


def _put(message: Any, attributes: dict[str, str | int]) -> None:  # noqa: ANN401  whatever has attributes
    for name, value in attributes.items():
        made = message.attributes.add()
        made.key = name
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate in what a caller sent
            if isinstance(value, int):
                made.value.int_value = value
            else:
                made.value.string_value = value
