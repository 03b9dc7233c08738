"""The operators' HTTP listener: probes, metrics and public keys for all; the rest behind a token or a Unix socket.

Law: what is not open answers 404 unless a credential could be shown, and 401 unless it was; a Host that is not this
listener's gets nothing (DNS rebinding). One request a connection, everything bounded. Non-goal: what handlers say.
"""

import hmac
import io
import json
import socket
import ssl
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, cast

from ext_authz.config.schema import is_local
from ext_authz.server import log
from ext_authz.server.admin_hosts import Names, is_ours
from ext_authz.server.admin_pages import AdminPages, AdminReply, AdminRequest, BadFormError, fields_of
from ext_authz.server.admin_sockets import BoundedServer, TimedReader, TooLongError, bind_unix
from ext_authz.server.admin_tls import AdminTls
from ext_authz.server.exposition import CONTENT_TYPE, OPENMETRICS_TYPE, wants_openmetrics
from ext_authz.server.sessions import LIFETIME_SECONDS, Session, Sessions
from ext_authz.server.transport import BindError, TlsFiles, sockets

MAX_BODY: Final = 2 * 1024 * 1024
REQUEST_SECONDS: Final = 10.0
"""For a request to arrive whole, and again for its answer to be taken."""
LOGIN: Final = "/login"
LOGOUT: Final = "/logout"
_OPEN: Final = ("/livez", "/readyz", "/metrics", "/.well-known/jwks.json")


class AdminServer:
    """Serves `pages` at `listen` (`HOST:PORT`, `[HOST]:PORT` or `unix:PATH`, as the configuration has it).

    With `tls` it speaks nothing else; beyond loopback only then more than the open pages answer. Raises BindError when
    it cannot listen there or the files cannot be used.
    """

    def __init__(self, listen: str, pages: AdminPages, tls: TlsFiles | None = None) -> None:
        self._listen = listen
        unix = listen.startswith("unix:")
        made = None if tls is None else AdminTls(tls)
        self._server = _Server(pages, trusted=unix, private=made is not None or is_local(listen), tls=made)
        try:
            if unix:
                bind_unix(self._server, listen)
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


