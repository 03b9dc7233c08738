"""One sidecar and one Envoy before any upstreams, with routes and policies of the test's own; SDKs reach it by name."""

import contextlib
import json
import socket
import ssl
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
from envoy_process import AUDIENCE, ISSUER, Files, files

from ext_authz.demo import envoy
from ext_authz.demo.envoy import Envoy
from ext_authz.demo.processes import Processes
from ext_authz.demo.run import start_sidecar
from ext_authz.envoy_config.generate import generate
from ext_authz.envoy_config.settings import EnvoySettings, Listener, Upstream

ROOT = Path(__file__).parents[2]
LISTINGS = ROOT / "envoy" / "listings.lua"
MAX_BYTES = 1024 * 1024
CONFIG = f"""\
server:
  listen: ["unix:{{sockets}}/{{{{worker}}}}.sock"]
  max_request_bytes: {MAX_BYTES}
  drain: 1s
admin: {{{{listen: "unix:{{sockets}}/sidecar.sock"}}}}
run_dir: run
identity:
  jwt:
    - {{{{issuer: "{ISSUER}", audiences: [{AUDIENCE}], jwks_file: jwks.json, algorithms: [ES256], claims: {{{{roles: roles}}}}}}}}
  api_keys: {{{{header: x-api-key, file: api-keys.yaml}}}}
resources: {{{{files: [resources.yaml]}}}}
policies: {{{{files: [policies.yaml]}}}}
audit: {{{{sinks: [{{{{type: file, path: events.jsonl}}}}]}}}}
"""


@dataclass
class TrafficEdge:
    """What runs; `names` resolve to it in this process while `resolving` is entered."""

    envoy: Envoy
    files: Files
    names: frozenset[str]

    @property
    def port(self) -> int:
        return self.envoy.ports["tokens"]

    @property
    def ca(self) -> str:
        return str(self.files.authority.certificate)

    def url(self, host: str) -> str:
        return f"https://{host}:{self.port}"

    def token(self, role: str) -> str:
        return self.files.issuer.token("alice", [role])

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    def last(self) -> dict[str, Any]:
        """Return what the sidecar said of the newest request, from Envoy's access log, once it is quiet."""
        entries = self.envoy.entries(1, 5)
        assert entries, "Envoy logged no request"
        while more := self.envoy.entries(1, 0.1):
            entries = more
        said: dict[str, Any] = entries[-1]["authz"]
        return said

    def forget(self) -> None:
        """Read the log to its end."""
        while self.envoy.entries(1, 0.05):
            pass

    @contextlib.contextmanager
    def afresh(self) -> Iterator[None]:
        """As `resolving`, with nothing in the log."""
        self.forget()
        with self.resolving():
            yield

    @contextlib.contextmanager
    def resolving(self) -> Iterator[None]:
        """Let the upstreams' names mean loopback to every client library in this process."""
        real = socket.getaddrinfo

        def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            return real("127.0.0.1" if name in self.names else host, *rest, **more)

        socket.getaddrinfo = getaddrinfo
        try:
            yield
        finally:
            socket.getaddrinfo = real


@contextlib.contextmanager
def traffic_edge(
    directory: Path,
    routes: str,
    policies: str,
    upstreams: tuple[Upstream, ...],
    *,
    listings: bool = True,
    filters: str = "",
    namespaces: tuple[str, ...] = (),
) -> Iterator[TrafficEdge]:
    """Start both; callers bring tokens, so one listener without client certificates is enough.

    `filters` (YAML list items) stand before the check, `namespaces` of their metadata are shown to it.
    """
    with files(directory) as made, Processes(directory / "logs") as processes:
        (directory / "resources.yaml").write_text(routes)
        (directory / "policies.yaml").write_text(policies)
        made.config.write_text(CONFIG.format(sockets=made.sockets))
        start_sidecar(processes, made.config, [made.sockets / "0.sock"])
        names = frozenset(host for upstream in upstreams for host in upstream.hosts)
        server = made.authority.server("traffic", sorted(names))
        settings = EnvoySettings(
            listeners=(Listener(name="tokens", address="127.0.0.1:0", require_client_certificate=False),),
            upstreams=upstreams,
            authz=(f"unix:{made.sockets}/0.sock",),
            authz_timeout="5s",
            admin=f"unix:{made.sockets}/envoy.sock",
            certificate=str(server.certificate),
            private_key=str(server.private_key),
            client_ca=str(made.authority.certificate),
            access_log=str(directory / "envoy.jsonl"),
            max_request_bytes=MAX_BYTES,
            listings_filter=str(LISTINGS) if listings else "",
            metadata_namespaces=namespaces,
        )
        with mock.patch.object(envoy, "generate", lambda made: with_filters(generate(made), filters)):
            started = envoy.start(processes, directory, settings)
        yield TrafficEdge(started, made, names)


def with_filters(written: str, filters: str) -> str:
    """Put further HTTP filters before all others."""
    head, mark, tail = written.partition("http_filters:\n")
    column = " " * (len(head) - len(head.rstrip(" ")))
    return head + mark + textwrap.indent(textwrap.dedent(filters), column) + tail


def healthy(port: int) -> bool:
    """Whether a server on this machine says that it is."""
    with httpx.Client(trust_env=False, timeout=2) as client:
        try:
            return client.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx.TransportError:
            return False


@dataclass(frozen=True)
class Asked:
    """One request as the fake server received it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, dict[str, str], bytes]


@dataclass
class FakeServer:
    """An HTTP/1.1 server that answers by `answer` and remembers what it was asked."""

    answer: Callable[[Asked], Answer]
    asked: list[Asked] = field(default_factory=list)
    address: str = ""


@contextlib.contextmanager
def fake_server(answer: Callable[[Asked], Answer]) -> Iterator[FakeServer]:
    made = FakeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("content-length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, self._body())
            made.asked.append(asked)
            status, more, data = made.answer(asked)
            self.send_response(status)
            for name, value in {"content-type": "application/json", **more}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        made.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
