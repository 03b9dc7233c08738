"""`ext-authz serve` as a real process tree, for tests that stop, kill and reload it."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
from wire_requests import read_reply

from ext_authz.audit.reader import Trail
from ext_authz.envelope.keys.file import FileKeys
from ext_authz.server.service import METHOD


def wait_until(holds: Callable[[], object], seconds: float = 15, what: str = "it") -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come within {seconds} s")
        time.sleep(0.02)


def cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of its own process with the configuration in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "ext_authz", *arguments, "-c", str(folder / "ext-authz.yaml")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


class Sidecar:
    """Starts at once; `ready()` waits for every listener's line. `prefix` is a program that runs it."""

    def __init__(
        self, configuration: Path, *, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.configuration = configuration
        self.folder = configuration.parent
        with (self.folder / "stderr.log").open("ab") as errors:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "ext_authz", "serve", "-c", str(configuration)],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            for line in out:
                self.lines.append(line.decode().rstrip("\n"))
                self._queue.put(self.lines[-1])
        self._queue.put(None)

    def ready(self, listeners: int = 1) -> "Sidecar":
        # The admin listener's line is the last one.
        wait_until(
            lambda: (
                (len(self.listening()) >= listeners and "(admin)" in self.lines[-1]) or self.process.poll() is not None
            ),
            60,
            "readiness",
        )
        assert self.process.poll() is None, self.stderr()
        return self

    def listening(self) -> list[str]:
        return [line for line in list(self.lines) if line.startswith("listening on ") and "(worker-" in line]

    def stderr(self) -> str:
        return (self.folder / "stderr.log").read_text()

    def children(self, word: str) -> list[int]:
        found = []
        with contextlib.suppress(OSError):
            for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                with contextlib.suppress(OSError):
                    if word in Path(f"/proc/{pid}/cmdline").read_text():
                        found.append(int(pid))
        return found

    def check(self, message: bytes, address: str, timeout: float = 5):
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            return read_reply(channel.unary_unary(METHOD)(message, timeout=timeout, wait_for_ready=True))

    def events(self) -> list[dict]:
        keyring = self.folder / "audit.key"
        trail = Trail([self.folder / "run"], lambda: FileKeys.load(keyring))
        return [entry.event for entry in trail.entries()]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
