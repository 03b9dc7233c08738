"""NATS says in clear text whether TLS follows; somebody on the way can say that it does not."""

import socket
import threading

import pytest

from ext_authz.audit.formats import native
from ext_authz.audit.sinks import Hold, Item, Retry
from ext_authz.audit.sinks.nats import NatsSink

pytest.importorskip("nats")


class InTheMiddle:
    """Answers as a server without TLS does, and keeps what it is told."""

    def __init__(self, info: bytes) -> None:
        self.told = b""
        self._info = info
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(5)
            connection.sendall(b"INFO " + self._info + b"\r\n")
            while data := connection.recv(4096):
                self.told += data
                if b"PING" in data:
                    connection.sendall(b"PONG\r\n")

    def close(self) -> bytes:
        self._thread.join(5)
        self._listener.close()
        return self.told


@pytest.mark.parametrize("info", [b"{}", b'{"tls_required":false}', b'{"tls_available":true}'])
def test_a_server_that_does_not_ask_for_tls_is_told_nothing(info):
    server = InTheMiddle(info)
    url = f"tls://127.0.0.1:{server.port}"
    sink = NatsSink("n", "s", native, url=url, user="me", password="SECRET", seconds=5)
    with pytest.raises(Hold, match="TLS"):
        sink.deliver([Item(b'{"event_id":"a:1"}')])
    sink.close()
    assert server.close() == b""


def test_plaintext_that_was_asked_for_goes_on():
    server = InTheMiddle(b"{}")
    sink = NatsSink("n", "s", native, url=f"nats://127.0.0.1:{server.port}", user="me", password="SECRET", seconds=1)
    with pytest.raises((Retry, Hold)):
        sink.deliver([Item(b'{"event_id":"a:1"}')])
    sink.close()
    assert b"SECRET" in server.close()
