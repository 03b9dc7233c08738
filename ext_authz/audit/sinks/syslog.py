"""RFC 5424 messages in the frames of RFC 5425 (octet counting), over TLS or plain TCP.

Law: syslog acknowledges nothing, so this is best effort: after a broken connection what was sent last is sent again,
and a connection is ended by close_notify and read to its end, since a plain close loses what the peer has not read.
"""

import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from ext_authz.audit.formats.reading import PRODUCT, event_code, kind, severity, text
from ext_authz.audit.sinks import Encode, Item, Refused, Retry
from ext_authz.audit.sinks.failures import failure
from ext_authz.audit.sinks.http_client import tls_problem
from ext_authz.audit.sinks.tls import client_context

_SEVERITIES: Final = {1: 6, 2: 5, 3: 3, 4: 2, 5: 1}
"""Ours to syslog's: informational, notice, error, critical, alert."""
_CLOSE_SECONDS: Final = 5.0


class SyslogSink:
    """Sends to HOST:PORT; `window` bytes of what was sent last are kept for after a broken connection."""

    best_effort = True

    def __init__(
        self,
        name: str,
        address: str,
        encode: Encode,
        *,
        facility: int,
        window: int,
        seconds: float,
        tls: bool,
        ca_file: str | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self.name = name
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._encode = encode
        self._facility = facility
        self._window = window
        self._seconds = seconds
        self._tls = tls
        self._ca_file = ca_file
        self._certificate = certificate
        self._hostname = _printable(socket.gethostname(), 255)
        self._sent: deque[bytes] = deque()
        self._sent_bytes = 0
        self._socket: socket.socket | None = None

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Send a frame for each item. Raises Retry, and Hold for a certificate that is not trusted."""
        frames = [self._frame(item) for item in items]
        try:
            if self._socket is None or self._is_over():
                self._drop()
                self._socket = self._connect()
                self._send(b"".join(self._sent))
            self._send(b"".join(frames))
        except ssl.SSLError as error:
            self._drop()
            raise tls_problem(error) from None
        except OSError as error:
            self._drop()
            raise Retry(failure(error)) from None
        self._remember(frames)
        return ()

    def close(self) -> None:
        """End the connection so that the peer reads all of it first."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        deadline = time.monotonic() + _CLOSE_SECONDS
        with contextlib.suppress(OSError, ValueError):
            connection.settimeout(_CLOSE_SECONDS)
            plain = connection.unwrap() if isinstance(connection, ssl.SSLSocket) else connection
            connection = plain
            plain.shutdown(socket.SHUT_WR)
            while time.monotonic() < deadline and plain.recv(4096):
                pass
        connection.close()

    def _connect(self) -> socket.socket:
        context = client_context(self._ca_file, self._certificate) if self._tls else None
        plain = socket.create_connection((self._host, self._port), self._seconds)
        if context is None:
            return plain
        try:
            return context.wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise

    def _send(self, data: bytes) -> None:
        if self._socket is not None and data:
            self._socket.settimeout(self._seconds)
            self._socket.sendall(data)

    def _is_over(self) -> bool:
        """Read what came (session tickets; syslog says nothing) and return whether the peer has ended the connection.

        Unread bytes would make a close a reset, which discards what the peer has not read yet.
        """
        if self._socket is None:
            return True
        self._socket.settimeout(0)
        try:
            return not self._socket.recv(4096)
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        except OSError:
            return True

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _remember(self, frames: Sequence[bytes]) -> None:
        self._sent.extend(frames)
        self._sent_bytes += sum(map(len, frames))
        while self._sent and self._sent_bytes > self._window:
            self._sent_bytes -= len(self._sent.popleft())

    def _frame(self, item: Item) -> bytes:
        event = item.event
        priority = self._facility * 8 + _SEVERITIES[severity(event)]
        stamp = text(event, "time")
        header = " ".join(
            (
                f"<{priority}>1",
                stamp if stamp and " " not in stamp and stamp.isascii() and stamp.isprintable() else "-",
                self._hostname,
                PRODUCT,
                _printable(item.log_id, 128),
                _printable(f"{kind(event)}.{event_code(event)}", 32),
                "-",
            )
        )
        message = header.encode() + b" " + self._encode(item)
        return b"%d " % len(message) + message


def _printable(value: str, length: int) -> str:
    """Return a header field of RFC 5424 6.2: PRINTUSASCII, or `-`."""
    return "".join(c for c in value if "!" <= c <= "~")[:length] or "-"
