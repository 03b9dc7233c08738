"""An HTTP receiver on loopback that can be told to fail in every way that a receiver fails."""

import gzip
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from ext_authz.demo.pki import Authority


@dataclass(frozen=True)
class Posted:
    """A request as it came, its body decompressed."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What is answered. `how`: whole, hang, drip, reset (without an answer), cut (in the body), huge, garbage."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    how: str = "whole"


Answer = Callable[[Posted], Reply]


class Receiver:
    """Asks `answer` what to say to each POST, and remembers all that were answered."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Posted] = []
        self._tls = tls
        self._stopping = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listen, on the port of before if there was one."""
        server = _Server(("127.0.0.1", self.port), self._handler())
        server.tls = self._tls
        self.port = server.server_address[1]
        self._server = server
        self._stopping = threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Stop listening and break every connection."""
        self._stopping.set()
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                length = self.headers["content-length"]
                body = _chunks(self.rfile) if length is None else self.rfile.read(int(length))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                posted = Posted(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                reply = owner.answer(posted)
                owner.requests.append(posted)
                try:
                    owner._reply(self, reply)
                except OSError:
                    self.close_connection = True

        return Handler

    def _reply(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        stopping = self._stopping
        if reply.how == "hang":
            stopping.wait(60)
        if reply.how in ("hang", "reset"):
            _reset(handler)
            return
        if reply.how == "garbage":
            handler.wfile.write(b"SSH-2.0-x\r\n\r\n")
            handler.close_connection = True
            return
        body = b"x" * (20 * 2**20) if reply.how == "huge" else reply.body
        handler.send_response(reply.status)
        for name, value in {"content-length": str(len(body)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if reply.how == "drip":
            for byte in body:
                handler.wfile.write(bytes([byte]))
                if stopping.wait(0.1):
                    return
        elif reply.how == "cut":
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            _reset(handler)
        else:
            handler.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    tls: ssl.SSLContext | None = None

    def __init__(self, *arguments: Any) -> None:
        self.connections: list[socket.socket] = []
        super().__init__(*arguments)

    def get_request(self) -> Any:
        connection, peer = self.socket.accept()
        if self.tls is not None:
            connection.settimeout(5)
            try:
                connection = self.tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                raise
            connection.settimeout(None)
        self.connections.append(connection)
        return connection, peer

    def handle_error(self, *_: Any) -> None:
        pass

    def cut(self) -> None:
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def _chunks(stream: BinaryIO) -> bytes:
    """Read a chunked body without trailers (RFC 9112 7.1)."""
    body = b""
    while size := int(stream.readline().partition(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


@contextmanager
def receiving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(answer, tls)
    try:
        yield receiver
    finally:
        receiver.down()


def server_context(folder: Path) -> ssl.SSLContext:
    """Make an authority (`folder/ca.pem`) and the context of a server that it says is 127.0.0.1."""
    pair = Authority(folder).server("receiver", hosts=("receiver.example",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.private_key)
    return context
