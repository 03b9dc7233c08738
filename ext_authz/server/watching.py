"""The monitor of this sidecar, put together: its own trail in, its own log and the state store out.

Law: settings that name no monitor start none. Non-goal: what the monitor does (ext_authz/monitor).
"""

import gc
import hashlib
from collections.abc import Iterable
from pathlib import Path

from ext_authz.audit.delivery import Outlet
from ext_authz.audit.redact import Redaction
from ext_authz.audit.sealing import OpenKey
from ext_authz.audit.sinks.opening import open_webhooks
from ext_authz.audit.spool import Spool
from ext_authz.config import Inputs
from ext_authz.monitor.feeds import Feed, TrailFeed
from ext_authz.monitor.fleet import Exchange
from ext_authz.monitor.runner import Monitor, Surroundings
from ext_authz.monitor.settings import MonitorSettings
from ext_authz.server import log
from ext_authz.server.metrics import ALERTS, MONITOR_ERRORS, MONITOR_WITHHELD, Registry
from ext_authz.state import StoreError
from ext_authz.state.opening import fleet_key, open_shelf, open_store
from ext_authz.state.settings import StateSettings

_COUNTED = {"alert": ALERTS, "withheld": MONITOR_WITHHELD, "failed": MONITOR_ERRORS}


def input_key(query_key: bytes, state: StateSettings) -> bytes:
    """Return the key for hashes of inputs: the fleet's, or one of the trail's key for hashes of query strings.

    Raises StoreError.
    """
    return fleet_key(state, "inputs") or hashlib.blake2b(b"inputs", key=query_key[:64], digest_size=32).digest()


def tells_inputs_apart(settings: MonitorSettings | None) -> bool:
    """Whether a monitor, here or of the whole fleet, has use for a hash of each body."""
    return settings is not None and settings.model_extraction.enabled


def webhooks(settings: MonitorSettings | None) -> list[Outlet]:
    """Return where alerts are delivered to. Raises ValueError where a library is missing."""
    return open_webhooks(settings.alerts.webhooks) if settings is not None else []


def collect_seldom() -> None:
    """Let this process look for cycles seldom: what a monitor remembers, a hundred thousand objects, has none."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def open_monitor(
    inputs: Inputs, spool: Spool, open_key: OpenKey, trails: Iterable[Path], registry: Registry
) -> Monitor | None:
    """Return the monitor of `trails`, not started; None where the configuration wants none."""
    settings = inputs.settings.monitor
    if settings is None or not settings.enabled:
        return None
    return make_monitor(inputs, settings, spool, open_key, TrailFeed(trails, open_key), registry)


def make_monitor(  # noqa: PLR0917  what surrounds it
    inputs: Inputs, settings: MonitorSettings, spool: Spool, open_key: OpenKey, feed: Feed, registry: Registry
) -> Monitor:
    """Return a monitor of `feed`, not started."""
    all_settings = inputs.settings
    try:
        shelf, key = open_shelf(all_settings.state), fleet_key(all_settings.state, "counts")
    except StoreError as error:
        log.line("monitor", f"counts are not shared with other hosts: {error}")
        shelf, key = None, b""
    surroundings = Surroundings(
        folder=all_settings.run_dir,
        feed=feed,
        open_store=lambda: open_store(all_settings.state, all_settings.run_dir),
        spool=spool,
        open_key=open_key,
        proxies=frozenset(each for each in all_settings.server.trusted_proxies if isinstance(each, str)),
        redaction=Redaction(all_settings.audit.redact),
        count=lambda outcome, label: registry.count(_COUNTED[outcome], label),
        say=lambda text: log.line("monitor", text),
        exchange=None if shelf is None else Exchange(shelf, say=lambda text: log.line("monitor", text)),
        fleet_key=key,
    )
    return Monitor(settings, surroundings)
