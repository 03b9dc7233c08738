"""One monitor for a fleet: events of many sidecars in, alerts out, risk and quarantines into the store they share.

Law: it answers no check, and has a `run_dir`, a trail and a key of its own. Non-goal: several of them at once.
"""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ext_authz import config, wiring
from ext_authz.audit.exporter import Exporter
from ext_authz.audit.redact import Redaction
from ext_authz.audit.retention import UnhurriedClock, prune
from ext_authz.audit.sinks.opening import open_sinks
from ext_authz.audit.source import SealedSource
from ext_authz.audit.spool import AuditUnavailable, Committer
from ext_authz.config import Inputs
from ext_authz.monitor.feeds import Feed
from ext_authz.server import log
from ext_authz.server.metrics import Registry
from ext_authz.server.recorder import CONTROL, Recorder
from ext_authz.server.watching import collect_seldom, make_monitor, webhooks
from ext_authz.state import StoreError
from ext_authz.state.opening import open_replicator, open_store

SECTIONS: Final = frozenset({"server", "run_dir", "audit", "state", "monitor", "log"})
"""Of the configuration; of `server` only whom `trusted_proxies` exempts. Nothing is decided here: policies, routes and
identities need not be there, and are not looked at."""
LOOK_SECONDS: Final = 0.25
PRUNE_SECONDS: Final = 60.0


class CentralError(Exception):
    """It cannot start, for a reason that the user can change."""


def watch(inputs: Inputs, open_feed: Callable[[], Feed], ready: Callable[[], None] = lambda: None) -> None:
    """Watch until SIGTERM, SIGINT or the end of the events. Raises CentralError, StoreError, KeyUnavailableError."""
    settings = inputs.settings
    log.use(settings.log.format)
    if settings.monitor is None:
        raise CentralError("the configuration has no `monitor` section")
    config.prepare_run_dir(settings.run_dir)
    with (settings.run_dir / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CentralError(
                f"`run_dir` {settings.run_dir} is in use by another ext-authz: a central monitor needs its own"
            ) from None
        for warning in wiring.trail_keys(inputs, os.environ).prepare():
            log.line("monitor", f"warning: {warning}")
        open_store(settings.state, settings.run_dir, create=True).close()
        _run(inputs, open_feed, ready)


def _run(inputs: Inputs, open_feed: Callable[[], Feed], ready: Callable[[], None]) -> None:
    settings, monitoring = inputs.settings, inputs.settings.monitor
    if monitoring is None:
        raise CentralError("the configuration has no `monitor` section")
    if settings.state.url is None:
        log.line("monitor", "warning: `state` is not shared, so risk and quarantines reach no sidecar; alerts do")
    audit, keys = settings.run_dir / "audit", wiring.trail_keys(inputs, os.environ)
    spool = wiring.open_spool(inputs, CONTROL, keys)
    committer = Committer(spool)
    recorder = Recorder(spool, keys.open, redaction=Redaction(settings.audit.redact))
    exporter = Exporter(
        audit,
        [*open_sinks(settings.audit.sinks, audit), *webhooks(monitoring)],
        source=SealedSource(audit, keys.open),
        report=lambda sink, state, why: log.line("monitor", f"the sink `{sink}` is {state} {why}".rstrip()),
    )
    replicator = open_replicator(settings.state, settings.run_dir)
    monitor = make_monitor(inputs, monitoring, spool, keys.open, open_feed(), Registry(CONTROL))
    done = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: done.set())
    recorder.lifecycle("start", details={"central_monitor": True})
    committer.start()
    exporter.start()
    if replicator is not None:
        replicator.start()
    collect_seldom()
    monitor.start()
    ready()
    store, pruned, clock = None, 0.0, UnhurriedClock(audit)
    while not done.wait(LOOK_SECONDS) and monitor.running:
        try:
            store = store or open_store(settings.state, settings.run_dir)
            recorder.changes(store)
            if time.monotonic() - pruned > PRUNE_SECONDS:
                pruned = time.monotonic()
                retain = float(settings.audit.spool.retain)
                prune(
                    audit,
                    retain,
                    exporter.delivered,
                    announce=recorder.removals,
                    clock=clock,
                    open_key=keys.open,
                )
        except (StoreError, AuditUnavailable, OSError) as error:
            log.line("monitor", str(error))
    monitor.stop()
    if replicator is not None:
        replicator.stop()
        _carry_the_rest(inputs)
    if store is not None:
        recorder.changes(store)
        store.close()
    recorder.lifecycle("stop")
    committer.stop()
    spool.close()
    exporter.stop()


def _carry_the_rest(inputs: Inputs) -> None:
    """Give what was recorded last to the fleet; where that cannot be now it waits in `run_dir` for the next start."""
    replicator = open_replicator(inputs.settings.state, inputs.settings.run_dir)
    if replicator is None:
        return
    try:
        replicator.sync()
    except StoreError as error:
        log.line("monitor", f"changes wait to be shared: {error}")
    finally:
        replicator.drop()


def feed_of(sources: list[str], open_trail: Callable[[list[Path]], Feed], ca_file: Path | None) -> Feed:
    """Return the feed that arguments name: `-`, one stream, or trails and files. Raises CentralError."""
    from ext_authz.monitor.feeds_nats import NatsFeed
    from ext_authz.monitor.feeds_streams import PipeFeed, RedisFeed

    environ = os.environ
    if sources == ["-"]:
        return PipeFeed()
    if len(sources) == 1 and sources[0].startswith(("nats://", "tls://")):
        try:
            return NatsFeed(
                sources[0],
                username=environ.get("EXT_AUTHZ_NATS_USERNAME"),
                password=environ.get("EXT_AUTHZ_NATS_PASSWORD"),
                token=environ.get("EXT_AUTHZ_NATS_TOKEN"),
                ca_file=None if ca_file is None else str(ca_file),
            )
        except ValueError as error:
            raise CentralError(str(error)) from None
    if len(sources) == 1 and sources[0].startswith(("redis://", "rediss://")):
        try:
            return RedisFeed(
                sources[0],
                username=environ.get("EXT_AUTHZ_REDIS_USERNAME"),
                password=environ.get("EXT_AUTHZ_REDIS_PASSWORD"),
                ca_file=None if ca_file is None else str(ca_file),
            )
        except ValueError as error:
            raise CentralError(str(error)) from None
    if any(each == "-" or "://" in each for each in sources):
        raise CentralError("`-` and a stream stand alone; folders and files may be several")
    return open_trail([Path(each) for each in sources])
