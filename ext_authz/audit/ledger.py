"""The Merkle tree of one log while it is written, and when its head is signed.

Law: the tree only grows, so whatever is signed is consistent with all that was signed before; a signer that fails
stops nothing. Non-goal: writing the checkpoint into the log (spool.py).
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from ext_authz.audit.checkpoint import ORIGIN, Checkpoint, Signed, Signer, SigningError, sign
from ext_authz.audit.merkle import Range, leaf_hash

EVERY_EVENTS: Final = 1000
EVERY_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1.0
JUMP_SECONDS: Final = 5.0
"""A clock that was set by more than that has its checkpoint at once, so that times say how old what is unsigned is."""


class Ledger:
    """The tree of one log, and its checkpoints: every 1,000 events, or every 10 seconds also when nothing happens.

    `add` and `add_all` are called by whoever appends, one at a time, in the order of `seq`; everything else by any
    thread, off the check path. `failures` counts what the signer refused; `error` is what it said last, "" once it
    signs again.
    """

    def __init__(
        self,
        log_id: str,
        signer: Signer,
        *,
        every_events: int = EVERY_EVENTS,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.origin = ORIGIN + log_id
        self.signer = signer
        self.signed = 0
        self.failures = 0
        self.error = ""
        self._every_events = every_events
        self._every_seconds = every_seconds
        self._clock = clock
        self._wall = wall
        self._ahead = wall() - clock()
        self._lock = threading.Lock()
        self._tree = Range()
        self._new: list[bytes] = []
        self._number = 0
        self._next = self._signed_at = clock()

    def add(self, event: bytes) -> None:
        """Take the next event: its exact bytes in the trail."""
        self._new.append(leaf_hash(event))

    def add_all(self, events: Sequence[bytes]) -> None:
        """Take the next events, as `add` does one."""
        # Hashed first: the list may be folded meanwhile, and is then never seen half extended.
        self._new += [leaf_hash(event) for event in events]

    @property
    def size(self) -> int:
        """How many events were added."""
        return self._tree.end + len(self._new)

    def age(self) -> float:
        """Return the seconds since the signer last signed, or since the start."""
        return max(0.0, self._clock() - self._signed_at)

    def tree(self) -> Range:
        """Return the tree of all events added so far (a copy)."""
        with self._lock:
            self._fold()
            return self._tree.copy()

    def due(self) -> bool:
        """Whether a checkpoint is to be made: enough events, enough time also when nothing happened, another time."""
        now = self._clock()
        if abs(self._wall() - now - self._ahead) > JUMP_SECONDS:
            return True
        return now >= self._next or (not self.error and self.size - self.signed >= self._every_events)

    def checkpoint(self) -> Signed:
        """Return a checkpoint of all that was added before this call, and begin to wait for the next one. Never raises.

        The caller records it behind those events, and makes no other before it did: sizes must not go backwards.
        A signer that fails is asked again after a second.
        """
        self._ahead = self._wall() - self._clock()
        tree = self.tree()
        head = Checkpoint(self.origin, tree.end, tree.root())
        try:
            note = sign(head, self.signer)
        except SigningError as error:
            self.failures += 1
            self.error, note = str(error), ""
        except Exception as error:  # noqa: BLE001  whatever a signer's library raises, the log goes on
            self.failures += 1
            self.error, note = type(error).__name__, ""
        else:
            self.error, self._signed_at = "", self._clock()
        with self._lock:
            number, self._number = self._number, self._number + 1
        self.signed = max(self.signed, tree.end)
        self._next = self._clock() + (RETRY_SECONDS if self.error else self._every_seconds)
        return Signed(head, number, tree.nodes, note, self.signer.key)

    def mark(self, tree: Range) -> Signed:
        """Return an unsigned checkpoint of a tree of this log: what a segment begins with. Asks no signer."""
        with self._lock:
            number, self._number = self._number, self._number + 1
        return Signed(Checkpoint(self.origin, tree.end, tree.root()), number, tree.nodes, "", self.signer.key)

    def _fold(self) -> None:
        new = self._new
        count = len(new)
        self._tree.extend(new[:count])
        del new[:count]
