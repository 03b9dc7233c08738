"""Follows the keys of issuers that publish them: ahead of expiry, and when a caller names an unknown one.

Law: no check waits for anything in here; what is handed on was read whole and has a key to verify with, and the last
good keys stay through an outage. Non-goal: HTTP (fetching.py), and what workers do with keys (wiring).
"""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ext_authz.authn.jwks import KeySet, KeySetError
from ext_authz.authn.jws import JwsError, strict_json
from ext_authz.authn.jwt_settings import JwtSettings
from ext_authz.authn.remote import NO_KEYS, Fetched, RemoteKeys, usable
from ext_authz.config import KEPT_KEYS
from ext_authz.server import log
from ext_authz.server.asking import Asking
from ext_authz.server.fetching import Document, FetchError, fetch
from ext_authz.settings import url_problem

MIN_REFRESH_SECONDS: Final = 60.0
MAX_REFRESH_SECONDS: Final = 3600.0
REFRESH_SECONDS: Final = 300.0
"""Where the issuer says nothing of how long its keys may be kept."""
AHEAD: Final = 0.9
GAP_SECONDS: Final = 0.05
"""Between two fetches at the least: an issuer whose servers disagree looks as if it rotated without end."""
RETRY_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_LONGEST_NAME: Final = 512

Fetch = Callable[[str], Document]
Count = Callable[[str, str], None]
Changed = Callable[[str, tuple[str, ...]], None]


def remote(issuers: Iterable[JwtSettings]) -> tuple[JwtSettings, ...]:
    """Return the issuers whose keys are fetched."""
    return tuple(each for each in issuers if each.source)


@dataclass(frozen=True, slots=True)
class Status:
    """How one issuer's keys stand: their age in seconds (None: never fetched), and whether they verify tokens now."""

    issuer: str
    age: float | None
    usable: bool


class KeyKeeper:
    """One thread an issuer; `publish` gets every new state of all keys, `count` (issuer, `ok` or `failed`) a fetch."""

    def __init__(
        self,
        issuers: Iterable[JwtSettings],
        kept: Fetched,
        folder: Path,
        publish: Callable[[Fetched], None],
        *,
        fetch: Fetch = fetch,
        count: Count = lambda _issuer, _result: None,
    ) -> None:
        self._fetch, self._count, self._publish = fetch, count, publish
        self._file = folder / KEPT_KEYS
        self._lock = threading.Lock()
        self._followers: dict[str, _Follower] = {}
        self._kept = kept
        self._first = True
        self._awaited: frozenset[str] = frozenset()
        self.aim(issuers)

    def aim(self, issuers: Iterable[JwtSettings]) -> None:
        """Follow these from now on; those that are the same go on undisturbed."""
        wanted = {each.issuer: each for each in remote(issuers)}
        with self._lock:
            for name, follower in list(self._followers.items()):
                if wanted.get(name) != follower.settings:
                    self._followers.pop(name).stop()
                    self._kept = Fetched({**self._kept.keys, **follower.remembered()})
            for name, settings in wanted.items():
                if name not in self._followers:
                    follower = _Follower(settings, self._kept, self._fetch, self._count, self._changed)
                    self._followers[name] = follower
                    if not self._first:
                        follower.start()
            if self._first:
                self._awaited = frozenset(name for name, each in self._followers.items() if not each.status().usable)

    def start(self) -> None:
        """Begin to fetch."""
        with self._lock:
            self._first = False
            for follower in self._followers.values():
                follower.start()

    def stop(self) -> None:
        """Fetch no more; a fetch in flight ends by itself."""
        with self._lock:
            for follower in self._followers.values():
                follower.stop()

    def want(self, issuer: str, kid: str) -> None:
        """Look for a key that a caller named, as often as its issuer's budget allows."""
        follower = self._followers.get(issuer)
        if follower is not None:
            follower.want(kid[:_LONGEST_NAME])

    def waiting(self) -> tuple[str, ...]:
        """Return the issuers, of those there were at the start, whose keys never came since.

        One that a reload added is not among them: it must not take a serving sidecar out of service.
        """
        with self._lock:
            known = {name for name, each in self._followers.items() if each.status().usable}
            self._awaited = frozenset(self._awaited & self._followers.keys()) - known
            return tuple(sorted(self._awaited))

    def statuses(self) -> tuple[Status, ...]:
        """Return how every issuer's keys stand."""
        return tuple(each.status() for each in list(self._followers.values()))

    def _changed(self, issuer: str, absent: tuple[str, ...]) -> None:
        """Hand on and keep what all followers have; called on the thread of `issuer`'s."""
        with self._lock:
            keys: dict[str, RemoteKeys] = {}
            for follower in self._followers.values():
                keys.update(follower.remembered())
            self._publish(Fetched(keys, {issuer: absent}))
            self._kept = Fetched(keys)
            self._keep(self._kept.to_bytes())

    def _keep(self, data: bytes) -> None:
        """Write the file that a restart during an outage begins with; without it only that is lost."""
        draft = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            draft.replace(self._file)


