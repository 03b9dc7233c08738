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
_TAG: Final = 32
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

# 1: how many rows, the most bytes of one. What a stranger made longer, or no row at all, is not sent: every host would
# hold it in memory before it could refuse it.
_TAKE: Final = """
local found = {}
for _, host in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1] - 1)) do
  local key = KEYS[1] .. ':' .. string.sub(host, 1, 32)
  if #host == 32 and redis.call('EXISTS', key) == 1 then
    local fits = redis.call('TYPE', key).ok == 'string' and redis.call('STRLEN', key) <= tonumber(ARGV[2])
    found[#found + 1] = host
    found[#found + 1] = fits and redis.call('GET', key) or ''
  end
end
return found
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
        rows = self._call("EVAL", _TAKE, 1, self._key, most, _TAG + _STAMP + MAX_PAYLOAD)
        found = []
        for name, row in zip(rows[::2], rows[1::2], strict=True):
            host = name.decode("ascii", "replace")
            opened = self._open(host, row) if _HOST.match(host) else None
            if opened is None:
                self.refused += 1
            else:
                found.append((host, *opened))
        return found

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _open(self, host: str, row: bytes) -> tuple[int, bytes] | None:
        tag, stamp, payload = row[:_TAG], row[_TAG : _TAG + _STAMP], row[_TAG + _STAMP :]
        if not hmac.compare_digest(tag, self._tag(host, stamp, payload)):
            return None
        return int(stamp), payload

    def _tag(self, host: str, stamp: bytes, payload: bytes) -> bytes:
        return hmac.new(self._secret, _CONTEXT + host.encode() + b"\0" + stamp + payload, hashlib.sha256).digest()

    def _call(self, *arguments: Any) -> Any:  # noqa: ANN401  a Redis reply is what the command gives
        return call(self._redis, self._failures, *arguments)
