"""pygrpc-native behind the transport seam: batches of raw bytes from HTTP/2 that runs outside the GIL.

Law: nothing blocks the dispatching thread, since everyone waits behind it.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from ext_authz.server.service import METHOD, Service
from ext_authz.server.transport import TOGETHER, TRACEPARENT, BindError, ListenOptions, answer, sockets
from ext_authz.server.transport.health import Health

BATCH = 4096
BACKLOG = 2048
"""Checks of one batch that are decided; those behind them would be answered too late and are shed."""

_SEVERAL = 4
"""Answers from which it pays to keep the I/O thread waiting until all are handed over."""
_IO_THREAD = "grpc-native-io"


class NativeTransport:
    """One NativeGrpcFront and one dispatching thread an address; health and reflection run on grpcio behind it."""

    name = "native"

    def __init__(self, service: Service, options: ListenOptions) -> None:
        self._service = service
        self._options = options
        self._health = Health()
        self._fronts: list[NativeGrpcFront] = []
        self._threads: list[threading.Thread] = []
        self._bound: list[str] = []
        self._fallback_dir = ""
        self._fallback: grpc.Server | None = None

    def start(self) -> tuple[str, ...]:
        """Bind and serve; return the bound addresses. Raises BindError."""
        fallback = self._start_fallback()
        for address in self._options.addresses:
            front = self._bind(address)
            front.set_fallback(fallback)
            front.start()
            self._fronts.append(front)
            unix = address.startswith("unix:")
            self._bound.append(address if unix else f"{address.rpartition(':')[0]}:{front.bound_port}")
        for number, front in enumerate(self._fronts):
            thread = threading.Thread(target=self._dispatch, args=(front,), name=f"check-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return tuple(self._bound)

    def set_serving(self, *, serving: bool) -> None:
        """Set what grpc.health.v1 answers."""
        self._health.set_serving(serving=serving)

    def stop(self, grace_seconds: float) -> None:
        """Answer what has arrived, for up to `grace_seconds`, then close."""
        self._health.set_serving(serving=False)
        deadline = time.monotonic() + grace_seconds
        quiet = threading.Event()
        while self._service.waiting and time.monotonic() < deadline:
            quiet.wait(0.01)
        # Envoy takes a NOT_SERVING endpoint out at its next health check; until then it is answered.
        for address in self._bound:
            sockets.remove(address)
        quiet.wait(min(0.05, max(0.0, deadline - time.monotonic())))
        for front in self._fronts:
            front.close()
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        if self._fallback is not None:
            self._fallback.stop(None)
        shutil.rmtree(self._fallback_dir, ignore_errors=True)

    def _bind(self, address: str) -> NativeGrpcFront:
        unix = address.startswith("unix:")
        if unix:
            sockets.prepare(address)
        try:
            with sockets.private_umask():
                front = NativeGrpcFront(
                    address,
                    [(METHOD, False)],
                    io_threads=1,
                    max_metadata_size=64 * 1024,
                    reuse_port=self._options.reuse_port,
                    # The one metadata value that it hands over; without it each call's own address stands there.
                    client_key_metadata=TRACEPARENT if self._options.traced is not None else None,
                )
        except (OSError, ValueError) as error:
            raise BindError(f"cannot listen on `{address}`: {error}") from None
        if unix:
            sockets.share(address, self._options.socket_group)
        return front

    def _start_fallback(self) -> str:
        self._fallback_dir = tempfile.mkdtemp(prefix="ext-authz-")
        path = str(Path(self._fallback_dir, "health.sock"))
        server = grpc.server(ThreadPoolExecutor(4, thread_name_prefix="health"))
        self._health.add_to(server)
        server.add_insecure_port(f"unix:{path}")
        server.start()
        self._fallback = server
        return path

    def _dispatch(self, front: NativeGrpcFront) -> None:
        limit = self._options.max_receive_bytes
        leaving = _Leaving()
        traced = self._options.traced
        while (events := front.recv_batch(BATCH)) is not None:
            calls = [
                (data if traced is None else traced(data, key), partial(front.respond, call_id))
                for kind, call_id, _, data, key in events
                if kind == EVENT_CALL and data is not None
            ]
            for start in range(0, min(len(calls), BACKLOG), TOGETHER):
                answer(self._service, calls[start : min(start + TOGETHER, BACKLOG)], limit, leaving)
            for _, respond in calls[BACKLOG:]:
                respond(self._service.overloaded())


class _Leaving:
    """While several answers leave, waking the I/O thread does not hand it our CPU (SCHED_BATCH of sched(7)).

    Each answer wakes that thread. Where it shares our CPU, it would take it each time, write one answer and sleep
    again. Outside it is scheduled as ever: other work on the machine is never put before it.
    """

    def __init__(self) -> None:
        self._threads: list[int] | None = None
        self._usual = os.sched_param(0)

    @contextlib.contextmanager
    def __call__(self, answers: int) -> Iterator[None]:
        if answers < _SEVERAL:
            yield
            return
        if self._threads is None:
            self._threads = _io_threads()
        self._schedule(os.SCHED_BATCH)
        try:
            yield
        finally:
            self._schedule(os.SCHED_OTHER)

    def _schedule(self, policy: int) -> None:
        for thread in self._threads or ():
            with contextlib.suppress(OSError):  # a sandbox that does not let us
                os.sched_setscheduler(thread, policy, self._usual)


def _io_threads() -> list[int]:
    """Return the threads that move bytes, where they are scheduled as threads usually are."""
    try:
        tasks = [
            task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text().startswith(_IO_THREAD)
        ]
        return [int(task.name) for task in tasks if os.sched_getscheduler(int(task.name)) == os.SCHED_OTHER]
    except OSError:
        return []
