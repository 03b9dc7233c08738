"""The operators' HTTP listener: probes, metrics and public keys for all; the rest behind a token or a Unix socket.

Law: what is not open answers 404 unless a credential could be shown, and 401 unless it was; a Host that is not this
listener's gets nothing (DNS rebinding). One request a connection, everything bounded. Non-goal: what handlers say.
"""

import contextlib
import hmac
import io
import ipaddress
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, cast

from ext_authz.config.schema import is_local
from ext_authz.server import log
from ext_authz.server.exposition import CONTENT_TYPE as METRICS_TYPE
from ext_authz.server.transport import BindError, sockets

MAX_CONNECTIONS: Final = 32
MAX_BODY: Final = 2 * 1024 * 1024
REQUEST_SECONDS: Final = 10.0
"""For a request to arrive whole, and again for its answer to be taken."""
SOCKET_MODE: Final = 0o600
_BACKLOG: Final = 64
_OPEN: Final = ("/livez", "/readyz", "/metrics", "/.well-known/jwks.json")


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """A request that passed the gate. `query` is what follows `?`, as sent."""

    method: str
    path: str
    query: str
    body: bytes


@dataclass(frozen=True, slots=True)
class AdminReply:
    """What a handler answers. `headers` may replace the safe defaults of the same name."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[AdminRequest], AdminReply]


@dataclass(frozen=True, slots=True)
class AdminPages:
    """What the listener shows.

    `ready` returns "" or why the sidecar is not ready; `metrics` Prometheus text; `jwks` the JSON of our public keys.
    `gated` maps (method, path) to a handler that sees only requests with a credential. `token` returns the bearer
    token, "" where none is configured.
    """

    ready: Callable[[], str]
    metrics: Callable[[], bytes]
    jwks: Callable[[], bytes] = lambda: b'{"keys":[]}'
    gated: Mapping[tuple[str, str], Handler] = field(default_factory=dict)
    token: Callable[[], str] = str


class AdminServer:
    """Serves `pages` at `listen` (`HOST:PORT`, `[HOST]:PORT` or `unix:PATH`, as the configuration has it).

    Raises BindError when it cannot listen there.
    """

    def __init__(self, listen: str, pages: AdminPages) -> None:
        self._listen = listen
        unix = listen.startswith("unix:")
        self._server = _Server(pages, trusted=unix, local=is_local(listen))
        try:
            if unix:
                _bind_unix(self._server, listen)
            else:
                host, _, port = listen.rpartition(":")
                self._server.bind((host.strip("[]"), int(port)))
        except OSError as error:
            self._server.server_close()
            raise BindError(f"cannot listen on `{listen}`: {error.strerror}") from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="admin", daemon=True
        )

    @property
    def address(self) -> str:
        """Where it really listens (port 0 resolved)."""
        if self._listen.startswith("unix:"):
            return self._listen
        return f"{self._listen.rpartition(':')[0]}:{self._server.port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; requests in hand end by themselves."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        sockets.remove(self._listen)


def _bind_unix(server: "_Server", listen: str) -> None:
    sockets.prepare(listen)
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        server.bind(listen.removeprefix("unix:"))
    finally:
        os.umask(before)


class _Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """Bounded: a connection over MAX_CONNECTIONS takes the place of the oldest that is not being answered.

    So whoever only opens connections holds up no probe. Where all are being answered, the new one is closed.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, pages: AdminPages, *, trusted: bool, local: bool) -> None:
        super().__init__(("", 0), _Handler)
        self.pages, self.trusted, self.local = pages, trusted, local
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: dict[socket.socket, None] = {}
        self._idle_lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.port = 0

    def bind(self, address: str | tuple[str, int]) -> None:
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        if family != socket.AF_UNIX:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(address)
        self._socket.listen(_BACKLOG)
        self.port = 0 if family == socket.AF_UNIX else int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        return self._listening().fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        return self._listening().accept()

    def server_close(self) -> None:
        super().server_close()
        if self._socket is not None:
            self._socket.close()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  socketserver's signature
        if not self._slots.acquire(blocking=False) and not (
            self._evict() and self._slots.acquire(timeout=_EVICTION_SECONDS)
        ):
            request.close()
            return
        self._wait_for(request)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.answering(request)
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.answering(request)
            self._slots.release()

    def answering(self, request: socket.socket) -> None:
        """Let a connection be: its request is here."""
        with self._idle_lock:
            self._idle.pop(request, None)

    def _wait_for(self, request: socket.socket) -> None:
        """From here on it is the other side's turn, and the connection may have to go."""
        with self._idle_lock:
            self._idle[request] = None

    def _evict(self) -> bool:
        """End the connection that was longest the other side's turn; False where there is none."""
        with self._idle_lock:
            oldest = next(iter(self._idle), None)
            if oldest is None:
                return False
            del self._idle[oldest]
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        return True

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        """Close, but first read what is still coming: the kernel drops an answer that is overtaken by a reset."""
        self._wait_for(request)
        try:
            request.shutdown(socket.SHUT_WR)
            request.settimeout(_LINGER_SECONDS)
            for _ in range(_LINGER_READS):
                if not request.recv(65536):
                    break
        except OSError:
            pass
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Say nothing: the other side went away or was too slow. A handler's own failure is answered and logged."""

    def _listening(self) -> socket.socket:
        assert self._socket is not None  # noqa: S101  bound before it serves
        return self._socket


