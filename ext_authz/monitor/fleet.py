"""The thread that tells other hosts what this one's detectors count over everybody, and hears what theirs do.

Law: the monitor never waits for it; what a host told counts for as long as it is renewed, and a host that hears nobody
goes on alone. Non-goal: what is told (detectors/others.py), and where it lies (state/redis_shelf.py).
"""

import threading
import time
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from ext_authz.monitor.detectors import Detectors, Finding

EVERY_SECONDS: Final = 5.0
"""Between two looks, and at least between two rows that a host puts."""
TURN_SECONDS: Final = 1.0
"""Between two turns of the monitor: what it counts changes with every event."""
RENEW_SECONDS: Final = 60.0
"""A row that says nothing new is put again after so long."""
LASTS_SECONDS: Final = 180
"""A host that was not heard for so long counts no more."""
MOST_HOSTS: Final = 100
MAX_PLAIN: Final = 256 * 1024
MAX_VALUES: Final = 2000
"""Values in a row; parsed, many small ones take tens of times the room of their text."""
_SECOND: Final = 1_000_000_000


class Shelf(Protocol):
    """Where each host puts one row for a while; every method may raise StoreError."""

    refused: int

    def give(self, host: str, at_ns: int, payload: bytes, seconds: int) -> None:
        """Put the row of `host`."""
        ...

    def take(self, most: int) -> list[tuple[str, int, bytes]]:
        """Return (host, when it was put by the host's clock, payload) of the rows put last."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Exchange:
    """`offer` and `heard` are the monitor's; the rest is one thread's. A name is good for one start."""

    def __init__(
        self,
        open_shelf: Callable[[], Shelf],
        *,
        say: Callable[[str], None] = lambda _text: None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.me = uuid.uuid4().hex
        self.failures = 0
        self.last_error = ""
        self._open_shelf = open_shelf
        self._say = say
        self._clock_ns = clock_ns
        self._shelf: Shelf | None = None
        self._offered: Mapping[str, Any] = {}
        self._put: tuple[bytes, float] = (b"", 0.0)
        self._refused, self._doubted = 0, False
        self._known: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self._turn_at = 0.0
        self._heard: dict[str, Mapping[str, Any]] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def turn(self, detectors: Detectors, now_ns: int) -> Sequence[Finding]:
        """Have detectors take in what other hosts count, and tell what they do; return what they found by that."""
        if time.monotonic() < self._turn_at:
            return ()
        self._turn_at = time.monotonic() + TURN_SECONDS
        heard = self.heard()
        found = detectors.hear(heard, self.me, now_ns) if heard is not None else ()
        self.offer(detectors.shared(now_ns))
        return found

    def offer(self, told: Mapping[str, Any]) -> None:
        """Let others know this, in place of what they know."""
        self._offered = told

    def heard(self) -> Mapping[str, Mapping[str, Any]] | None:
        """Return what all other hosts tell, by name; None where nothing was looked at since the last call."""
        heard, self._heard = self._heard, None
        return heard

    def start(self) -> None:
        """Go on in a daemon thread."""
        self._thread = threading.Thread(target=self._run, name="monitor-fleet", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 3.0) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def look(self) -> None:
        """Tell and hear once. Never raises: a failure is counted, and who was heard is known until it is too old."""
        try:
            self._shelf = self._shelf or self._open_shelf()
            self._tell(self._shelf)
            self._listen(self._shelf)
            self._doubt(self._shelf.refused)
            if self.last_error:
                self._say("counts are shared with other hosts again")
            self.last_error = ""
        except Exception as error:  # noqa: BLE001  an outage of whatever kind
            self.failures += 1
            problem = str(error) or type(error).__name__
            if not self.last_error:
                self._say(f"counts are not shared with other hosts: {problem}")
            self.last_error = problem
            self._close()
        now_ns = self._clock_ns()
        lasts = LASTS_SECONDS * _SECOND
        fresh = [each for each in self._known.items() if abs(now_ns - each[1][0]) <= lasts]
        self._known = dict(sorted(fresh, key=_when, reverse=True)[:MOST_HOSTS])
        self._heard = {host: told for host, (_, told) in self._known.items()}

    def _tell(self, shelf: Shelf) -> None:
        told = self._offered
        if not told:
            return
        payload = zlib.compress(orjson.dumps(told), 6)
        now = time.monotonic()
        if payload != self._put[0] or now - self._put[1] >= RENEW_SECONDS:
            shelf.give(self.me, self._clock_ns(), payload, LASTS_SECONDS)
            self._put = (payload, now)

    def _listen(self, shelf: Shelf) -> None:
        for host, at_ns, payload in shelf.take(MOST_HOSTS):
            known = self._known.get(host)
            # An older row than one that was heard was put there by somebody else.
            if host == self.me or (known is not None and at_ns <= known[0]):
                continue
            told = _plain(payload)
            if told is not None:
                self._known[host] = (at_ns, told)

    def _doubt(self, refused: int) -> None:
        """Say once, until a look finds none, that rows are there that were not made with our secret."""
        if refused > self._refused and not self._doubted:
            self._say(
                "counts of other hosts are refused: their `state.secret_file` is another, or a stranger writes there"
            )
        self._doubted, self._refused = refused > self._refused, refused

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            self.look()
        self._close()

    def _close(self) -> None:
        shelf, self._shelf = self._shelf, None
        self._put, self._refused = (b"", 0.0), 0
        if shelf is not None:
            try:
                shelf.close()
            except Exception as error:  # noqa: BLE001  it is being thrown away
                self.last_error = str(error)


def _when(known: tuple[str, tuple[int, Mapping[str, Any]]]) -> int:
    return known[1][0]


def _plain(payload: bytes) -> Mapping[str, Any] | None:
    try:
        text = zlib.decompressobj().decompress(payload, MAX_PLAIN)
        plain = orjson.loads(text) if sum(map(text.count, (b",", b"[", b"{"))) <= MAX_VALUES else None
    except (zlib.error, ValueError):
        return None
    return plain if isinstance(plain, dict) else None
