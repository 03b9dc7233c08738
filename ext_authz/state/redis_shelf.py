"""What hosts tell each other for a while, in Redis: one row of each host, replaced whole, gone when it is not renewed.

Law: a row that was not made with the fleet's secret is never taken; every call ends within its time limit. Non-goal:
what rows say, and keeping any: what must not be lost is a change (redis.py).
"""

import hashlib
import hmac
import re
from typing import Any, Final

from ext_authz.state.redis import PREFIX, call, client_of

MAX_PAYLOAD: Final = 64 * 1024
_CONTEXT: Final = b"ext_authz.shelf/1\0"
_HOST: Final = re.compile(r"[0-9a-f]{32}\Z")
_STAMP: Final = 20

# 1: host, payload, seconds to live. Redis' own clock orders and ends rows: it is one, the hosts' are many.
_GIVE: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('SET', KEYS[1] .. ':' .. ARGV[1], ARGV[2], 'EX', ARGV[3])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -10001)
redis.call('EXPIRE', KEYS[1], 2 * ARGV[3])
return 1
"""


class RedisShelf:
    """One connection; used by one thread. `secret` is the fleet's (HMAC-SHA-256 over host, time and payload)."""

    def __init__(self, url: str, *, secret: bytes, ca_file: str = "", prefix: str = PREFIX) -> None:
        """Connect to nothing yet. Raises StoreError where the library is missing."""
        self._redis, self._failures = client_of(url, ca_file)
        self._secret = secret
        self._key = f"{prefix}:shelf"
        self.refused = 0

    def give(self, host: str, at_ns: int, payload: bytes, seconds: int) -> None:
        """Put the row of `host` (32 hexadecimal digits). Raises StoreError, ValueError for too long a one."""
        if len(payload) > MAX_PAYLOAD or not _HOST.match(host):
            raise ValueError("not a row of the shelf")
        stamp = b"%0*d" % (_STAMP, at_ns)
        row = self._tag(host, stamp, payload) + stamp + payload
        self._call("EVAL", _GIVE, 1, self._key, host, row, seconds)

    def take(self, most: int) -> list[tuple[str, int, bytes]]:
        """Return (host, Unix nanoseconds, payload) of the rows put last, at most `most`. Raises StoreError."""
        names = [each.decode("ascii", "replace") for each in self._call("ZREVRANGE", self._key, 0, most - 1)]
        names = [each for each in names if _HOST.match(each)]
        if not names:
            return []
        rows = self._call("MGET", *(f"{self._key}:{each}" for each in names))
        found = []
        for host, row in zip(names, rows, strict=True):
            if row is None:
                continue
            opened = self._open(host, row)
            if opened is None:
                self.refused += 1
            else:
                found.append((host, *opened))
        return found

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _open(self, host: str, row: bytes) -> tuple[int, bytes] | None:
        tag, stamp, payload = row[:32], row[32 : 32 + _STAMP], row[32 + _STAMP :]
        if len(payload) > MAX_PAYLOAD or not hmac.compare_digest(tag, self._tag(host, stamp, payload)):
            return None
        return int(stamp), payload

    def _tag(self, host: str, stamp: bytes, payload: bytes) -> bytes:
        return hmac.new(self._secret, _CONTEXT + host.encode() + b"\0" + stamp + payload, hashlib.sha256).digest()

    def _call(self, *arguments: Any) -> Any:  # noqa: ANN401  a Redis reply is what the command gives
        return call(self._redis, self._failures, *arguments)
