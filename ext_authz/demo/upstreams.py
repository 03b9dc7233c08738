"""A data lake of three small data sets that tells every caller which headers reached it.

Law: it does no authorization of its own, so it must be reachable by Envoy
alone: a Unix socket (0600) here, a private network in docker-compose.yml.
Non-goal: HTTP/2, writing.
"""

import contextlib
import json
import os
import socketserver
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

DATASETS: Final = {
    "clicks": [{"page": "/", "n": 41}, {"page": "/pricing", "n": 7}],
    "features": [{"f0": 0.1, "f1": -1.2}],
    "customer-pii": [{"name": "Ada", "iban": "DE00"}],
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment
    server_version = "lake"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer `/healthz` and `/datasets/NAME/…`; everything else is 404."""
        steps = [unquote(step) for step in urlsplit(self.path).path.split("/")[1:]]
        if steps == ["healthz"]:
            self._answer(200, {"status": "ok"})
        elif len(steps) > 1 and steps[0] == "datasets" and steps[1] in DATASETS:
            self._answer(200, {"dataset": steps[1], "rows": DATASETS[steps[1]], "received": self._received()})
        else:
            self._answer(404, {"error": "no such data set"})

    def _received(self) -> list[tuple[str, str]]:
        return [(name.lower(), value) for name, value in self.headers.items()]

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        """Return "": the other end of a Unix socket has no address."""
        return ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Stay quiet: Envoy logs accesses."""


class _SocketServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    allow_reuse_address = True


@contextlib.contextmanager
def data_lake(path: Path) -> Iterator[None]:
    """Serve on the Unix socket `path` from a thread of this process."""
    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        server = _SocketServer(str(path), _Handler)
    finally:
        os.umask(mask)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="lake", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        path.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m ext_authz.demo.upstreams HOST PORT`: for a container whose network only Envoy shares."""
    host, port = list(sys.argv[1:] if arguments is None else arguments)
    ThreadingHTTPServer((host, int(port)), _Handler).serve_forever()


if __name__ == "__main__":
    main()
