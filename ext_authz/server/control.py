"""The control plane: reloads, exports the trail, records state changes, serves the admin listener.

Law: no check waits for anything in here; it may stall, die and start again.
"""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz import wiring
from ext_authz.audit.exporter import Exporter
from ext_authz.audit.redact import Redaction
from ext_authz.audit.retention import UnhurriedClock, prune
from ext_authz.audit.sinks.opening import open_sinks
from ext_authz.audit.source import SealedSource
from ext_authz.audit.spool import AuditUnavailable, Committer
from ext_authz.authn.remote import Fetched
from ext_authz.config import Inputs
from ext_authz.config.listeners import admin_token
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.server import log
from ext_authz.server.admin import AdminServer
from ext_authz.server.admin_pages import AdminPages
from ext_authz.server.asking_issuers import IssuerAsker
from ext_authz.server.bundle_desk import BundleDesk
from ext_authz.server.desk import Desk, Sources
from ext_authz.server.exposition import render
from ext_authz.server.feed import Feed
from ext_authz.server.keys import KeyKeeper
from ext_authz.server.link import Kind, Link, adopt
from ext_authz.server.metrics import (
    AUDIT_EVENTS,
    CHECKPOINT_AGE,
    KEY_FETCHES,
    KEYS_AGE,
    KEYS_USABLE,
    LEFT_ALONE,
    MONITOR_LAG,
    MONITOR_QUARANTINES,
    QUESTIONS,
    READY,
    RELOADS,
    SINK_HELD,
    SINK_LAG,
    SINK_UP,
    SPOOL_BYTES,
    MetricsWriter,
    Registry,
    Snapshot,
    read_snapshots,
)
from ext_authz.server.page.facts import LastReload
from ext_authz.server.recorder import CONTROL, Recorder
from ext_authz.server.reload import Reloader
from ext_authz.server.transport import BindError, tls_files
from ext_authz.server.watching import collect_seldom, open_monitor, webhooks
from ext_authz.state import StoreError
from ext_authz.state.opening import open_store
from ext_authz.state.sqlite import SqliteStore

LOOK_SECONDS: Final = 0.25
PRUNE_LOOKS: Final = 240
"""The trail is looked through for segments that are over their time every this many looks: once a minute."""
RELOAD_LOOKS: Final = 2
"""Files are looked at every this many looks at the state store."""


