"""The monitor at work: events to detectors, findings to alerts, risk and quarantine.

Law: what follows from a finding is recorded before the next event is read, and remembered only after that; no check
waits for anything in here. Non-goal: what is unusual (detectors), and what it means for whom (risk.py, alerts.py).
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ext_authz.audit.event import ALERT, alert_event, timestamp
from ext_authz.audit.reader import Trail
from ext_authz.audit.redact import NOTHING, Redaction
from ext_authz.audit.sealing import OpenKey
from ext_authz.audit.spool import AuditUnavailable, Spool
from ext_authz.audit.trail import segments
from ext_authz.envelope.errors import EnvelopeError
from ext_authz.monitor.alerts import Alert, Alerts, record
from ext_authz.monitor.detectors import Detectors
from ext_authz.monitor.detectors.finding import Finding
from ext_authz.monitor.detectors.seen import seen
from ext_authz.monitor.feeds import Feed
from ext_authz.monitor.fleet import Exchange
from ext_authz.monitor.held import Held
from ext_authz.monitor.memory import Memory
from ext_authz.monitor.publish import due, quarantine
from ext_authz.monitor.risk import DAY, SECOND, RiskBook
from ext_authz.monitor.settings import MonitorSettings
from ext_authz.state import Store, StoreError
from ext_authz.state.changes import Change

TICK_SECONDS: Final = 0.25
PAUSE_SECONDS: Final = 0.1
SAVE_SECONDS: Final = 30.0
FORGET_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0
CHANGES_A_TICK: Final = 50
"""Risks that are written at once; the others a tick later."""
OLD_NEWS_NS: Final = 3600 * SECOND
"""When a trail is read for the first time, what is older teaches the detectors and raises no alert."""
_FORGIVEN_NS: Final = 86_400 * SECOND
_BACK_NS: Final = 86_400 * SECOND


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a monitor works. `count(outcome, label)` is told of every alert, event and withheld quarantine."""

    folder: Path
    feed: Feed
    open_store: Callable[[], Store]
    spool: Spool
    open_key: OpenKey
    proxies: frozenset[str] = frozenset()
    redaction: Redaction = NOTHING
    count: Callable[[str, str], None] = lambda _outcome, _label: None
    say: Callable[[str], None] = lambda _text: None
    clock_ns: Callable[[], int] = time.time_ns
    exchange: Exchange | None = None
    """With whom counts over everybody are shared; `fleet_key` keys their hashes at all hosts."""
    fleet_key: bytes = b""


