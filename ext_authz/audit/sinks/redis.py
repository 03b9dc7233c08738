"""Redis Streams: one stream for each log, every event under an id made of its place in the log.

Law: the server refuses an id that is not above the last, so an event stands in its stream once, in order; a batch is
one transaction, so no later event is there without the earlier. Non-goal: trimming. Source: Redis, XADD and MULTI.
"""

from collections.abc import Sequence
from typing import Any, Final

from ext_authz.audit.sinks import Encode, Hold, Item, Refused, Retry
from ext_authz.audit.sinks.extras import needs
from ext_authz.audit.sinks.failures import failure
from ext_authz.audit.sinks.places import Place, place

_HOLD: Final = ("NOAUTH", "WRONGPASS", "NOPERM", "WRONGTYPE", "ERR AUTH", "ERR invalid username", "ERR unknown command")
_THERE: Final = "equal or smaller"


class RedisSink:
    """`connect` gives a client of redis-py (bytes, not decoded)."""

    best_effort = False

    def __init__(
        self, name: str, stream: str, encode: Encode, *, options: dict[str, Any], replicas: int, seconds: float
    ) -> None:
        """`options` are redis.Redis's. Raises ValueError where the library is missing."""
        try:
            import redis
        except ImportError:
            raise needs("redis") from None
        self._library: Any = redis
        self.name = name
        self._stream = stream
        self._encode = encode
        self._options = options
        self._replicas = replicas
        self._wait_milliseconds = max(1, int(seconds * 500))  # WAIT answers before the socket gives up
        self._client: Any = None

    def deliver(self, items: Sequence[Item]) -> Sequence[Refused]:
        """Add the events, all or none, and ask after those that the server says it is past. Raises Retry and Hold."""
        errors = self._library.exceptions
        try:
            return self._add(items)
        except errors.ResponseError as error:
            self.close()
            raise _judged(str(error)) from None
        except errors.AuthenticationError:
            self.close()
            raise Hold("authentication failed") from None
        except (errors.RedisError, OSError) as error:
            self.close()
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Hold("its certificate is not trusted") from None
            raise Retry(failure(error)) from None

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _add(self, items: Sequence[Item]) -> list[Refused]:
        if self._client is None:
            self._client = self._library.Redis(**self._options)
        places = [place(item) for item in items]
        refused = [Refused(index, "no place in a log") for index, at in enumerate(places) if at is None]
        known = [
            (index, item, at) for index, (item, at) in enumerate(zip(items, places, strict=True)) if at is not None
        ]
        if not known:
            return refused
        key = f"{self._stream}:{known[0][2].log_id}"
        pipe = self._client.pipeline(transaction=True)
        pipe.sadd(f"{self._stream}:logs", known[0][2].log_id)
        for _, item, at in known:
            pipe.xadd(key, {"event_id": item.event_id, "event": self._encode(item)}, id=_id(at))
        _, *results = pipe.execute(raise_on_error=False)
        for (index, item, at), result in zip(known, results, strict=True):
            if not isinstance(result, Exception):
                continue
            if _THERE not in str(result):
                raise result
            if not self._has(key, item, at):
                refused.append(Refused(index, "the stream is past its id and does not hold it"))
        if self._replicas and self._client.wait(self._replicas, self._wait_milliseconds) < self._replicas:
            raise Retry("too few replicas have it")
        return sorted(refused, key=lambda each: each.index)

    def _has(self, key: str, item: Item, at: Place) -> bool:
        """Whether the event stands under its id, or stood there before the stream was trimmed."""
        found = self._client.xrange(key, min=_id(at), max=_id(at), count=1)
        if found:
            fields = found[0][1]
            return bool(fields.get(b"event_id") == item.event_id.encode())
        first = self._client.xrange(key, count=1)
        if not first:
            return True
        most, _, least = first[0][0].decode().partition("-")
        return (at.seq, at.minor) < (int(most), int(least))


def _id(at: Place) -> str:
    return f"{at.seq}-{at.minor}"


def _judged(message: str) -> Exception:
    word = message.partition(" ")[0][:32]
    if message.startswith(_HOLD):
        return Hold(f"the server says {word}")
    return Retry(f"the server says {word}")