class _Timed(io.RawIOBase):
    """Reads a socket until a deadline for the whole request, however slowly it drips in."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """One request, then the connection ends."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Timed(self.connection, REQUEST_SECONDS))

    def version_string(self) -> str:
        return "ext-authz"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no access log: probes and scrapes would fill it."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer what http.server itself refuses, in our form."""
        self._send(_problem(code))

    def handle(self) -> None:
        """Answer one request of whatever method; http.server would look for one method of ours for each of its."""
        self.raw_requestline = self.rfile.readline(_MAX_LINE + 1)
        if len(self.raw_requestline) > _MAX_LINE:
            self.requestline = self.request_version = self.command = ""
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
        elif self.raw_requestline and self.parse_request():
            cast("_Server", self.server).answering(self.connection)
            self._send(self._answer())

    def _answer(self) -> AdminReply:
        server = cast("_Server", self.server)
        if not self._is_ours(server):
            return _problem(HTTPStatus.MISDIRECTED_REQUEST)
        # As sent: http.server's own `path` has leading slashes folded.
        path, _, query = self.requestline.split()[1].partition("?")
        method = "GET" if self.command == "HEAD" else self.command
        try:
            if path in _OPEN:
                return self._open(server.pages, method, path)
            if not server.trusted and not (server.local and server.pages.token()):
                return _problem(HTTPStatus.NOT_FOUND)
            return self._gated(server, method, path, query)
        except TimeoutError:
            return _problem(HTTPStatus.REQUEST_TIMEOUT)
        except Exception as error:  # noqa: BLE001  a page's bug is that page's answer
            log.line("admin", f"{method} {path if path in _OPEN else 'page'}: {type(error).__name__}: {error}")
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR)

    @staticmethod
    def _open(pages: AdminPages, method: str, path: str) -> AdminReply:
        if method != "GET":
            return _not_allowed(["GET", "HEAD"])
        match path:
            case "/livez":
                return AdminReply(b"ok\n", content_type="text/plain; charset=utf-8")
            case "/readyz":
                why = pages.ready()
                body = f"not ready: {why}\n" if why else "ok\n"
                return AdminReply(body.encode(), 503 if why else 200, "text/plain; charset=utf-8")
            case "/metrics":
                return AdminReply(pages.metrics(), content_type=METRICS_TYPE)
            case _:
                return AdminReply(pages.jwks(), content_type="application/jwk-set+json")

    def _gated(self, server: _Server, method: str, path: str, query: str) -> AdminReply:
        gated = server.pages.gated
        methods = sorted(each for each, where in gated if where == path)
        if not methods:
            return _problem(HTTPStatus.NOT_FOUND)
        if not server.trusted and not self._authorized(server.pages.token()):
            return _problem(HTTPStatus.UNAUTHORIZED, ("www-authenticate", 'Bearer realm="ext-authz admin"'))
        handler = gated.get((method, path))
        if handler is None:
            return _not_allowed(methods)
        body = self._body()
        return body if isinstance(body, AdminReply) else handler(AdminRequest(method, path, query, body))

    def _authorized(self, token: str) -> bool:
        values = self.headers.get_all("authorization", [])
        scheme, _, shown = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        same = hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), token.encode())
        return bool(token) and scheme.lower() == "bearer" and same

    def _body(self) -> bytes | AdminReply:
        """Return the request's body, or why it is not read."""
        if self.headers.get_all("transfer-encoding"):
            return _problem(HTTPStatus.LENGTH_REQUIRED)
        lengths = self.headers.get_all("content-length", ["0"])
        if len(lengths) != 1 or not lengths[0].isascii() or not lengths[0].isdigit():
            return _problem(HTTPStatus.BAD_REQUEST)
        if len(lengths[0]) > _LENGTH_DIGITS or int(lengths[0]) > MAX_BODY:
            return _problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(int(lengths[0]))
        return body if len(body) == int(lengths[0]) else _problem(HTTPStatus.BAD_REQUEST)

    def _is_ours(self, server: _Server) -> bool:
        """Whether Host names the address this very connection came in on, or localhost where that is loopback.

        A Unix socket has no name that a page in a browser could be made to point at.
        """
        if server.trusted:
            return True
        hosts = self.headers.get_all("host", [])
        if len(hosts) != 1:
            return False
        own, port = self.connection.getsockname()[:2]
        host, colon, given = hosts[0].strip().lower().rpartition(":")
        if not colon or given != str(port):
            return False
        address = _plain_address(own)
        if host == "localhost":
            return address.is_loopback
        try:
            return _plain_address(host.strip("[]")) == address
        except ValueError:
            return False

    def _send(self, reply: AdminReply) -> None:
        self.close_connection = True
        self.connection.settimeout(REQUEST_SECONDS)
        self.send_response(reply.status)
        headers = dict(_SAFE) | {"content-type": reply.content_type} | dict(reply.headers)
        headers |= {"content-length": str(len(reply.body)), "connection": "close"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)


_LENGTH_DIGITS: Final = 12
_POLL_SECONDS: Final = 0.1
_EVICTION_SECONDS: Final = 0.5
_MAX_LINE: Final = 8192
_LINGER_SECONDS: Final = 0.2
_LINGER_READS: Final = 64
_SAFE: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def _plain_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _problem(status: int, *headers: tuple[str, str]) -> AdminReply:
    body = json.dumps({"error": {"code": int(status), "message": HTTPStatus(status).phrase}}).encode() + b"\n"
    return AdminReply(body, int(status), headers=headers)


def _not_allowed(methods: list[str]) -> AdminReply:
    return _problem(HTTPStatus.METHOD_NOT_ALLOWED, ("allow", ", ".join(methods)))