class Monitor:
    """One thread's work; `start` and `stop` from another."""

    def __init__(self, settings: MonitorSettings, place: Surroundings) -> None:
        self._place = place
        self._feed = place.feed
        self._clock_ns = place.clock_ns
        self._settings = settings
        self._memory = Memory(place.folder, place.open_key)
        self._store: Store | None = None
        self._begin()
        self._told: set[str] = set()
        self._told_since_saved: set[str] = set()
        self._first = False
        self._ready = False
        self._dirty = False
        self._full = False
        self._save_at = 0.0
        self._tick_at = 0.0
        self._forget_at = 0.0
        self._latest_ns = 0
        self._problem = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.behind_seconds = 0.0

    def _begin(self) -> None:
        """Know nothing."""
        settings, place = self._settings, self._place
        self._detectors = self._new_detectors()
        self._risk = RiskBook(settings.risk_params(), settings.responses(), settings.never_quarantine, place.proxies)
        self._alerts = Alerts(settings.alert_params())
        self._held = Held()
        self._found: deque[Finding] = deque()
        self._outbox: deque[Change | Alert] = deque()
        self._events: Iterator[Mapping[str, Any]] | None = None

    @property
    def quarantines(self) -> int:
        """How many quarantines of monitors are in force, as last read."""
        return len(self._in_force())

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Go on in a daemon thread."""
        if self._thread is not None:
            raise RuntimeError("the monitor was started before")
        if self._place.exchange is not None:
            self._place.exchange.start()
        self._thread = threading.Thread(target=self.run, name="monitor", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """Remember and end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(seconds)
        if self._place.exchange is not None:
            self._place.exchange.stop()

    def run(self) -> None:
        """Work until `stop`, or until the feed ends; whatever fails is said once and tried again."""
        while True:
            stopping = self._stop.is_set()
            begun = time.monotonic()
            try:
                whole = self.step()
                if stopping or self._feed.ended:
                    if whole:
                        self._save()
                    return
                # A look at a large trail costs: at most a tenth of the time.
                pause = max(PAUSE_SECONDS, 9 * min(time.monotonic() - begun, 1.0) if not self._dirty else 0.0)
            except Exception as error:  # noqa: BLE001  a bug must not end the watch unseen either
                expected = isinstance(error, StoreError | AuditUnavailable | EnvelopeError | OSError | ValueError)
                problem = str(error) if expected else f"{type(error).__name__}: {error}"
                if not expected:
                    self._place.count("failed", type(error).__name__)
                if problem != self._problem:
                    self._place.say(f"the monitor waits: {problem}")
                self._problem = problem
                self._close_store()
                if stopping:
                    return
                pause = RETRY_SECONDS
            else:
                self._problem = ""
            self._stop.wait(pause)

    def step(self) -> bool:
        """Take in what there is; False where it was stopped before the end of that.

        Raises what keeps it from going on; nothing is lost by that.
        """
        if not self._ready:
            self._recall()
        self._mind_the_clock()
        self._work_off()
        while (event := self._next()) is not None:
            self._observe(event)
            self._work_off()
            if time.monotonic() >= self._tick_at:
                self._tick()
            if self._stop.is_set() and not self._feed.ended:
                return False  # what was read and is not remembered is read again
        self._first = False
        self.behind_seconds = 0.0
        self._tick()
        if (self._dirty and time.monotonic() >= self._save_at) or self._feed.waits:
            self._save()
        return True

    def _mind_the_clock(self) -> None:
        """Begin anew where the clock was far ahead: detectors would be blind, alerts silent, until that time comes."""
        now_ns = self._clock_ns()
        if now_ns < self._latest_ns - _BACK_NS:
            self._place.say("the clock was set back by more than a day: the detectors begin anew")
            self._detectors = self._new_detectors()
            self._alerts = Alerts(self._settings.alert_params())
            self._latest_ns = 0
        self._latest_ns = max(self._latest_ns, now_ns)

    def _new_detectors(self) -> Detectors:
        key = hashlib.blake2b(b"detectors", key=self._place.spool.query_key[:64], digest_size=32).digest()
        return Detectors(self._settings.params(), key, self._place.fleet_key)

    def _next(self) -> Mapping[str, Any] | None:
        """Return the next event, None where there is none for now. What is raised here is the feed's."""
        try:
            if self._events is None:
                self._events = iter(self._feed.entries())
            event = next(self._events, None)
        except Exception:
            self._events = None
            # What it had read ahead is gone with it: go on from what is remembered, which tells nothing twice.
            self._ready = not self._feed.begins_again
            raise
        if event is None:
            self._events = None
        return event

    def _observe(self, event: Mapping[str, Any]) -> None:
        now_ns = self._clock_ns()
        one = seen(event, now_ns)
        if one is None:
            return
        self._dirty = True
        self.behind_seconds = (now_ns - one.at_ns) / SECOND
        if one.subject:
            self._risk.count(one.subject, one.at_ns)
        for finding in self._detectors.see(one, self._failed):
            if not (self._first and now_ns - finding.at_ns > OLD_NEWS_NS):
                self._found.append(finding)

    def _failed(self, error: Exception) -> None:
        self._place.count("failed", type(error).__name__)

    def _work_off(self) -> None:
        """Follow up what was found and do what follows. Raises StoreError, AuditUnavailable; the rest waits."""
        self._flush()
        while self._found:
            self._read_store()
            self._follow_up(self._found.popleft(), self._clock_ns())
            self._flush()

    def _follow_up(self, finding: Finding, now_ns: int) -> None:
        verdict = self._risk.take(finding, now_ns, self._in_force(finding.subject))
        if verdict.quarantine is not None:
            self._outbox.append(quarantine(finding, verdict.quarantine, now_ns))
        if verdict.withheld is not None:
            self._place.count("withheld", verdict.withheld)
        self._outbox += self._alerts.take(finding, verdict.done())

    def _tick(self) -> None:
        now_ns = self._clock_ns()
        self._share(now_ns)
        self._read_store()
        self._outbox += self._alerts.due(now_ns)
        self._flush()
        self._held.prune(now_ns // SECOND)
        if time.monotonic() >= self._forget_at:
            self._risk.forget(now_ns)
            self._forget_at = time.monotonic() + FORGET_SECONDS
        self._publish(now_ns)
        self._tick_at = time.monotonic() + TICK_SECONDS

    def _share(self, now_ns: int) -> None:
        exchange = self._place.exchange
        if exchange is not None and (found := exchange.turn(self._detectors, now_ns)):
            self._found += found
            self._work_off()
            self._dirty, self._save_at = True, 0.0

    def _flush(self) -> None:
        """Do what is to be done, in order. Raises StoreError, AuditUnavailable; the rest waits."""
        while self._outbox:
            each = self._outbox[0]
            if isinstance(each, Alert):
                self._tell(each)
            elif (each.expires_at or 0) > self._clock_ns() // SECOND and each.problem() is None:
                self._opened().append(each)
            self._outbox.popleft()
            self._dirty = True

    def _tell(self, alert: Alert) -> None:
        if alert.key in self._told:
            self._told.discard(alert.key)
            return
        spool, now_ns, about = self._place.spool, self._clock_ns(), record(alert)
        spool.append(
            lambda seq: alert_event(
                about, log_id=spool.log_id, seq=seq, now_ns=now_ns, redaction=self._place.redaction
            ),
            again=True,
        )
        self._told_since_saved.add(alert.key)
        if alert.firing:
            self._place.count("alert", alert.detector)

    def _publish(self, now_ns: int) -> None:
        """Bring the store to what is known here."""
        store = self._opened()
        changes = due(self._risk, self._held, now_ns, self._settings.risk_changes)
        full = self._held.risks_on(now_ns // SECOND // DAY) >= self._settings.risk_changes
        if full and not self._full:
            self._place.count("withheld", "risk_changes")
            self._place.say(f"{self._settings.risk_changes} risks were recorded today (UTC): no more until tomorrow")
        self._full = full
        for change in changes[:CHANGES_A_TICK]:
            store.append(change)
        if changes:
            self._dirty = True
            self._read_store()

    def _read_store(self) -> None:
        now_ns = self._clock_ns()
        for each in self._held.follow(self._opened()):
            if now_ns - each.at_ns < _FORGIVEN_NS:
                self._risk.forgive(each.subject, min(each.at_ns, now_ns), each.detector)
                self._dirty = True

    def _in_force(self, besides: str | None = None) -> dict[str, int]:
        """Return the quarantines by monitors that hold, and that of the subject `besides`, whoever imposed it."""
        now = self._clock_ns() // SECOND
        found = {
            subject: each.ends_at
            for subject, each in list(self._held.quarantines.items())
            if each.ends_at > now and (each.monitored or subject == besides)
        }
        waiting = (each for each in self._outbox if isinstance(each, Change))
        return found | {each.subject: each.expires_at or 0 for each in waiting}

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._place.open_store()
        return self._store

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
            self._held.look_again()

    def _recall(self) -> None:
        """Remember what was saved, and what was told since. Raises KeyUnavailableError: better late than twice."""
        self._begin()
        try:
            state = self._memory.load()
        except ValueError as error:
            self._place.say(f"the monitor begins anew: {error}")
            state = None
        self._first = state is None
        own: dict[str, int] = {}
        if state is not None:
            anew = self._detectors.restore(state.get("detectors", {}))
            if anew:
                self._place.say(f"detectors that begin anew: {', '.join(anew)}")
            for name, part in (("risk", self._risk), ("alerts", self._alerts)):
                try:
                    part.restore(state.get(name, {}))
                except ValueError as error:
                    self._place.say(f"the monitor's {name} begin anew: {error}")
            own = dict(state.get("own", {}))
        self._feed.resume(None if state is None else state.get("place"))
        self._told = self._told_since(own) | self._told_since_saved
        self._ready = True

    def _told_since(self, own: Mapping[str, int]) -> set[str]:
        paths = [each.path for each in self._own_segments() if each.path.exists()]
        told = set()
        for entry in Trail(paths, self._place.open_key, places=own).entries():
            event = entry.event
            if event.get("schema") == ALERT:
                told.add(f"{event.get('alert')}.{event.get('told')}")
        return told

    def _own_segments(self) -> list[Any]:
        spool = self._place.spool
        writer = spool.log_id.rsplit("-", 2)[0]
        return [each for each in segments(spool.directory) if each.writer == writer]

    def _save(self) -> None:
        """Save everything; the next time not before it has cost a fiftieth of the time."""
        begun = time.monotonic()
        own = {}
        for each in self._own_segments():
            try:
                own[str(each.path)] = each.path.stat().st_size
            except OSError:
                continue
        self._memory.save(
            {
                "saved": timestamp(self._clock_ns()),
                "place": self._feed.place(),
                "own": own,
                "detectors": self._detectors.snapshot(),
                "risk": self._risk.snapshot(),
                "alerts": self._alerts.snapshot(),
            }
        )
        self._feed.remembered()
        self._dirty = False
        self._told.clear()
        self._told_since_saved.clear()
        now = time.monotonic()
        self._save_at = now + max(SAVE_SECONDS, 50 * (now - begun))
