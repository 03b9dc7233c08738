"""A TCP relay on loopback that can swallow what passes, as a network does that is cut, or hand it on late."""

import contextlib
import socket
import threading
import time


class Relay:
    """Connections to `port` go to `target`. `cut`: nothing passes, and nobody is told; `delay`: seconds for each piece."""

    def __init__(self, target: int) -> None:
        self.cut = False
        self.delay = 0.0
        self.passed = 0
        self._target = target
        self._open = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._closed = False
        self.port = self._open.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        for each in (self._open, *self._ends):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._open.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                while self.cut and not self._closed:
                    time.sleep(0.05)
                time.sleep(self.delay)
                other.sendall(data)
                self.passed += 1
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
