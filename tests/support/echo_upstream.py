"""Upstreams that record what reached them: HTTP/1.1 by the standard library, HTTP/2 and gRPC by grpcio."""

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc


@dataclass(frozen=True)
class Seen:
    """One request as the upstream received it; names as they came, lower-cased, duplicates kept."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def names(self) -> set[str]:
        return {key for key, _ in self.headers}


@dataclass
class Upstream:
    """Where it listens (`host:port`) and what it saw."""

    address: str
    seen: list[Seen] = field(default_factory=list)

    def only(self) -> Seen:
        (one,) = self.seen
        return one


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    upstream: Upstream


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one segment per answer: no waiting for a delayed ACK
    server: _Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = tuple((name.lower(), value) for name, value in self.headers.items())
        self.server.upstream.seen.append(Seen(self.command, self.path, headers, body))
        data = json.dumps({"upstream": "http", "bytes": len(body)}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_HEAD = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def http_echo() -> Iterator[Upstream]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.upstream = Upstream(f"127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.upstream
        finally:
            server.shutdown()
            thread.join()


class _AnyMethod(grpc.GenericRpcHandler):
    """Answers every unary call with nothing, and every stream with one message per message."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def record(body: bytes) -> None:
            headers = tuple((key, str(value)) for key, value in details.invocation_metadata)
            self._upstream.seen.append(Seen("POST", details.method, headers, body))

        def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
            record(request)
            return b""

        def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for request in requests:
                record(request)
                yield b""

        if details.method.endswith("Stream" + "Infer"):
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


@contextlib.contextmanager
def grpc_echo() -> Iterator[Upstream]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 * 2**20)])
    port = server.add_insecure_port("127.0.0.1:0")
    upstream = Upstream(f"127.0.0.1:{port}")
    server.add_generic_rpc_handlers((_AnyMethod(upstream),))
    server.start()
    try:
        yield upstream
    finally:
        server.stop(None).wait()
