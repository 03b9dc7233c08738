"""What the trail said lately, in bounded memory, for those who look at the admin listener.

Law: allowed, denied and unidentified callers have room of their own, so that a flood of strangers hides nobody; what is
kept is bounded in events and in bytes. Nothing is read while nobody looks. Non-goal: being complete (`audit cat` is).
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.audit.event import ALERT, DECISION
from ext_authz.audit.reader import Entry, Trail
from ext_authz.audit.sealing import OpenKey

KEEP: Final = 1000
"""Decisions of each of the three kinds."""
KEEP_BYTES: Final = 8 * 1024 * 1024
KEEP_ALERTS: Final = 200
BACK_SECONDS: Final = 900.0
"""Segments that were not written to for so long are not looked through at the beginning."""
IDLE_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 0.5
FIRST_SECONDS: Final = 5.0
"""How long the first who looks waits for what is there already."""
_SHOWN: Final = 256


@dataclass(frozen=True, slots=True)
class Seen:
    """One decision: what it is looked for by, and the line as recorded."""

    event_id: str
    time: str
    decision: str
    reason: str
    policy: str
    subject: str
    resource: str
    action: str
    source: str
    count: int
    line: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The whole event."""
        return dict(orjson.loads(self.line))


@dataclass(frozen=True, slots=True)
class Filter:
    """What somebody wants to see; "" is anything. Text is looked for anywhere, whatever its case; a reason is exact."""

    decision: str = ""
    reason: str = ""
    policy: str = ""
    subject: str = ""
    resource: str = ""

    def takes(self, seen: Seen) -> bool:
        """Whether a decision is wanted."""
        return (
            self.decision in ("", seen.decision)
            and self.reason in ("", seen.reason)
            and self.policy.lower() in seen.policy.lower()
            and self.subject.lower() in seen.subject.lower()
            and self.resource.lower() in f"{seen.resource} {seen.action}".lower()
        )


@dataclass(frozen=True, slots=True)
class Denials:
    """Denials of one kind: how many, and the last of them."""

    count: int
    last: Seen


class Feed:
    """Reads the trail in `folder` on one thread; asked by any."""

    def __init__(
        self,
        folder: Path,
        open_key: OpenKey,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.problem = ""
        self._folder, self._open_key = folder, open_key
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._rings = [_Ring() for _ in range(3)]
        self._alerts: deque[dict[str, Any]] = deque(maxlen=KEEP_ALERTS)
        self._trail: Trail | None = None
        self._looked = 0.0
        self._wanted = threading.Event()
        self._caught_up = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin; nothing is read before somebody looks."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def recent(self, wanted: Filter, limit: int) -> list[Seen]:
        """Return the newest decisions that are wanted, the newest first."""
        self._look()
        with self._lock:
            found = [each for ring in self._rings for each in ring.items if wanted.takes(each)]
        found.sort(key=lambda each: (each.time, each.event_id), reverse=True)
        return found[:limit]

    def find(self, event_id: str) -> Seen | None:
        """Return a decision that is still kept."""
        self._look()
        with self._lock:
            return next((each for ring in self._rings for each in ring.items if each.event_id == event_id), None)

    def denials(self, limit: int) -> list[Denials]:
        """Return the commonest denials among those kept, by reason, caller, resource, action and policy."""
        self._look()
        counts: Counter[tuple[str, ...]] = Counter()
        last: dict[tuple[str, ...], Seen] = {}
        with self._lock:
            for ring in self._rings[1:]:
                for each in ring.items:
                    key = (each.reason, each.subject or each.source, each.resource, each.action, each.policy)
                    counts[key] += each.count
                    last[key] = each
        return [Denials(count, last[key]) for key, count in counts.most_common(limit)]

    def alerts(self) -> list[dict[str, Any]]:
        """Return the newest alerts, the newest first."""
        self._look()
        with self._lock:
            return list(reversed(self._alerts))

    def take(self, entry: Entry) -> None:
        """Keep an event, if it is one to be shown."""
        schema = entry.event.get("schema")
        if schema == ALERT:
            with self._lock:
                self._alerts.append(entry.event)
        elif schema == DECISION:
            seen = _seen(entry)
            stranger = entry.event.get("subject") is None
            with self._lock:
                self._rings[0 if seen.decision == "allow" else 1 + stranger].add(seen)

    def _look(self) -> None:
        self._looked = self._clock()
        if not self._wanted.is_set():
            self._wanted.set()
        if self._thread.is_alive():
            self._caught_up.wait(FIRST_SECONDS)

    def _run(self) -> None:
        while not self._done.is_set():
            self._wanted.wait()
            if self._clock() - self._looked > IDLE_SECONDS:
                self._rest()
                continue
            try:
                for entry in self._entries():
                    self.take(entry)
                    if self._done.is_set():
                        return
                self.problem = ""
            except Exception as error:  # noqa: BLE001  the next look may do better; until then the page says why
                self.problem = f"{type(error).__name__}: {error}"
                self._trail = None
            self._caught_up.set()
            self._done.wait(LOOK_SECONDS)

    def _entries(self) -> Iterator[Entry]:
        if self._trail is None:
            self._forget()
            self._trail = Trail([self._folder], self._open_key, since=self._wall() - BACK_SECONDS)
        return self._trail.entries()

    def _rest(self) -> None:
        """Nobody has looked for a while: let go of everything until somebody does."""
        self._wanted.clear()
        self._caught_up.clear()
        self._trail = None
        self._forget()
        if self._clock() - self._looked <= IDLE_SECONDS:
            self._wanted.set()  # somebody looked in between

    def _forget(self) -> None:
        with self._lock:
            for ring in self._rings:
                ring.clear()
            self._alerts.clear()


class _Ring:
    """The newest decisions of one kind."""

    def __init__(self) -> None:
        self.items: deque[Seen] = deque()
        self._bytes = 0

    def add(self, seen: Seen) -> None:
        self.items.append(seen)
        self._bytes += len(seen.line)
        while len(self.items) > KEEP or self._bytes > KEEP_BYTES:
            self._bytes -= len(self.items.popleft().line)

    def clear(self) -> None:
        self.items.clear()
        self._bytes = 0


def _seen(entry: Entry) -> Seen:
    event = entry.event
    subject, resource, context = (_mapping(event, name) for name in ("subject", "resource", "context"))
    count = event.get("coalesced")
    return Seen(
        event_id=_text(event, "event_id"),
        time=_text(event, "time"),
        decision=_text(event, "decision"),
        reason=_text(event, "reason"),
        policy=_text(event, "policy_id"),
        subject=_text(subject, "id"),
        resource=f"{_text(resource, 'type')}/{_text(resource, 'id')}" if resource else "",
        action=_text(event, "action"),
        source=_text(context, "ip") or _text(context, "peer"),
        count=count if isinstance(count, int) and count > 0 else 1,
        line=entry.line,
    )


def _mapping(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = of.get(name)
    return value if isinstance(value, dict) else {}


def _text(of: Mapping[str, Any], name: str) -> str:
    value = of.get(name)
    return value[:_SHOWN] if isinstance(value, str) else ""
