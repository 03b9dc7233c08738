"""grpcio behind the transport seam: TLS, and everywhere that the native transport is not."""

import queue
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc

from ext_authz.server.service import METHOD, Service, Wait
from ext_authz.server.transport import TRACEPARENT, BindError, ListenOptions, Respond, TlsFiles, answer, sockets
from ext_authz.server.transport.calls import Call, Calls
from ext_authz.server.transport.health import Health
from ext_authz.server.transport.pool import ParkingPool

THREADS = 8
PARKED = 256
"""Calls that may wait for the disk at once; each holds a thread beyond the working ones."""
OVERSIZE = 2
"""A message up to this many times the limit is still taken, so that its refusal is an answer and not a gRPC error."""
_MIN_REMAINING_SECONDS = 0.002
"""A caller that waits no longer than this is gone before the answer is; the check is shed."""

_NOT_NAMED = "this client's certificate is not one that may ask"


class GrpcioTransport:
    """grpc.server with one raw-bytes handler."""

    name = "grpcio"

    def __init__(self, service: Service, options: ListenOptions) -> None:
        self._service = service
        self._options = options
        self._health = Health()
        self._pool = ParkingPool(THREADS, PARKED, "check")
        self._server = grpc.server(
            cast("ThreadPoolExecutor", self._pool),  # the stubs want the class, grpcio any executor
            options=[
                ("grpc.max_receive_message_length", OVERSIZE * options.max_receive_bytes),
                ("grpc.so_reuseport", int(options.reuse_port)),
                # Envoy's keepalive pings (envoy.md 5) must not count as abuse.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.max_metadata_size", 64 * 1024),
            ],
        )
        self._bound: tuple[str, ...] = ()
        self._calls: Calls | None = None

    def start(self) -> tuple[str, ...]:
        """Bind and serve; return the bound addresses. Raises BindError."""
        self._calls = self._take_calls()
        if self._calls is None:
            service, _, method = METHOD[1:].partition("/")
            handler = grpc.unary_unary_rpc_method_handler(self._handle)
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self._health.add_to(self._server)
        self._bound = tuple(self._bind(address) for address in self._options.addresses)
        self._server.start()
        if self._calls is not None:
            self._calls.start()
        return self._bound

    def set_serving(self, *, serving: bool) -> None:
        """Set what grpc.health.v1 answers."""
        self._health.set_serving(serving=serving)

    def stop(self, grace_seconds: float) -> None:
        """Drain for up to `grace_seconds`, then close."""
        self._health.set_serving(serving=False)
        self._server.stop(grace_seconds).wait(grace_seconds + 1)
        if self._calls is not None:
            self._calls.stop()
        self._pool.shutdown()
        for address in self._bound:
            sockets.remove(address)

    def _take_calls(self) -> Calls | None:
        return Calls.attach(self._server, METHOD, self._answer)

    def _bind(self, address: str) -> str:
        credentials = _credentials(self._options.tls) if self._options.tls is not None else None
        unix = address.startswith("unix:")
        if unix:
            sockets.prepare(address)
        try:
            with sockets.private_umask():
                if credentials is not None:
                    port = self._server.add_secure_port(address, credentials)
                else:
                    port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise BindError(f"cannot listen on `{address}`: {_why(error)}") from None
        if unix:
            sockets.share(address, self._options.socket_group)
            return address
        return f"{address.rpartition(':')[0]}:{port}"

    def _answer(self, calls: Sequence[Call]) -> None:
        due = time.time() + _MIN_REMAINING_SECONDS
        names = self._options.tls.client_names if self._options.tls is not None else ()
        traced = self._options.traced
        checks: list[tuple[bytes, Respond]] = []
        for call in calls:
            if call.message is None:
                self._service.unread()
            elif names and not _named(call.peer(), names):
                call.refuse(_NOT_NAMED)
            elif call.deadline < due:
                call.respond(self._service.overloaded())
            else:
                message = call.message if traced is None else traced(call.message, traceparent(call.metadata))
                checks.append((message, call.respond))
        answer(self._service, checks, self._options.max_receive_bytes)

    def _handle(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        tls = self._options.tls
        if tls is not None and tls.client_names:
            peer = cast("Mapping[str, Sequence[bytes]]", context.auth_context())
            if not _named(peer, tls.client_names):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, _NOT_NAMED)
        remaining = context.time_remaining()
        if remaining < _MIN_REMAINING_SECONDS:
            return self._service.overloaded()
        if len(data) > self._options.max_receive_bytes:
            return self._service.oversized()
        if self._options.traced is not None:
            data = self._options.traced(data, traceparent(context.invocation_metadata()))
        ready = self._service.check(data)
        return self._parked(ready) if isinstance(ready, Wait) else ready

    def _parked(self, wait: Wait) -> bytes:
        """Hold this thread until the event is durable; a full car park answers at once."""
        with self._pool.parked() as room:
            if not room:
                return self._service.undurable(wait)
            done: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            self._service.commit(wait, done.put)
            return done.get()


def traceparent(metadata: Iterable[tuple[str, str | bytes]]) -> str | bytes | None:
    """Return the only `traceparent` of a call's metadata; of several none can be believed (W3C Trace Context 3.2)."""
    found = [value for name, value in metadata if name == TRACEPARENT]
    return found[0] if len(found) == 1 else None


def _named(presented: Mapping[str, Sequence[bytes]], names: tuple[str, ...]) -> bool:
    # By kind: a DNS or e-mail SAN that spells a SPIFFE ID is none, nor is a URI without a scheme a host.
    uris = (name for name in presented.get("peer_uri", ()) if b"://" in name)
    hosts = (name for name in presented.get("peer_dns", ()) if b"://" not in name)
    return any(name.decode("utf-8", "replace") in names for name in (*uris, *hosts))


def _credentials(tls: TlsFiles) -> Any:  # noqa: ANN401  the stubs have no name for these
    """Return server credentials that are re-read at each handshake after a file changed."""
    stamps = _stamps(tls)
    current = _configuration(tls)

    def fetch() -> Any:  # noqa: ANN401
        nonlocal stamps, current
        try:
            fresh = _stamps(tls)
            if fresh != stamps:
                current = _configuration(tls)
                stamps = fresh
        except (OSError, BindError):
            return None  # a half-written pair: keep serving with the last good one
        return current

    return grpc.dynamic_ssl_server_credentials(current, fetch, require_client_authentication=tls.client_ca is not None)


def _stamps(tls: TlsFiles) -> tuple[tuple[int, int], ...]:
    files = [tls.certificate, tls.private_key, *([tls.client_ca] if tls.client_ca else [])]
    return tuple((stat.st_mtime_ns, stat.st_ino) for stat in (file.stat() for file in files))


def _configuration(tls: TlsFiles) -> Any:  # noqa: ANN401
    try:
        # The standard library says at once, and in words, whether key and certificate belong together.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tls.certificate, tls.private_key)
        roots = tls.client_ca.read_bytes() if tls.client_ca is not None else None
        pair = (tls.private_key.read_bytes(), tls.certificate.read_bytes())
    except (OSError, ssl.SSLError) as error:
        raise BindError(f"cannot use `server.tls` with `{tls.certificate}`: {error}") from None
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def _why(error: RuntimeError) -> str:
    return "the address is in use or not this machine's" if "bind" in str(error).lower() else str(error)
