"""Browsers that have shown the admin token once: what stands in for it, and for how long.

Law: a cookie is a random name for a session held here, never the token; whoever types wrong tokens neither locks out
nor fills the trail (one of 32 characters is not guessed); a session ends with its time, with a new token, and with this
process. Non-goal: HTTP (admin.py).
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LIFETIME_SECONDS: Final = 12 * 3600.0
IDLE_SECONDS: Final = 3600.0
MAX_SESSIONS: Final = 64
FAILURES: Final = 5
"""Wrong tokens that may be told of at once …"""
FAILURE_SECONDS: Final = 2.0
"""… and the seconds after which one more may."""


@dataclass(slots=True)
class Session:
    """One browser. `csrf` is what its forms must repeat; times are monotonic seconds."""

    csrf: str
    token: bytes
    ends: float
    seen: float


class Sessions:
    """Used by every thread of the listener. `token` returns the bearer token, "" where there is none."""

    def __init__(self, token: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[bytes, Session] = {}
        self._failures = 0.0
        self._failed_at = clock()

    def accepts(self, shown: str) -> bool:
        """Whether `shown` is the token; takes the same time wherever they differ."""
        token = self._token()
        same = hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), token.encode())
        return bool(token) and same

    def login(self, shown: str) -> str | None:
        """Return a cookie's value for the right token, "" for a wrong one, None when too many were wrong."""
        now = self._clock()
        with self._lock:
            self._failures = max(0.0, self._failures - (now - self._failed_at) / FAILURE_SECONDS)
            self._failed_at = now
            if not self.accepts(shown):
                if self._failures > FAILURES - 1:
                    return None
                self._failures += 1
                return ""
            cookie = secrets.token_urlsafe(32)
            self._prune(now)
            while len(self._sessions) >= MAX_SESSIONS:
                del self._sessions[min(self._sessions, key=lambda name: self._sessions[name].seen)]
            made = Session(secrets.token_urlsafe(32), _digest(self._token()), now + LIFETIME_SECONDS, now)
            self._sessions[_digest(cookie)] = made
            return cookie

    def find(self, cookie: str) -> Session | None:
        """Return the session that a cookie names, if it still holds."""
        now = self._clock()
        with self._lock:
            self._prune(now)
            found = self._sessions.get(_digest(cookie))
            if found is not None:
                found.seen = now
            return found

    def logout(self, cookie: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_digest(cookie), None)

    def _prune(self, now: float) -> None:
        token = _digest(self._token())
        over = [
            name
            for name, each in self._sessions.items()
            if now >= min(each.ends, each.seen + IDLE_SECONDS) or each.token != token
        ]
        for name in over:
            del self._sessions[name]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
