"""Messages between the supervisor and its children over a socket pair: one kind byte, then the payload.

Law: no pickle; a closed link means the other side is gone.
"""

import os
import queue
import socket
import threading
from enum import Enum
from multiprocessing.connection import Connection


class Kind(bytes, Enum):
    """What a message is."""

    SNAPSHOT = b"S"  # inputs to build a snapshot from: control → supervisor → workers
    DRAIN = b"D"  # finish and exit
    RELOAD = b"R"  # read the files again: supervisor → control
    READY = b"r"  # lines to print, joined by \n: worker → supervisor
    ADOPTED = b"a"  # the revision now in force: worker → supervisor → control
    KEYS = b"K"  # fetched keys (authn.remote.Fetched): control → supervisor → workers, and to who is started again
    WANTED = b"w"  # a JSON list of issuer and key id to look for: worker → supervisor → control
    QUESTION = b"q"  # a JSON list of issuer, key and token to ask the issuer about: worker → supervisor → control
    ANSWER = b"A"  # what the issuer said (authn.asked.Answer): control → supervisor → workers
    FAILED = b"f"  # why the child cannot go on: → supervisor


class Link:
    """One end of the pair."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._outbox: queue.SimpleQueue[tuple[Kind, bytes] | None] | None = None

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self._connection.fileno()

    def send(self, kind: Kind, payload: bytes = b"") -> bool:
        """Send one message, from any thread; False when the other side is gone."""
        try:
            with self._sending:
                self._connection.send_bytes(kind.value + payload)
        except (OSError, TypeError):  # TypeError: closed by another thread in the middle of the write
            return False
        return True

    def post(self, kind: Kind, payload: bytes = b"") -> None:
        """Send without waiting: a stopped process at the other end holds up a thread, not the caller."""
        if self._outbox is None:
            self._outbox = queue.SimpleQueue()
            threading.Thread(target=self._deliver, args=(self._outbox,), name="link-out", daemon=True).start()
        self._outbox.put((kind, payload))

    def _deliver(self, outbox: "queue.SimpleQueue[tuple[Kind, bytes] | None]") -> None:
        while (message := outbox.get()) is not None and self.send(*message):
            pass

    def receive(self) -> tuple[Kind, bytes] | None:
        """Wait for one message; None when the other side is gone."""
        try:
            message = self._connection.recv_bytes()
        except (EOFError, OSError, TypeError):
            return None
        return Kind(message[:1]), message[1:]

    def close(self) -> None:
        """Close this end."""
        if self._outbox is not None:
            self._outbox.put(None)
        self._connection.close()


def pair() -> tuple[Link, int]:
    """Return our end and the descriptor of the child's end, to be passed on and then closed here."""
    ours, theirs = socket.socketpair()
    return Link(Connection(ours.detach())), theirs.detach()


def adopt(descriptor: int) -> Link:
    """Return the link over an inherited descriptor."""
    os.set_inheritable(descriptor, False)
    return Link(Connection(descriptor))
