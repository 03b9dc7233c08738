"""The fake beside the shared log in Redis, and a Redis of one's own."""

import contextlib
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import debian
import redis

from ext_authz.state import StoreError
from ext_authz.state.replica import Row


class MemoryLog:
    """Rows in a list. `fail` makes every call raise, as an outage does; `lose` forgets the end, as a restart may."""

    def __init__(self) -> None:
        self.refused = 0
        self.fail = ""
        self._name = uuid.uuid4().hex
        self._rows: list[Row] = []

    def name(self) -> str:
        self._check()
        return self._name

    def renamed(self, known: str) -> str:
        self._check()
        if self._name == known:
            self._name = uuid.uuid4().hex
        return self._name

    def at(self, place: int) -> str:
        self._check()
        return str(self._rows[place - 1].origin) if 0 < place <= len(self._rows) else ""

    def give(self, log: str, rows: Sequence[Row]) -> int | None:
        self._check()
        if log != self._name:
            return None
        known = {row.origin for row in self._rows}
        new = [row for row in rows if row.origin not in known]
        self._rows += new
        return len(new)

    def take(self, after: int, limit: int, wait_ms: int) -> list[tuple[int, Row | None]]:
        self._check()
        return [(after + 1 + index, row) for index, row in enumerate(self._rows[after : after + limit])]

    def close(self) -> None:
        """Nothing to let go of."""

    def lose(self, kept: int) -> None:
        del self._rows[kept:]

    def forget(self) -> None:
        self._rows, self._name = [], uuid.uuid4().hex

    def _check(self) -> None:
        if self.fail:
            raise StoreError(self.fail)


class RedisServer:
    """redis-server on a free loopback port; `kill` and `start` again on the same one, with what it had saved."""

    def __init__(self, folder: Path) -> None:
        self._program, self._folder = debian.find("redis-server"), folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self._program.path, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        self._process = subprocess.Popen(
            [*command, "--appendonly", "yes", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._program.environment,
        )
        for _ in range(400):
            try:
                with redis.Redis(port=self.port) as client:
                    client.ping()
            except redis.RedisError:
                time.sleep(0.025)
            else:
                return
        raise RuntimeError("redis-server did not start")

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def redis_if_any(folder: Path) -> Iterator[RedisServer | None]:
    """Start a Redis that keeps its files in `folder`, and end it; None where there is none to be had."""
    try:
        server = RedisServer(folder)
    except debian.AbsentError:
        yield None
        return
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def needed_redis(folder: Path) -> Iterator[RedisServer]:
    """As `redis_if_any`, and the test is skipped where there is none. The folder is made."""
    debian.needed("redis-server")
    folder.mkdir(exist_ok=True)
    with redis_if_any(folder) as server:
        assert server is not None
        yield server
