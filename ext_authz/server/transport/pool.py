"""A thread pool whose threads may park: while one waits for the disk, another takes its place.

Law: `active` threads work at once, never more, however many are parked; at
most `parked` may be. grpcio hands each call to an executor and cannot be
answered later, so a call that waits has to hold a thread.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Job = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class ParkingPool(Executor):
    """Threads are daemons: one that hangs with the disk does not hold up the end of the process."""

    def __init__(self, active: int, parked: int, name: str) -> None:
        self._active = active
        self._name = name
        self._parking = threading.BoundedSemaphore(parked)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._working = 0
        self._closed = False
        for _ in range(active):
            self._start()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run `fn` on one of the threads. Raises RuntimeError after shutdown."""
        if self._closed:
            raise RuntimeError("the pool is shut down")
        future: Future[_T] = Future()
        self._jobs.put((future, fn, args, kwargs))
        return future

    @contextlib.contextmanager
    def parked(self) -> Iterator[bool]:
        """Wait inside, on a thread of this pool, without taking a working thread's place; False: no room to park."""
        if not self._parking.acquire(blocking=False):
            yield False
            return
        try:
            with self._lock:
                self._working -= 1
            self._start()
            yield True
        finally:
            with self._lock:
                self._working += 1
            self._parking.release()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002
        """Take nothing more; the threads end when the queue is empty. Waits for nobody."""
        self._closed = True
        self._jobs.put(None)

    def _start(self) -> None:
        with self._lock:
            if self._working >= self._active:
                return
            self._working += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, fn, args, kwargs = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001  the future carries it to whoever asks
                    future.set_exception(error)
            del job, future, fn, args, kwargs
            with self._lock:
                if self._working > self._active:  # the thread it stood in for is back
                    self._working -= 1
                    return
        self._jobs.put(None)
