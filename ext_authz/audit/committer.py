"""Group commit: one fdatasync for everybody who waits, and one a second for everything else.

Law: every callback is called exactly once, with True only after an fdatasync
that began after its `commit`, and by its deadline whatever the disk does.
Non-goal: order among callbacks.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

MAX_WAITING: Final = 1024
BACKGROUND_SECONDS: Final = 0.5
STOP_SECONDS: Final = 5.0
_EXPIRY_SECONDS: Final = 0.01

Callback = Callable[[bool], None]


class Log(Protocol):
    """What is committed: a Spool."""

    def sync(self) -> bool:
        """Bring everything appended so far to the disk; return whether it is there."""
        ...

    def check(self) -> None:
        """Look after the file, off the check path."""
        ...


class _Waiter:
    __slots__ = ("callback", "due")

    def __init__(self, callback: Callback, due: float) -> None:
        self.callback: Callback | None = callback
        self.due = due


class Committer:
    """Three daemon threads beside one spool: one waits for the disk, one for deadlines, one looks after the files.

    At most `max_waiting` callers are parked; further ones get False at once.
    """

    def __init__(
        self,
        log: Log,
        *,
        max_waiting: int = MAX_WAITING,
        background_seconds: float = BACKGROUND_SECONDS,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.commits = 0
        self.expired = 0
        self.errors = 0
        self._log = log
        self._max_waiting = max_waiting
        self._background = background_seconds
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._deadlines = threading.Condition(self._lock)
        self._arrived: list[_Waiter] = []
        self._parked: dict[_Waiter, None] = {}
        self._wakes_at = math.inf
        self._stopping = False
        self._stopped = False
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def waiting(self) -> int:
        """How many callers are parked."""
        return len(self._parked)

    def start(self) -> None:
        """Start the threads."""
        if self._threads:
            raise RuntimeError("the committer was started before")
        self._threads = [
            threading.Thread(target=self._commit_loop, name="audit-commit", daemon=True),
            threading.Thread(target=self._expire_loop, name="audit-deadline", daemon=True),
            # Apart from the commits: a look may have to wait for whoever signs checkpoints.
            threading.Thread(target=self._look_loop, name="audit-look", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def commit(self, callback: Callback, deadline_ns: int) -> None:
        """Call `callback(True)` once everything appended before this call is durable, or `callback(False)`.

        `deadline_ns` is the machine clock in Unix nanoseconds. Called on
        another thread, or on this one where nothing more can be parked.
        """
        due = time.monotonic() + (deadline_ns - self._clock_ns()) / 1e9
        waiter = _Waiter(callback, due)
        with self._lock:
            accepted = not self._stopping and len(self._parked) < self._max_waiting
            if accepted:
                self._parked[waiter] = None
                self._arrived.append(waiter)
                if len(self._arrived) == 1:
                    self._work.notify()
                if due < self._wakes_at:
                    self._deadlines.notify()
        if not accepted:
            self._settle([waiter], durable=False)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Commit once more, answer everybody who waits and end the threads; a hanging disk is left after `seconds`."""
        self._done.set()
        with self._lock:
            self._stopping = True
            self._work.notify_all()
        if self._threads:
            self._threads[0].join(seconds)
        with self._lock:
            left = list(self._parked)
            self._stopped = True
            self._deadlines.notify_all()
        self._settle(left, durable=False)
        for thread in self._threads[1:]:
            thread.join(seconds)

    def _look_loop(self) -> None:
        while not self._done.wait(self._background):
            try:
                self._log.check()
            except Exception:  # noqa: BLE001  as in _sync: the next look may go better
                self.errors += 1

    def _commit_loop(self) -> None:
        while True:
            with self._lock:
                if not self._arrived and not self._stopping:
                    self._work.wait(self._background)
                batch, self._arrived = self._arrived, []
                stopping = self._stopping
            durable = self._sync()
            self._settle(batch, durable=durable)
            if stopping:
                return

    def _sync(self) -> bool:
        try:
            durable = self._log.sync()
        except Exception:  # noqa: BLE001  a bug here must not leave callers waiting for ever
            self.errors += 1
            return False
        self.commits += 1
        return durable

    def _expire_loop(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                late = [waiter for waiter in self._parked if waiter.due <= now]
                if not late:
                    if self._stopped:
                        return
                    self._wakes_at = min((waiter.due for waiter in self._parked), default=math.inf)
                    pause = self._wakes_at - now
                    self._deadlines.wait(None if math.isinf(pause) else max(pause, _EXPIRY_SECONDS))
            if late:
                self.expired += len(late)
                self._settle(late, durable=False)

    def _settle(self, waiters: list[_Waiter], *, durable: bool) -> None:
        for waiter in waiters:
            with self._lock:
                self._parked.pop(waiter, None)
                callback, waiter.callback = waiter.callback, None
            if callback is not None:
                try:
                    callback(durable)
                except Exception:  # noqa: BLE001  one caller's broken connection is not the others' affair
                    self.errors += 1