class Control:
    """The control process. Everything that changes happens on the thread that runs `run`."""

    def __init__(self, config_file: Path, link: Link, inputs: Inputs, fetched: Fetched) -> None:
        settings = inputs.settings
        log.use(settings.log.format)
        self._link = link
        self._run_dir = settings.run_dir
        audit = settings.run_dir / "audit"
        self._retain, self._clock = float(settings.audit.spool.retain), UnhurriedClock(audit)
        keys = wiring.trail_keys(inputs, os.environ)
        self._spool = wiring.open_spool(inputs, CONTROL, keys)
        self._committer = Committer(self._spool)
        self._open_key = keys.open
        self._recorder = Recorder(self._spool, keys.open, redaction=Redaction(settings.audit.redact))
        self._sink_news: queue.SimpleQueue[tuple[str, str, str]] = queue.SimpleQueue()
        self._exporter = Exporter(
            audit,
            [*open_sinks(settings.audit.sinks, audit), *webhooks(settings.monitor)],
            source=SealedSource(audit, keys.open),
            report=lambda *news: self._sink_news.put(news),
        )
        self._reloader = Reloader(config_file, inputs, os.environ, self._publish)
        self._workers = settings.server.worker_count()
        self._adopted: dict[str, str] = {}
        self._registry = Registry(CONTROL)
        self._metrics = settings.run_dir / "metrics"
        self._writer = MetricsWriter(self._registry, self._metrics, CONTROL)
        self._jwks = wiring.published_keys(inputs)
        self._keys = KeyKeeper(
            settings.identity.jwt,
            fetched,
            settings.run_dir,
            lambda keys: self._link.post(Kind.KEYS, keys.to_bytes()),
            count=lambda issuer, result: self._registry.count(KEY_FETCHES, issuer, result),
        )
        self._bundles = BundleDesk(settings.run_dir, self._reloader, self._registry, self._record)
        self._asker = IssuerAsker(
            settings.identity.asked,
            lambda key, answer: self._link.post(Kind.ANSWER, answer.to_bytes(key)),
            count=lambda issuer, result: self._registry.count(QUESTIONS, issuer, result),
        )
        self._token_file = settings.admin.token_file
        self._last_reload = LastReload()
        self._desk = Desk(
            Sources(
                inputs=lambda: self._reloader.inputs,
                ready=self._not_ready,
                reload=lambda: self._last_reload,
                counted=self._counted,
                sinks=self._exporter.ledger,
                spool_bytes=self._exporter.spool_bytes,
                record=lambda what, result, about: self._recorder.lifecycle(what, result=result, details=about),
            ),
            Feed(audit, keys.open),
        )
        self._admin = AdminServer(
            settings.admin.listen,
            AdminPages(
                ready=self._not_ready,
                metrics=self._render,
                jwks=lambda: self._jwks,
                gated=self._desk.gated(),
                token=self._token,
                login=self._desk.login,
                tried=self._desk.tried,
            ),
            tls_files(settings.admin.tls),
        )
        self._monitor = open_monitor(inputs, self._spool, keys.open, [audit], self._registry)
        self._store: SqliteStore | None = None
        self._store_problem = ""
        self._broken = False
        self._reload = threading.Event()
        self._done = threading.Event()

    def run(self) -> None:
        """Work until the supervisor says drain or is gone."""
        self._recorder.lifecycle("start", details=self._bundles.details())
        self._committer.start()
        self._exporter.start()
        if self._monitor is not None:
            collect_seldom()
            self._monitor.start()
        self._writer.start()
        self._keys.start()
        self._bundles.aim()
        self._desk.start()
        self._admin.start()
        self._link.send(Kind.READY, f"listening on {self._admin.address} (admin)".encode())
        threading.Thread(target=self._follow, name="link", daemon=True).start()
        looks = 0
        while not self._done.is_set():
            if looks % PRUNE_LOOKS == 0:
                self._prune()
            looks += 1
            self._record_changes()
            self._record_sinks()
            asked = self._reload.is_set()
            self._reload.clear()
            if asked or (looks % RELOAD_LOOKS == 0 and self._reloader.changed()):
                self._reload_now(asked=asked)
            self._bundles.work()
            if asked:
                self._bundles.look()
            if not self._reload.is_set():
                self._done.wait(LOOK_SECONDS)
        self._keys.stop()
        self._bundles.stop()
        self._asker.stop()
        if self._monitor is not None:
            self._monitor.stop()
        self._record_changes()
        self._record("stop")
        self._committer.stop()
        self._spool.close()
        self._exporter.stop()
        self._writer.stop()
        self._admin.stop()
        self._desk.stop()

    def _prune(self) -> None:
        """Delete what of the trail is over its time, and say so in the trail."""
        try:
            prune(
                self._run_dir / "audit",
                self._retain,
                self._exporter.delivered,
                announce=self._recorder.removals,
                clock=self._clock,
                open_key=self._open_key,
            )
        except OSError as error:
            log.line(CONTROL, f"old segments of the trail could not be deleted: {error}")

    def _follow(self) -> None:
        while (message := self._link.receive()) is not None:
            kind, payload = message
            if kind is Kind.DRAIN:
                break
            if kind is Kind.RELOAD:
                self._reload.set()
            elif kind is Kind.WANTED:
                self._keys.want(*orjson.loads(payload))
            elif kind is Kind.QUESTION:
                self._asker.question(*orjson.loads(payload))
            elif kind is Kind.ADOPTED:
                worker, _, revision = payload.decode().partition(" ")
                self._adopted = {**self._adopted, worker: revision}
        self._done.set()

    def _publish(self, inputs: Inputs) -> None:
        self._link.send(Kind.SNAPSHOT, inputs.to_bytes())
        self._jwks = wiring.published_keys(inputs)
        self._keys.aim(inputs.settings.identity.jwt)
        self._asker.aim(inputs.settings.identity.asked)

    def _reload_now(self, *, asked: bool) -> None:
        result = self._reloader.reload()
        mended = self._broken and not result.problems
        self._broken = bool(result.problems)
        if result.unchanged and not asked and not mended:
            return
        self._registry.count(RELOADS, "failed" if result.problems else "ok")
        self._last_reload = LastReload(time.time(), result.problems, result.stale)
        if result.problems:
            log.line(
                CONTROL,
                "reload failed, the last good configuration stays:\n" + "\n".join(result.problems),
                level="error",
            )
        else:
            log.line(CONTROL, f"revision {result.revision} is loaded" + (" (nothing changed)" * result.unchanged))
        self._bundles.aim()
        for section in result.stale:
            log.line(CONTROL, f"`{section}` changed; that takes effect at the next start", level="warning")
        self._record(
            "reload",
            result="failed" if result.problems else "ok",
            revision=result.revision,
            diagnostics=result.problems,
        )

    def _record(
        self,
        what: str,
        *,
        result: str = "ok",
        revision: str = "",
        diagnostics: tuple[str, ...] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        details = self._bundles.details() | ({"revision": revision} if revision else {}) if about is None else about
        try:
            self._recorder.lifecycle(what, result=result, details=details, diagnostics=diagnostics)
        except AuditUnavailable as error:
            log.line(CONTROL, f"the event `{what}` could not be recorded: {error}")

    def _record_sinks(self) -> None:
        while not self._sink_news.empty():
            sink, state, reason = self._sink_news.get()
            said = f"the sink `{sink}` is {state}" + (f": {reason}" if reason else "")
            log.line(CONTROL, said, level="info" if state == "up" else "error")
            self._record(
                "sink",
                result="ok" if state == "up" else "failed",
                about={"sink": {"name": sink, "state": state, "error": reason}},
            )

    def _record_changes(self) -> None:
        try:
            if self._store is None:
                self._store = open_store(self._reloader.inputs.settings.state, self._run_dir)
            self._recorder.changes(self._store)
            self._store_problem = ""
        except (StoreError, AuditUnavailable, OSError) as error:
            if str(error) != self._store_problem:
                log.line(CONTROL, f"state changes wait to be recorded: {error}")
            self._store_problem = str(error)
            if self._store is not None:
                self._store.close()
                self._store = None

    def _not_ready(self) -> str:
        revision = self._reloader.inputs.revision
        ready = sum(1 for adopted in self._adopted.values() if adopted == revision)
        if ready < self._workers:
            return f"{ready} of {self._workers} workers serve revision {revision}"
        waiting = ", ".join(f"`{issuer}`" for issuer in self._keys.waiting())
        return f"the keys of {waiting} could not be fetched yet; its tokens are refused" if waiting else ""

    def _token(self) -> str:
        if self._token_file is None:
            return ""
        try:
            return admin_token(self._token_file.read_bytes())  # rotated without a reload: judged here again
        except OSError:
            return ""

    def _render(self, openmetrics: bool) -> bytes:  # noqa: FBT001  the listener's callback has one argument
        now = time.time()
        self._registry.gauge(READY, not self._not_ready())
        self._registry.gauge(SPOOL_BYTES, self._exporter.spool_bytes())
        self._registry.gauge(CHECKPOINT_AGE, self._spool.ledger.age(), CONTROL)
        if self._monitor is not None:
            self._registry.gauge(MONITOR_LAG, self._monitor.behind_seconds)
            self._registry.gauge(MONITOR_QUARANTINES, self._monitor.quarantines)
        return render([*self._counted(), self._ledger(now), self._ages(now)], now, openmetrics=openmetrics)

    def _counted(self) -> list[Snapshot]:
        """Return what every process has counted."""
        return [*read_snapshots(self._metrics, besides=CONTROL), self._registry.snapshot(time.time())]

    def _ledger(self, now: float) -> Snapshot:
        counters: list[list[object]] = []
        gauges: list[list[object]] = [[LEFT_ALONE, name, int(is_so)] for name, is_so in self._asker.tripped().items()]
        for sink, counts in self._exporter.ledger().items():
            outcomes = ("emitted", "delivered", "pending", "dropped", "retries", "refused")
            counters += [[AUDIT_EVENTS, outcome, sink, counts[outcome]] for outcome in outcomes]
            gauges += [
                [SINK_UP, sink, int(counts["state"] == "up")],
                [SINK_HELD, sink, int(counts["state"] == "held")],
                [SINK_LAG, sink, counts["lag"]],
            ]
        return {"time": now, "counters": counters, "gauges": gauges}

    def _ages(self, now: float) -> Snapshot:
        gauges = self._bundles.gauges(now)
        for each in self._keys.statuses():
            gauges.append([KEYS_USABLE, each.issuer, int(each.usable)])
            if each.age is not None:
                gauges.append([KEYS_AGE, each.issuer, each.age])
        return {"time": now, "counters": [], "gauges": gauges}


def main(arguments: list[str]) -> int:
    """Run the control process over the inherited descriptor FD: `control FD CONFIG`."""
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    link = adopt(int(arguments[0]))
    keys, first = link.receive(), link.receive()
    if keys is None or first is None or first[0] is not Kind.SNAPSHOT:
        return 70
    try:
        Control(Path(arguments[1]), link, Inputs.from_bytes(first[1]), Fetched.from_bytes(keys[1])).run()
    except (BindError, AuditUnavailable, KeyUnavailableError, OSError, ValueError) as error:
        link.send(Kind.FAILED, str(error).encode())
        time.sleep(0.1)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
