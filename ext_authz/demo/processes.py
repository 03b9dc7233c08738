"""Child processes that end with the one that started them, however it ends.

Law: each child leads its own process group; `stop` ends the whole group, and
the kernel ends the child if we are killed (prctl(2), PR_SET_PDEATHSIG).
Non-goal: restarting anything.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# Runs before the program itself: PR_SET_PDEATHSIG (1) survives execve, and a parent that is gone already is noticed.
_PRELUDE: Final = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 15)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)
_TAIL_BYTES: Final = 4096
_POLL_SECONDS: Final = 0.02


class StartError(Exception):
    """A process did not become ready; the message holds the end of its log."""


@dataclass(slots=True)
class Child:
    """One running program and the file that holds its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """Return the end of the log."""
        try:
            return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Poll `ready` until it holds; OSError means "not yet". Raises StartError on exit or `timeout` (s)."""
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError):
                if ready():
                    return
            status = self.process.poll()
            if status is not None:
                raise StartError(f"{self.name} ended with status {status} before it was ready\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} was not ready within {timeout:.0f} s (log: {self.log})\n{self.tail()}")
            time.sleep(_POLL_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self, timeout: float = 5.0) -> int:
        """End the process group: SIGTERM to the leader, then SIGKILL to what is left. Returns the exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.terminate()
            deadline = time.monotonic() + timeout
            while not self._ended() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            # The leader is not reaped yet, so its number cannot be another group's.
            self.signal(signal.SIGKILL)
        return self.process.wait()

    def _ended(self) -> bool:
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Processes:
    """The children of one run; leaving the `with` block ends them, last started first."""

    def __init__(self, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = logs
        self.children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> Child:
        """Start `command` (an absolute program path and its arguments) with its output in `logs/NAME.log`."""
        log = self.logs / f"{name}.log"
        arguments = [sys.executable, "-I", "-S", "-c", _PRELUDE, str(os.getpid()), *command]
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  our own command line, no shell
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else {**os.environ, **environment},
                cwd=directory,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def stop(self) -> None:
        """End every child, last started first; an exception on the way (Ctrl-C again) waits until all have ended."""
        interruption: BaseException | None = None
        while self.children:
            child = self.children.pop()
            try:
                child.stop()
            except BaseException as error:  # noqa: BLE001  raised again below
                child.signal(signal.SIGKILL)
                interruption = error
        if interruption is not None:
            raise interruption


def free_ports(count: int) -> list[int]:
    """Return TCP ports on 127.0.0.1 that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
