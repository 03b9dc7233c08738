"""The shared log of changes in Redis: a stream with contiguous numbers, each row once, each row authenticated.

Law: a row is in the log once, whoever gives it how often; one that was not
made with the fleet's secret is never taken; every call ends within its time
limit. Non-goal: what rows mean (replica.py), when they move (replicator.py).
"""

import hashlib
import hmac
import uuid
from collections.abc import Sequence
from typing import Any, Final, cast

from ext_authz.state import StoreError
from ext_authz.state.replica import Origin, Row

PREFIX: Final = "{ext-authz}"
"""In braces, so that a Redis Cluster keeps all keys in one slot."""
SECONDS: Final = 2.0
MAX_PAYLOAD: Final = 64 * 1024
_CONTEXT: Final = b"ext_authz.state/1\0"

# Returns the log's name; a log of which a part is gone (evicted, trimmed) begins anew under another one, so that
# every host gives it what it knows. Rows that a stranger added are no loss.
_NAME: Final = """
local name = redis.call('GET', KEYS[1])
local lost = redis.call('XLEN', KEYS[2]) < redis.call('SCARD', KEYS[3])
if name and not lost then return name end
if lost then redis.call('DEL', KEYS[2], KEYS[3]) end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
"""
# 1: the log's name as the caller knows it; then origin and payload of each row. Returns -1 for another log.
# What a script did before an error stays done, so that an origin is only noted once its row is there.
_GIVE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local place = last and tonumber(string.match(last[1], '^%d+')) or 0
local added = 0
for i = 2, #ARGV, 2 do
  if redis.call('SISMEMBER', KEYS[3], ARGV[i]) == 0 then
    place = place + 1
    redis.call('XADD', KEYS[2], string.format('%.0f-0', place), 'o', ARGV[i], 'r', ARGV[i + 1])
    redis.call('SADD', KEYS[3], ARGV[i])
    added = added + 1
  end
end
return added
"""
# Renames the log where it still has the name that the caller knows.
_RENAME: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end
return redis.call('GET', KEYS[1])
"""


class RedisLog:
    """One connection to the log; used by one thread.

    `secret` authenticates rows between the hosts of one fleet (HMAC-SHA-256, RFC 2104, over origin and record);
    without one every row counts that whoever may write to Redis has put there.
    """

    def __init__(self, url: str, *, secret: bytes | None = None, ca_file: str = "", prefix: str = PREFIX) -> None:
        self._redis, self._failures = client_of(url, ca_file)
        self._secret = secret
        self._keys = [f"{prefix}:{part}" for part in ("log", "changes", "origins")]
        self.refused = 0

    def name(self) -> str:
        """Return the log's name, made where it has none yet, or where a part of the log is gone. Raises StoreError."""
        return _text(self._call("EVAL", _NAME, 3, *self._keys, uuid.uuid4().hex))

    def renamed(self, known: str) -> str:
        """Give the log another name unless somebody else did since it was `known`; return its name."""
        return _text(self._call("EVAL", _RENAME, 1, self._keys[0], known, uuid.uuid4().hex))

    def at(self, place: int) -> str:
        """Return the origin of the row at `place`, "" where there is none."""
        found = self._call("XRANGE", self._keys[1], f"{place}-0", f"{place}-0")
        return _text(_fields(found[0][1]).get(b"o", b"")) if found else ""

    def give(self, log: str, rows: Sequence[Row]) -> int | None:
        """Add those rows that are not in the log; return how many, None where the log has another name by now."""
        arguments: list[str | bytes] = [log]
        for row in rows:
            arguments += (str(row.origin), self._seal(row))
        added = int(self._call("EVAL", _GIVE, 3, *self._keys, *arguments))
        return None if added < 0 else added

    def take(self, after: int, limit: int, wait_ms: int) -> list[tuple[int, Row | None]]:
        """Return up to `limit` rows after `after`, waiting up to `wait_ms` for the first.

        None stands for a row that is not to be believed.
        """
        found = self._call("XREAD", "COUNT", limit, "BLOCK", wait_ms, "STREAMS", self._keys[1], f"{after}-0")
        rows: list[tuple[int, Row | None]] = []
        for place, fields in found[0][1] if found else ():
            row = self._open(_fields(fields))
            self.refused += row is None
            rows.append((int(_text(place).partition("-")[0]), row))
        return rows

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _call(self, *arguments: Any) -> Any:  # noqa: ANN401  a Redis reply is what the command gives
        return call(self._redis, self._failures, *arguments)

    def _seal(self, row: Row) -> bytes:
        record = row.record.encode()
        return self._tag(str(row.origin), record).encode() + b" " + record

    def _open(self, fields: dict[bytes, bytes]) -> Row | None:
        payload = fields.get(b"r", b"")
        tag, _, record = payload.partition(b" ")
        host, _, number = _text(fields.get(b"o", b"")).partition(":")
        if len(payload) > MAX_PAYLOAD or not host or not number.isascii() or not number.isdecimal():
            return None
        origin = Origin(host, int(number[:18]))
        if not hmac.compare_digest(tag, self._tag(str(origin), record).encode()):
            return None
        try:
            return Row(origin, record.decode())
        except UnicodeDecodeError:
            return None

    def _tag(self, origin: str, record: bytes) -> str:
        if self._secret is None:
            return "-"
        return hmac.new(self._secret, _CONTEXT + origin.encode() + b"\0" + record, hashlib.sha256).hexdigest()


def client_of(url: str, ca_file: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return a client that connects to nothing yet, and what it raises for outages. Raises StoreError."""
    try:
        import redis
    except ImportError:
        raise StoreError("`state.backend: redis` needs `pip install 'ext-authz[redis]'`") from None
    options: dict[str, Any] = {"ssl_ca_certs": ca_file} if ca_file else {}
    try:
        client = redis.Redis.from_url(
            url,
            socket_timeout=SECONDS,
            socket_connect_timeout=SECONDS,
            retry=None,
            health_check_interval=0,
            single_connection_client=False,
            max_connections=2,
            protocol=2,
            **options,
        )
    except ValueError as error:
        raise StoreError(f"`state.url`: {error}") from None
    return client, (redis.RedisError, OSError)


def call(client: Any, failures: tuple[type[Exception], ...], *arguments: Any) -> Any:  # noqa: ANN401  what Redis replies
    """Run one command. Raises StoreError."""
    try:
        return client.execute_command(*arguments)
    except failures as error:
        raise StoreError(f"redis: {str(error) or type(error).__name__}") from None


def _fields(raw: Any) -> dict[bytes, bytes]:  # noqa: ANN401  a list of names and values, or a mapping, by protocol
    if isinstance(raw, dict):
        return cast("dict[bytes, bytes]", raw)
    return dict(zip(raw[::2], raw[1::2], strict=True))


def _text(raw: object) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
