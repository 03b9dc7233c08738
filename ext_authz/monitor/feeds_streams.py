"""Events of a whole fleet for one monitor: JSON lines from a pipe, streams that Redis sinks fill.

Law: as feeds.py; what is no event is passed over and counted. Non-goal: believing them. Whoever can write there can
make anybody look guilty, so who may is the receiver's to say.
"""

import os
import re
import select
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from ext_authz.audit.sinks.failures import failure

WAIT_SECONDS: Final = 0.2
READ_BYTES: Final = 1 << 18
MAX_LINE_BYTES: Final = 1 << 20
PAGE: Final = 1000
STREAMS_AT_ONCE: Final = 200
_LOG: Final = re.compile(rb"[!-~]{1,128}\Z")


class PipeFeed:
    """Lines of a file descriptor, to its end."""

    begins_again = False
    waits = False

    def __init__(self, fd: int = 0) -> None:
        self.ended = False
        self.damaged = 0
        self._fd = fd
        self._rest = b""
        self._skipping = False

    def resume(self, place: Any) -> None:  # noqa: ANN401
        """Nothing: a pipe gives what it gives."""

    def place(self) -> None:
        """Nothing to remember."""

    def remembered(self) -> None:
        """Nothing: what was read is gone from the pipe."""

    def entries(self) -> Iterator[Mapping[str, Any]]:
        """Return the events of the lines that are there; wait a little for the first."""
        wait = WAIT_SECONDS
        while not self.ended and select.select([self._fd], [], [], wait)[0]:
            wait = 0.0
            data = os.read(self._fd, READ_BYTES)
            self.ended = not data
            *lines, self._rest = (self._rest + data).split(b"\n")
            if self.ended and self._rest:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                if self._skipping:
                    self._skipping = False
                    continue
                event = event_of(line)
                if event is not None:
                    yield event
                elif line.strip():
                    self.damaged += 1
            if len(self._rest) > MAX_LINE_BYTES:
                self._rest, self._skipping = b"", True
                self.damaged += 1


class RedisFeed:
    """The streams `STREAM:LOG` that `audit.sinks` of type `redis` fill, in native format."""

    ended = False
    begins_again = False
    waits = False

    def __init__(
        self, url: str, *, username: str | None = None, password: str | None = None, ca_file: str | None = None
    ) -> None:
        """`url` is `rediss://HOST:PORT/DB?stream=NAME`. Raises ValueError: no such URL, or no library."""
        try:
            import redis
        except ImportError:
            raise ValueError("this needs the extra `redis`: `pip install 'ext-authz[redis]'`") from None
        self._library: Any = redis
        parts = urlsplit(url)
        name, _, value = parts.query.partition("=")
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or name != "stream" or not value:
            raise ValueError("a stream is `rediss://HOST:PORT/DB?stream=NAME`")
        if parts.username or parts.password:
            raise ValueError("a URL here holds no credentials: they are taken from the environment")
        self._stream = value
        self._options: dict[str, Any] = {
            "host": parts.hostname,
            "port": parts.port or 6379,
            "db": int(parts.path.strip("/") or 0),
            "username": username,
            "password": password,
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "client_name": "ext-authz-monitor",
        }
        if parts.scheme == "rediss":
            self._options |= {
                "ssl": True,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
                "ssl_ca_certs": ca_file,
            }
        self.damaged = 0
        self._client: Any = None
        self._at: dict[str, str] = {}
        self._odd = 0
        """Names among those of logs that are no log's, when last looked."""

    def resume(self, place: Any) -> None:  # noqa: ANN401
        """Go on behind the entry of each stream that was read last."""
        if isinstance(place, dict):
            self._at = {str(log): str(at) for log, at in place.items()}

    def place(self) -> dict[str, str]:
        """Return, by log, the id of the last entry read."""
        return dict(self._at)

    def remembered(self) -> None:
        """Nothing: a stream keeps what it has."""

    def entries(self) -> Iterator[Mapping[str, Any]]:
        """Return the events that came since; of each page in order of time. Raises OSError."""
        try:
            yield from self._entries()
        except self._library.exceptions.RedisError as error:
            self._client = None
            raise OSError(f"the stream cannot be read: {failure(error)}") from None

    def _entries(self) -> Iterator[Mapping[str, Any]]:
        client = self._client = self._client or self._library.Redis(**self._options)
        names = client.smembers(f"{self._stream}:logs")
        logs = sorted(each.decode() for each in names if _LOG.match(each))
        self.damaged += len(names) - len(logs) - self._odd
        self._odd = len(names) - len(logs)
        for begin in range(0, len(logs), STREAMS_AT_ONCE):
            waiting = logs[begin : begin + STREAMS_AT_ONCE]
            while waiting:
                asked = {f"{self._stream}:{log}": self._at.get(log, "0-0") for log in waiting}
                pages = self._pages(client, asked)
                found, waiting = [], []
                for key, page in pages:
                    log = key.decode()[len(self._stream) + 1 :]
                    if len(page) == PAGE:
                        waiting.append(log)
                    for number, fields in page:
                        found.append((log, number.decode(), event_of(fields.get(b"event", b""))))
                found.sort(key=lambda each: str(each[2].get("time", "")) if each[2] else "")
                for _, _, event in found:
                    if event is not None:
                        yield event
                    else:
                        self.damaged += 1
                # Behind a page only once all of it was taken.
                for key, page in pages:
                    self._at[key.decode()[len(self._stream) + 1 :]] = page[-1][0].decode()

    def _pages(self, client: Any, asked: dict[str, str]) -> list[Any]:  # noqa: ANN401
        """Read on; what one sidecar put in the place of its stream keeps no other's events from being read."""
        try:
            return list(client.xread(asked, count=PAGE) or [])
        except self._library.exceptions.ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
        if len(asked) == 1:
            self.damaged += 1
            return []
        return [page for key, at in asked.items() for page in self._pages(client, {key: at})]


def event_of(line: bytes) -> dict[str, Any] | None:
    """Return the event that a line is, None for what is none."""
    try:
        event = orjson.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