class _Follower:
    """One issuer's keys. What it has changes on its own thread only."""

    def __init__(self, settings: JwtSettings, kept: Fetched, fetch: Fetch, count: Count, changed: Changed) -> None:
        self.settings = settings
        self._fetch, self._count, self._changed = fetch, count, changed
        self._keys: KeySet = kept.of(settings)[0]
        found = kept.keys.get(settings.issuer)
        # A time ahead of the clock would keep old keys alive for longer than `max_stale`.
        usable_time = found is not None and found.fetched_at <= time.time() + MIN_REFRESH_SECONDS
        self._remembered = found if usable_time and self._keys is not NO_KEYS else None
        self._asking = Asking()
        self._lock = threading.Lock()
        self._wanted: set[str] = set()
        self._wake = threading.Event()
        self._stopped = False
        self._problem = ""
        self._failures = 0
        self._jwks_uri = ""

    def start(self) -> None:
        threading.Thread(target=self._run, name="keys", daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def remembered(self) -> dict[str, RemoteKeys]:
        return {} if self._remembered is None else {self.settings.issuer: self._remembered}

    def status(self) -> Status:
        found = self._remembered
        age = None if found is None else max(0.0, time.time() - found.fetched_at)
        return Status(self.settings.issuer, age, age is not None and age < self.settings.max_stale)

    def want(self, kid: str) -> None:
        with self._lock:
            if kid in self._wanted or (kid and self._keys.has_kid(kid)):
                return
            if self._asking.may(kid, time.monotonic()):
                self._wanted.add(kid)
                self._wake.set()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopped:
            self._wake.wait(pause)
            if self._stopped:
                return
            with self._lock:
                self._wake.clear()
                wanted, self._wanted = self._wanted, set()
            pause = self._look(wanted)
            time.sleep(GAP_SECONDS)

    def _look(self, wanted: set[str]) -> float:
        """Fetch once; return the seconds until the next time."""
        try:
            document = self._document()
            keys = usable(self.settings, document.body.decode("utf-8"))
        except (FetchError, JwsError, KeySetError, UnicodeDecodeError) as error:
            return self._failed(str(error))
        with self._lock:
            if keys.digest != self._keys.digest:
                self._asking.found()
            missed = tuple(sorted(kid for kid in wanted if not keys.has_kid(kid)))
            for kid in missed:
                self._asking.missed(kid, time.monotonic())
            self._report(keys)
            self._keys = keys
            self._remembered = RemoteKeys(self.settings.source, int(time.time()), document.body.decode("utf-8"))
            self._failures = 0
        self._count(self.settings.issuer, "ok")
        if not self._stopped:
            self._changed(self.settings.issuer, missed)
        age = REFRESH_SECONDS if document.max_age is None else document.max_age
        return min(max(age, MIN_REFRESH_SECONDS), MAX_REFRESH_SECONDS) * AHEAD * random.uniform(0.9, 1)  # noqa: S311

    def _document(self) -> Document:
        """Return the key set's document; where it is, is asked anew whenever it could not be had there."""
        if not self.settings.discovery:
            return self._fetch(self.settings.source)
        if self._jwks_uri:
            with contextlib.suppress(FetchError):
                return self._fetch(self._jwks_uri)
        self._jwks_uri = self._discover()
        return self._fetch(self._jwks_uri)

    def _discover(self) -> str:
        """Return `jwks_uri` of the issuer's metadata (OpenID Connect Discovery 1.0, 4.3; RFC 8414 3.3)."""
        metadata = strict_json(self._fetch(self.settings.source).body, "the issuer's metadata")
        if metadata.get("issuer") != self.settings.issuer:
            raise FetchError("the metadata names another `issuer`")
        uri = metadata.get("jwks_uri")
        if not isinstance(uri, str) or url_problem(uri):
            raise FetchError("the metadata has no `jwks_uri` to be trusted")
        if uri.startswith("http:") and not self.settings.issuer.startswith("http:"):
            raise FetchError("the metadata has a `jwks_uri` without TLS")
        return uri

    def _failed(self, problem: str) -> float:
        self._count(self.settings.issuer, "failed")
        if problem != self._problem:
            state = "the last good ones stay" if self._remembered is not None else "its tokens are refused until then"
            log.line("control", f"keys of `{self.settings.issuer}` cannot be fetched ({problem}); {state}")
        self._problem = problem
        self._failures += 1
        return RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS)) - 1] * random.uniform(0.9, 1)  # noqa: S311

    def _report(self, keys: KeySet) -> None:
        if self._problem or keys.digest != self._keys.digest:
            log.line("control", f"keys of `{self.settings.issuer}`: {len(keys.keys)} fetched")
        self._problem = ""