class _Server(BoundedServer):
    """What the handler of a connection knows besides it. `private`: nobody on the way reads what is said."""

    def __init__(self, pages: AdminPages, *, trusted: bool, private: bool, tls: AdminTls | None) -> None:
        super().__init__(_Handler)
        self.pages, self.trusted, self.private, self.tls = pages, trusted, private, tls
        self.sessions = Sessions(pages.token)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept one connection; its own thread does the handshake."""
        connection, peer = super().get_request()
        if self.tls is None:
            return connection, peer
        try:
            return self.tls.wrap(connection), peer
        except OSError:
            connection.close()
            raise

    def credible(self, connection: socket.socket) -> bool:
        """Whether a credential could be shown here: where nobody reads it, by a client that may."""
        if not self.private or not self.pages.token():
            return False
        return self.tls is None or (isinstance(connection, ssl.SSLSocket) and self.tls.proven(connection))


class _Handler(BaseHTTPRequestHandler):
    """One request, then the connection ends."""

    protocol_version = "HTTP/1.1"
    wbufsize = 0
    """Answers are sent whole: a buffer would wait anew for each piece that the other side takes."""

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            AdminTls.shake(self.request, REQUEST_SECONDS)
        super().setup()
        self._reader = TimedReader(self.connection, REQUEST_SECONDS, _MAX_HEAD)
        self.rfile = io.BufferedReader(self._reader)

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
        elif self.raw_requestline and self._parsed():
            cast("_Server", self.server).answering(self.connection)
            self._send(self._answer())

    def _parsed(self) -> bool:
        try:
            return self.parse_request()
        except TooLongError:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return False

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
            if not server.trusted and not server.credible(self.connection):
                return _problem(HTTPStatus.NOT_FOUND)
            return self._gated(server, method, path, query)
        except TimeoutError:
            return _problem(HTTPStatus.REQUEST_TIMEOUT)
        except BadFormError:
            return _problem(HTTPStatus.BAD_REQUEST)
        except Exception as error:  # noqa: BLE001  a page's bug is that page's answer
            log.line("admin", f"{method} {path if path in _OPEN else 'page'}: {type(error).__name__}: {error}")
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _open(self, pages: AdminPages, method: str, path: str) -> AdminReply:
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
                openmetrics = wants_openmetrics(",".join(self.headers.get_all("accept", [])))
                kind = OPENMETRICS_TYPE if openmetrics else CONTENT_TYPE
                return AdminReply(pages.metrics(openmetrics), content_type=kind, headers=(("vary", "accept"),))
            case _:
                return AdminReply(pages.jwks(), content_type="application/jwk-set+json")

    def _gated(self, server: _Server, method: str, path: str, query: str) -> AdminReply:
        pages = server.pages
        methods = sorted(each for each, where in pages.gated if where == path)
        if pages.login is not None and not server.trusted:
            if path == LOGIN:
                return self._login(server, pages.login) if method == "POST" else _not_allowed(["POST"])
            if path == LOGOUT:
                methods = ["POST"]
        if not methods:
            return _problem(HTTPStatus.NOT_FOUND)
        session = None
        if not server.trusted and not self._authorized(server):
            session = self._session(server)
            if session is None:
                if pages.login is not None and (method, path) == ("GET", "/"):
                    return pages.login(HTTPStatus.UNAUTHORIZED)
                return _problem(HTTPStatus.UNAUTHORIZED, ("www-authenticate", 'Bearer realm="ext-authz admin"'))
        if method not in methods:
            return _not_allowed(methods)
        body = self._body()
        if isinstance(body, AdminReply):
            return body
        form = self.headers.get_content_type() == _FORM
        request = AdminRequest(method, path, query, body, "" if session is None else session.csrf, form)
        if session is not None and method != "GET" and not self._meant(request):
            return _problem(HTTPStatus.FORBIDDEN)
        if path == LOGOUT:
            for cookie in self._cookies():
                server.sessions.logout(cookie)
            return _redirect((_COOKIE_HEADER, self._cookie("", 0)))
        return pages.gated[method, path](request)

    def _authorized(self, server: _Server) -> bool:
        values = self.headers.get_all("authorization", [])
        scheme, _, shown = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        return scheme.lower() == "bearer" and server.sessions.accepts(shown.strip())

    def _login(self, server: _Server, page: Callable[[int], AdminReply]) -> AdminReply:
        """Take the token once, for a cookie."""
        body = self._body()
        if isinstance(body, AdminReply):
            return body
        if not self._same_origin():
            return _problem(HTTPStatus.FORBIDDEN)
        shown = fields_of(body.decode("utf-8", "replace")).get("token", "").strip()
        cookie = server.sessions.login(shown)
        if cookie is None:
            return page(HTTPStatus.TOO_MANY_REQUESTS)
        server.pages.tried(bool(cookie))
        if not cookie:
            return page(HTTPStatus.FORBIDDEN)
        return _redirect((_COOKIE_HEADER, self._cookie(cookie, int(LIFETIME_SECONDS))))

    def _session(self, server: _Server) -> Session | None:
        """Return the browser's session. SameSite knows no ports, so another local server's page gets none."""
        if self.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return None
        found = (server.sessions.find(cookie) for cookie in self._cookies())
        return next((session for session in found if session is not None), None)

    def _meant(self, request: AdminRequest) -> bool:
        """Whether a change was asked for by a page of ours: it knows the session's secret, and says where it is."""
        shown = self.headers.get("x-csrf-token", "")
        if not shown and request.form:
            shown = request.fields().get("csrf", "")
        same = hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), request.csrf.encode())
        return same and self._same_origin()

    def _same_origin(self) -> bool:
        """Whether a browser, which always says so, says that the request comes from our own page."""
        site, origin = self.headers.get("sec-fetch-site"), self.headers.get("origin")
        here = f"{'https' if self._secure else 'http'}://{self.headers.get('host', '').strip().lower()}"
        return (site is None or site == "same-origin") and (origin is None or origin.lower() == here)

    @property
    def _secure(self) -> bool:
        return cast("_Server", self.server).tls is not None

    def _cookie_name(self) -> str:
        """Return the cookie's name; cookies know no ports, so that two sidecars need two.

        With TLS no server that speaks in the clear under the same name can set one like it (RFC 6265bis 4.1.3.2).
        """
        return f"{'__Host-' if self._secure else ''}ext_authz_admin_{self.connection.getsockname()[1]}"

    def _cookie(self, value: str, seconds: int) -> str:
        secure = "; Secure" if self._secure else ""
        return f"{self._cookie_name()}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"

    def _cookies(self) -> list[str]:
        """Return the values of our cookie as sent (RFC 6265 4.2.1), the last ones where they are many.

        Other servers on this machine may set more of the same name, and must not sign anybody out by that. Not read by
        http.cookies, which takes seconds for quotes within quotes (CVE-2024-7592); ours has none.
        """
        pairs = (pair.strip().partition("=") for line in self.headers.get_all("cookie", []) for pair in line.split(";"))
        return [value for name, _, value in pairs if name == self._cookie_name()][-_MAX_COOKIES:]

    def _body(self) -> bytes | AdminReply:
        """Return the request's body, or why it is not read."""
        if self.headers.get_all("transfer-encoding"):
            return _problem(HTTPStatus.LENGTH_REQUIRED)
        lengths = self.headers.get_all("content-length", ["0"])
        if len(lengths) != 1 or not lengths[0].isascii() or not lengths[0].isdigit():
            return _problem(HTTPStatus.BAD_REQUEST)
        if len(lengths[0]) > _LENGTH_DIGITS or int(lengths[0]) > MAX_BODY:
            return _problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        server = cast("_Server", self.server)
        self._reader.allow(int(lengths[0]))
        server.waiting(self.connection)  # a body that drips in holds up no probe either
        try:
            body = self.rfile.read(int(lengths[0]))
        except (ConnectionError, ssl.SSLError):
            return _problem(HTTPStatus.BAD_REQUEST)  # the other side has gone; no fault of ours
        server.answering(self.connection)
        return body if len(body) == int(lengths[0]) else _problem(HTTPStatus.BAD_REQUEST)

    def _is_ours(self, server: _Server) -> bool:
        """Whether Host names the address this very connection came in on, or localhost where that is loopback.

        A Unix socket has no name that a page in a browser could be made to point at.
        """
        if server.trusted:
            return True
        own, port = self.connection.getsockname()[:2]
        names = Names() if server.tls is None else server.tls.names
        return is_ours(self.headers.get_all("host", []), own, port, names)

    def _send(self, reply: AdminReply) -> None:
        self.close_connection = True
        cast("_Server", self.server).waiting(self.connection)
        self.connection.settimeout(REQUEST_SECONDS)
        connected, self.wfile = self.wfile, (whole := io.BytesIO())
        self.send_response(reply.status)
        headers = dict(_SAFE) | {"content-type": reply.content_type} | dict(reply.headers)
        if self._secure:
            headers["strict-transport-security"] = _ONLY_TLS
        headers |= {"content-length": str(len(reply.body)), "connection": "close"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
        connected.write(whole.getvalue())


_LENGTH_DIGITS: Final = 12
_POLL_SECONDS: Final = 0.1
_MAX_LINE: Final = 8192
_MAX_HEAD: Final = 64 * 1024
_MAX_COOKIES: Final = 8
_FORM: Final = "application/x-www-form-urlencoded"
_COOKIE_HEADER: Final = "set-cookie"
_ONLY_TLS: Final = "max-age=31536000"
_SAFE: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    # `no-referrer` would make browsers say `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
}


def _problem(status: int, *headers: tuple[str, str]) -> AdminReply:
    body = json.dumps({"error": {"code": int(status), "message": HTTPStatus(status).phrase}}).encode() + b"\n"
    return AdminReply(body, int(status), headers=headers)


def _not_allowed(methods: list[str]) -> AdminReply:
    return _problem(HTTPStatus.METHOD_NOT_ALLOWED, ("allow", ", ".join(methods)))


def _redirect(*headers: tuple[str, str]) -> AdminReply:
    return AdminReply(b"", int(HTTPStatus.SEE_OTHER), headers=(("location", "/"), *headers))
