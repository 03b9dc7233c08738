"""Connections of the operators' listener: bounded in number and in time, whoever opens them.

Law: a connection over the limit takes the place of the oldest idle one, so that a stranger holds up no probe.
Non-goal: HTTP (admin.py).
"""

import contextlib
import io
import os
import socket
import socketserver
import ssl
import threading
import time
from socketserver import BaseRequestHandler
from typing import Any, Final

from ext_authz.server.admin_tls import say_goodbye
from ext_authz.server.transport import sockets

MAX_CONNECTIONS: Final = 32
SOCKET_MODE: Final = 0o600
_BACKLOG: Final = 64
_EVICTION_SECONDS: Final = 0.5
_LINGER_SECONDS: Final = 0.2
_LINGER_READS: Final = 64


def bind_unix(server: "BoundedServer", listen: str) -> None:
    """Bind a server to the socket of `unix:PATH`, for its owner alone. Raises OSError, BindError."""
    sockets.prepare(listen)
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        server.bind(listen.removeprefix("unix:"))
    finally:
        os.umask(before)


class BoundedServer(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """Bounded: a connection over MAX_CONNECTIONS takes the place of the oldest that is not being answered.

    So whoever only opens connections holds up no probe. Where all are being answered, the new one is closed.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[BaseRequestHandler]) -> None:
        super().__init__(("", 0), handler)
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: dict[socket.socket, None] = {}
        self._idle_lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.port = 0

    def bind(self, address: str | tuple[str, int]) -> None:
        """Listen at a path or at (host, port). Raises OSError."""
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
        """Return the descriptor, for select."""
        return self._listening().fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept one connection."""
        return self._listening().accept()

    def server_close(self) -> None:
        """Stop listening."""
        super().server_close()
        if self._socket is not None:
            self._socket.close()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  socketserver's signature
        """Take a connection in, or close it where there is no room."""
        if not self._slots.acquire(blocking=False) and not (
            self._evict() and self._slots.acquire(timeout=_EVICTION_SECONDS)
        ):
            request.close()
            return
        self.waiting(request)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.answering(request)
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer it, then make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.answering(request)
            self._slots.release()

    def answering(self, request: socket.socket) -> None:
        """Let a connection be: its request is here."""
        with self._idle_lock:
            self._idle.pop(request, None)

    def waiting(self, request: socket.socket) -> None:
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
                # Not SSLSocket's own, which would have its thread go on in the clear until the socket is shut.
                socket.socket.shutdown(oldest, socket.SHUT_RDWR)
        return True

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        """Close, but first read what is still coming: the kernel drops an answer that is overtaken by a reset."""
        self.waiting(request)
        if isinstance(request, ssl.SSLSocket):
            say_goodbye(request, _LINGER_SECONDS)
        try:
            socket.socket.shutdown(request, socket.SHUT_WR)
            request.settimeout(_LINGER_SECONDS)
            for _ in range(_LINGER_READS):
                if not socket.socket.recv(request, 65536):
                    break
        except OSError:
            pass
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Say nothing: the other side went away or was too slow. A handler's own failure is answered and logged."""

    def _listening(self) -> socket.socket:
        assert self._socket is not None  # noqa: S101  bound before it serves
        return self._socket


class TooLongError(Exception):
    """More came than may be read."""


class TimedReader(io.RawIOBase):
    """Reads a socket until a deadline for the whole request, however slowly it drips in, and at most `most` bytes."""

    def __init__(self, connection: socket.socket, seconds: float, most: int) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds
        self._left = most

    def allow(self, more: int) -> None:
        """Let so many bytes more be read."""
        self._left += more

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        """Read what is there before the deadline. Raises TimeoutError, TooLongError."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        if not self._left:
            raise TooLongError
        read = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= read
        return read
