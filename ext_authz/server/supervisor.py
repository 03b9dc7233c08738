"""The parent: starts workers and the control process, restarts what dies, passes new snapshots on, drains.

Law: it holds the last good inputs and fetched keys and nothing else, so a worker
that is started again gets them whether the control process lives or not.
Non-goal: reading requests, files (after the start) or the trail.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

from ext_authz import config, wiring
from ext_authz.authn.remote import NOTHING_FETCHED, Fetched
from ext_authz.bundle.problems import BundleError
from ext_authz.config import Inputs
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.server import bundles, log
from ext_authz.server.link import Kind, Link, pair
from ext_authz.server.transport import BindError, sockets
from ext_authz.state import StoreError
from ext_authz.state.opening import open_replicator, open_store

START_SECONDS: Final = 60.0
BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STEADY_SECONDS: Final = 30.0
_CONTROL = "control"
# The sinks have five seconds (Exporter.stop); what comes behind them in the control process wants its own.
_EXIT_SECONDS: Final = 10.0


class StartError(Exception):
    """The sidecar cannot start, for a reason that the user can change."""


@dataclass(slots=True)
class _Child:
    """One process. `due` is when it is to be started again (monotonic seconds), 0 while it runs."""

    name: str
    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    link: Link | None = None
    ready: bool = False
    started: float = 0.0
    failures: int = 0
    due: float = 0.0
    lines: list[str] = field(default_factory=list)
    revision: bytes = b""


class Supervisor:
    """Runs until a signal ends it. `config_file` is read once here and again by the control process at reloads."""

    def __init__(self, config_file: Path, inputs: Inputs, kept: Fetched = NOTHING_FETCHED) -> None:
        self._inputs = inputs.to_bytes()
        self._keys = kept.to_bytes()
        settings = inputs.settings
        self._drain_seconds = float(settings.server.drain)
        self._stopping = False
        self._reload = False
        self._announced = False
        self._fatal = ""
        count = settings.server.worker_count()
        self._workers = [
            _Child(f"worker-{number}", ["ext_authz.server.worker", str(number)]) for number in range(count)
        ]
        self._control = _Child(_CONTROL, ["ext_authz.server.control", str(config_file)])
        self._children = [*self._workers, self._control]
        self._wake_read, self._wake_write = socket.socketpair()

    def run(self) -> int:
        """Start everything, watch over it until SIGTERM or SIGINT, and drain. Raises StartError."""
        self._catch_signals()
        for child in self._children:
            self._start(child)
        deadline = time.monotonic() + START_SECONDS
        while not self._stopping:
            self._turn()
            if self._fatal and not self._announced:
                self._end()
                raise StartError(self._fatal)
            if not self._announced and all(child.ready for child in self._children):
                self._announce()
            if not self._announced and time.monotonic() > deadline:
                self._end()
                raise StartError(f"the processes were not ready within {START_SECONDS:.0f} seconds")
        self._end()
        return 0

    def _announce(self) -> None:
        self._announced = True
        with contextlib.suppress(OSError):  # nobody reads it (any more); that is no reason not to serve
            for child in self._children:
                for line in child.lines:
                    sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def _turn(self) -> None:
        """Wait for something to happen, at most until the next restart is due, and deal with it."""
        now = time.monotonic()
        timeout = min([1.0, *(max(0.0, child.due - now) for child in self._children if child.due)])
        links = {child.link.fileno(): child for child in self._children if child.link is not None}
        for source in wait([self._wake_read.fileno(), *links], timeout):
            if source == self._wake_read.fileno():
                self._wake_read.recv(4096)
            elif isinstance(source, int):
                self._receive(links[source])
        if self._reload:
            self._reload = False
            if self._control.link is not None:
                self._control.link.post(Kind.RELOAD)
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child)
            elif child.due and time.monotonic() >= child.due:
                self._start(child)

    def _receive(self, child: _Child) -> None:
        message = child.link.receive() if child.link is not None else None
        if message is None:
            if child.link is not None:
                child.link.close()
            child.link = None
            return
        kind, payload = message
        if kind is Kind.READY:
            child.ready = True
            child.lines = payload.decode().splitlines()
        elif kind is Kind.FAILED:
            reason = payload.decode()
            if not self._announced and not self._fatal:
                self._fatal = reason  # it ends the start, and is told by whoever started us
            elif self._announced or reason != self._fatal:
                log.line(child.name, reason)
        elif kind is Kind.SNAPSHOT:
            self._inputs = payload
            for worker in self._workers:
                if worker.link is not None:
                    worker.link.post(Kind.SNAPSHOT, payload)
        elif kind is Kind.KEYS:
            self._keys = payload
            for worker in self._workers:
                if worker.link is not None:
                    worker.link.post(Kind.KEYS, payload)
        elif kind is Kind.WANTED:
            if self._control.link is not None:
                self._control.link.post(Kind.WANTED, payload)
        elif kind is Kind.QUESTION:
            if self._control.link is not None:
                self._control.link.post(Kind.QUESTION, payload)
        elif kind is Kind.ANSWER:
            for worker in self._workers:
                if worker.link is not None:
                    worker.link.post(Kind.ANSWER, payload)
        elif kind is Kind.ADOPTED:
            child.revision = payload
            self._tell_revision(child)

    def _tell_revision(self, worker: _Child) -> None:
        if self._control.link is not None:
            self._control.link.post(Kind.ADOPTED, worker.name.encode() + b" " + worker.revision)

    def _start(self, child: _Child) -> None:
        link, descriptor = pair()
        # A terminal's Ctrl-C reaches the whole process group; children ignore it from their first moment.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        module, *arguments = child.arguments
        try:
            child.process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                [sys.executable, "-m", module, str(descriptor), *arguments],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            os.close(descriptor)
        child.link, child.started, child.due = link, time.monotonic(), 0.0
        # Keys first: a worker must not refuse tokens for want of what is here.
        link.post(Kind.KEYS, self._keys)
        link.post(Kind.SNAPSHOT, self._inputs)
        if child is self._control:
            for worker in self._workers:
                self._tell_revision(worker)

    def _ended(self, child: _Child) -> None:
        process = child.process
        assert process is not None  # noqa: S101  only running children end
        while child.link is not None and wait([child.link.fileno()], 0):
            self._receive(child)
        if child.link is not None:
            child.link.close()
        child.process, child.link, child.ready = None, None, False
        if child is not self._control:
            child.revision = b""
            self._tell_revision(child)
        if time.monotonic() - child.started > STEADY_SECONDS:
            child.failures = 0
        pause = BACKOFF_SECONDS[min(child.failures, len(BACKOFF_SECONDS) - 1)]
        child.failures += 1
        child.due = time.monotonic() + pause
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        log.line("supervisor", f"{child.name} ended ({how}); starting it again in {pause} s", level="error")
        if not self._announced and child is not self._control and child.failures >= len(BACKOFF_SECONDS):
            self._fatal = self._fatal or f"{child.name} ended {child.failures} times before it was ready ({how})"

    def _end(self) -> None:
        """Drain the workers, then let the control process deliver what they wrote."""
        for children, seconds in ((self._workers, self._drain_seconds + 2), ([self._control], _EXIT_SECONDS)):
            for child in children:
                if child.link is not None:
                    child.link.post(Kind.DRAIN)
            deadline = time.monotonic() + seconds
            for child in children:
                if child.process is None:
                    continue
                try:
                    child.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    log.line("supervisor", f"{child.name} did not end in time and is killed", level="error")
                    child.process.kill()
                    child.process.wait()

    def _catch_signals(self) -> None:
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)

        def stop(_number: int, _frame: object) -> None:
            self._stopping = True

        def reload(_number: int, _frame: object) -> None:
            self._reload = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)


def serve(config_file: Path) -> int:
    """Run the sidecar until a signal ends it.

    Raises DocumentError for mistakes in what the user wrote, StartError for
    an address in use, a run_dir in use and the like.
    """
    try:
        bundles.ensure(config_file, os.environ)
    except BundleError as error:
        raise StartError(f"no bundle to begin with ({error.problem}): {error}") from None
    inputs, _ = wiring.load(config_file, os.environ)
    settings = inputs.settings
    log.use(settings.log.format)
    config.prepare_run_dir(settings.run_dir)
    with (settings.run_dir / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(f"`run_dir`: `{settings.run_dir}` is in use by another ext-authz") from None
        try:
            for address in (*settings.server.addresses(), settings.admin.listen):
                sockets.probe(address)
        except BindError as error:
            raise StartError(str(error)) from None
        try:
            warnings = wiring.trail_keys(inputs, os.environ).prepare()
        except KeyUnavailableError as error:
            raise StartError(f"audit trail: {error}") from None
        for warning in warnings:
            log.line("supervisor", f"warning: {warning}", level="warning")
        try:
            open_store(settings.state, settings.run_dir, create=True).close()
            open_replicator(settings.state, settings.run_dir)
        except StoreError as error:
            raise StartError(str(error)) from None
        return Supervisor(config_file, inputs, config.kept_keys(settings.run_dir)).run()
