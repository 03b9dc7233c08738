"""An identity provider on loopback: a real HTTP server of key sets that rotates them and breaks in many ways."""

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt as pyjwt
from credentials import AUDIENCE, jwk
from cryptography.hazmat.primitives.asymmetric import ec


class KeyServer:
    """Serves `/jwks` and `/.well-known/openid-configuration`. `mode` says how; `keys` are (kid, private key)."""

    def __init__(self) -> None:
        self.mode = "good"
        self.max_age: int | None = None
        self.keys: list[tuple[str, Any]] = []
        self.issuer_said = ""
        self.requests: list[tuple[float, str]] = []
        self._made = 0
        self.rotate()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._stopping = threading.Event()
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def uri(self) -> str:
        return f"{self.address}/jwks"

    def rotate(self, keep: int = 2) -> str:
        """Add a key in front, and retire all but the newest `keep`."""
        self._made += 1
        self.keys = [(f"key-{self._made}", self.new_key()), *self.keys][:keep]
        return self.keys[0][0]

    @staticmethod
    def new_key() -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    def token(self, key: int | tuple[str, Any] = 0, **claims: Any) -> str:
        kid, private = self.keys[key] if isinstance(key, int) else key
        now = int(time.time())
        payload = {"iss": self.address, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600, **claims}
        return pyjwt.encode(payload, private, "ES256", headers={"kid": kid})

    def document(self) -> bytes:
        return json.dumps({"keys": [jwk(private, kid=kid, use="sig") for kid, private in self.keys]}).encode()

    def secure(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.get_request = lambda: self._wrapped(context)  # type: ignore[method-assign]
        self.address = self.address.replace("http:", "https:")

    def _wrapped(self, context: ssl.SSLContext) -> Any:
        plain, peer = self._server.socket.accept()
        try:
            return context.wrap_socket(plain, server_side=True), peer
        except OSError:
            plain.close()
            raise

    def close(self) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                owner.requests.append((time.monotonic(), self.path))
                try:
                    MODES[owner.mode](owner, self)
                except OSError:
                    self.close_connection = True

        return Handler


def answer(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"content_length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def good(server: KeyServer, handler: BaseHTTPRequestHandler) -> None:
    caching = {} if server.max_age is None else {"cache_control": f"public, max-age={server.max_age}"}
    if handler.path.endswith("/.well-known/openid-configuration"):
        body = {"issuer": server.issuer_said or server.address, "jwks_uri": server.uri}
        answer(handler, json.dumps(body).encode())
    else:
        answer(handler, server.document(), **caching)


def slow(server: KeyServer, handler: BaseHTTPRequestHandler) -> None:
    """The first byte soon, the next ones a second apart, without end."""
    handler.send_response(200)
    handler.end_headers()
    while not server._stopping.wait(0.2):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def huge(_: KeyServer, handler: BaseHTTPRequestHandler) -> None:
    answer(handler, b'{"keys":[' + b" " * 10_000_000 + b"]}")


def endless_header(server: KeyServer, handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
    while not server._stopping.wait(0.05):
        handler.wfile.write(b"x" * 10)


def short(server: KeyServer, handler: BaseHTTPRequestHandler) -> None:
    answer(handler, server.document()[:-5], content_length=str(len(server.document())))


def private(server: KeyServer, handler: BaseHTTPRequestHandler) -> None:
    whole = pyjwt.algorithms.ECAlgorithm.to_jwk(server.keys[0][1], as_dict=True)
    answer(handler, json.dumps({"keys": [whole]}).encode())


MODES: dict[str, Callable[[KeyServer, BaseHTTPRequestHandler], None]] = {
    "good": good,
    "500": lambda _, handler: answer(handler, b"{}", 500),
    "html": lambda _, handler: answer(handler, b"<html>sign in</html>", content_type="text/html"),
    "10 MB": huge,
    "slow": slow,
    "endless header": endless_header,
    "cut short": short,
    "empty": lambda _, handler: answer(handler, b'{"keys":[]}'),
    "private key": private,
    "gzip": lambda server, handler: answer(handler, server.document(), content_encoding="gzip"),
    "redirect elsewhere": lambda _, handler: answer(handler, b"", 302, location="https://attacker.example/jwks"),
    "redirect to plaintext": lambda _, handler: answer(handler, b"", 302, location="http://192.0.2.1/jwks"),
    "redirect to itself": lambda server, handler: answer(handler, b"", 302, location=server.uri),
    "not http": lambda _, handler: handler.wfile.write(b"SSH-2.0-x\r\n"),
    "nothing": lambda _, handler: None,
}
BROKEN = [mode for mode in MODES if mode != "good"]
