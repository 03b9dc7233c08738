"""Issuers on loopback that say what a token is: an RFC 7662 endpoint and a Kubernetes API server, which break in many ways."""

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from credentials import AUDIENCE

CLIENT, SECRET = "side car", "s3cret:with+odd/characters"
CLUSTER_TOKEN = "the-sidecars-own-token"


class IssuerServer:
    """`tokens` are claims by token; `mode` says how it answers; `asked` is every token asked about, in order."""

    def __init__(self) -> None:
        self.mode = "good"
        self.tokens: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.under_way = self.most_under_way = 0
        self.delay = 0.0
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def grant(self, token: str, **claims: Any) -> str:
        """Make a token active: alice's unless `claims` say otherwise; a claim that is None is left out."""
        now = int(time.time())
        usual = {
            "sub": "alice",
            "aud": AUDIENCE,
            "client_id": "portal",
            "scope": "read write",
            "exp": now + 600,
            "iat": now,
        }
        self.tokens[token] = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return token

    def secure(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.address = self.address.replace("http:", "https:")

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with owner._lock:
                    owner.under_way += 1
                    owner.most_under_way = max(owner.most_under_way, owner.under_way)
                try:
                    owner.stopping.wait(owner.delay)
                    MODES[owner.mode](owner, self, body)
                except OSError:
                    self.close_connection = True
                finally:
                    with owner._lock:
                        owner.under_way -= 1

        return Handler


def answer(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"content-length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def good(server: IssuerServer, handler: BaseHTTPRequestHandler, body: bytes) -> None:
    if handler.path == "/introspect":
        kind, _, pair = handler.headers["authorization"].partition(" ")
        user, _, secret = base64.b64decode(pair).decode().partition(":")
        if (kind, unquote_plus(user), unquote_plus(secret)) != ("Basic", CLIENT, SECRET):
            answer(handler, b"{}", 401)
            return
        form = parse_qs(body.decode(), strict_parsing=True)
        assert form["token_type_hint"] == ["access_token"]
        (token,) = form["token"]
        server.asked.append(token)
        claims = server.tokens.get(token)
        answer(handler, json.dumps({"active": False} if claims is None else {"active": True, **claims}).encode())
        return
    if handler.headers["authorization"] != f"Bearer {CLUSTER_TOKEN}":
        answer(handler, b"{}", 401)
        return
    assert handler.path == "/apis/authentication.k8s.io/v1/tokenreviews"
    spec = json.loads(body)["spec"]
    server.asked.append(spec["token"])
    claims = server.tokens.get(spec["token"])
    status: dict[str, Any] = {"user": {}}
    if claims is not None:
        user = {
            "username": claims["sub"],
            "uid": "u-1",
            "groups": ["system:serviceaccounts"],
            "extra": claims.get("extra", {}),
        }
        named = claims.get("aud", [])
        status = {"authenticated": True, "user": user, "audiences": [named] if isinstance(named, str) else named}
    made = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status}
    answer(handler, json.dumps(made).encode(), 201)


def slow(server: IssuerServer, handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not server.stopping.wait(0.2):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def said(
    body: bytes, status: int = 200, **headers: str
) -> Callable[[IssuerServer, BaseHTTPRequestHandler, bytes], None]:
    return lambda _, handler, __: answer(handler, body, status, **headers)


YES = b'{"active": true, "sub": "alice", "aud": "ml-platform"}'
MODES: dict[str, Callable[[IssuerServer, BaseHTTPRequestHandler, bytes], None]] = {
    "good": good,
    "slow": slow,
    "500": said(YES, 500),
    "400": said(YES, 400),
    "401": said(YES, 401),
    "204": said(b"", 204),
    "html": said(b"<html>sign in</html>"),
    "too large": said(b'{"active": true, "x": "' + b"x" * 70_000 + b'"}'),
    "twice active": said(b'{"active": false, "active": true, "sub": "alice", "aud": "ml-platform"}'),
    "active as text": said(b'{"active": "true", "sub": "alice", "aud": "ml-platform"}'),
    "active as a number": said(b'{"active": 1, "sub": "alice", "aud": "ml-platform"}'),
    "no active": said(b'{"sub": "alice", "aud": "ml-platform"}'),
    "a list": said(b"[" + YES + b"]"),
    "cut short": said(YES, **{"content-length": "500"}),
    "redirect": said(b"", 307, location="http://127.0.0.1:9/introspect"),
    "nothing": lambda *_: None,
}
BROKEN = [mode for mode in MODES if mode != "good"]
