"""Counters, gauges and one histogram of a process, and their way into a file that the control process merges.

Law: a check pays one lock and a few additions; counters never go backwards, not even when a process is killed and
started again. No label takes a value that a caller chose. Non-goal: the text format (exposition.py).
"""

import json
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ext_authz.model import Outcome, Reason

WRITE_SECONDS: Final = 1.0
STALE_SECONDS: Final = 10.0
"""A process that has not written for so long is gone: its counters stay, its gauges do not."""
SKEW_NS: Final = 60 * 1_000_000_000
BOUNDS_NS: Final = tuple(
    microseconds * 1000
    for microseconds in (
        (25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 200_000, 250_000, 1_000_000)
    )
)
"""Upper bounds of the duration histogram; +Inf follows. 0.2 s is Envoy's own timeout for a check."""

_MAX_PENDING: Final = 4096
_MAX_FILE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: what it counts and by which labels."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


CHECKS: Final = "ext_authz_checks_total"
DURATION: Final = "ext_authz_check_duration_seconds"
POLICY_DECISIONS: Final = "ext_authz_policy_decisions_total"
REVISION: Final = "ext_authz_policy_revision_info"
RELOADS: Final = "ext_authz_reloads_total"
STATE_AGE: Final = "ext_authz_state_age_seconds"
AUDIT_EVENTS: Final = "ext_authz_audit_events_total"
SPOOL_BYTES: Final = "ext_authz_audit_spool_bytes"
DATA_KEY_READY: Final = "ext_authz_audit_data_key_ready"
MISSED: Final = "ext_authz_audit_missed_events"
CHECKPOINT_AGE: Final = "ext_authz_audit_checkpoint_age_seconds"
SINK_UP: Final = "ext_authz_audit_sink_up"
SINK_HELD: Final = "ext_authz_audit_sink_held"
SINK_LAG: Final = "ext_authz_audit_sink_lag_seconds"
ALERTS: Final = "ext_authz_alerts_total"
MONITOR_LAG: Final = "ext_authz_monitor_lag_seconds"
MONITOR_QUARANTINES: Final = "ext_authz_monitor_quarantines"
MONITOR_WITHHELD: Final = "ext_authz_monitor_withheld_total"
MONITOR_ERRORS: Final = "ext_authz_monitor_errors_total"
READY: Final = "ext_authz_ready"
SPANS: Final = "ext_authz_spans_total"
INTERNAL_ERRORS: Final = "ext_authz_internal_errors_total"
CLOCK_SKEW: Final = "ext_authz_clock_skew_total"
KEYS_AGE: Final = "ext_authz_jwks_age_seconds"
KEYS_USABLE: Final = "ext_authz_jwks_usable"
KEY_FETCHES: Final = "ext_authz_jwks_fetches_total"
BUNDLE_FETCHES: Final = "ext_authz_bundle_fetches_total"
BUNDLE_REVISION: Final = "ext_authz_bundle_revision"
BUNDLE_EXPIRES: Final = "ext_authz_bundle_expires_seconds"
BUNDLE_CHECKED: Final = "ext_authz_bundle_age_seconds"
QUESTIONS: Final = "ext_authz_token_questions_total"
LEFT_ALONE: Final = "ext_authz_token_issuer_left_alone"

FAMILIES: Final[dict[str, Family]] = {
    CHECKS: Family("counter", "Checks answered.", ("decision", "reason")),
    DURATION: Family("histogram", "Time from a check's bytes to its answer, its audit event included."),
    POLICY_DECISIONS: Family(
        "counter", "Times a policy matched, by what it says and whether it is enforced.", ("policy", "effect", "mode")
    ),
    REVISION: Family("gauge", "The policy revision in force in each process.", ("revision", "process")),
    READY: Family("gauge", "Whether every worker serves the revision last loaded, and every issuer's keys are here."),
    RELOADS: Family("counter", "Reloads of configuration and policies.", ("result",)),
    STATE_AGE: Family("gauge", "Seconds since approvals, revocations and quarantines were last read.", ("process",)),
    AUDIT_EVENTS: Family("counter", "Audit events by what became of them at each sink.", ("outcome", "sink")),
    SPOOL_BYTES: Family("gauge", "Bytes of the audit trail on this machine."),
    DATA_KEY_READY: Family("gauge", "Whether the data key of a log's next segment is wrapped.", ("process",)),
    MISSED: Family("gauge", "Events that could not be recorded and stand in no gap event yet.", ("process",)),
    CHECKPOINT_AGE: Family("gauge", "Seconds since a process last signed its part of the trail.", ("process",)),
    SINK_UP: Family("gauge", "Whether a sink took what it was last given.", ("sink",)),
    SINK_HELD: Family("gauge", "Whether a sink waits for somebody to mend its configuration.", ("sink",)),
    SINK_LAG: Family("gauge", "Age of the oldest event that a sink does not have yet.", ("sink",)),
    ALERTS: Family("counter", "Alerts raised.", ("detector",)),
    MONITOR_LAG: Family("gauge", "How far the monitor is behind the trail."),
    MONITOR_QUARANTINES: Family("gauge", "Quarantines in force that a monitor imposed."),
    MONITOR_WITHHELD: Family(
        "counter",
        "Quarantines that the monitor did not impose, by why; `risk_changes`: days on which it recorded no more risks.",
        ("why",),
    ),
    MONITOR_ERRORS: Family("counter", "Events that a detector failed on, by kind of exception.", ("error",)),
    SPANS: Family("counter", "Spans of checks, by what became of them: sent, failed, dropped.", ("result",)),
    INTERNAL_ERRORS: Family("counter", "Checks that failed on a bug or an outage, by kind of exception.", ("error",)),
    CLOCK_SKEW: Family("counter", "Checks whose request time was over 60 s from this machine's clock."),
    KEYS_AGE: Family("gauge", "Seconds since an issuer's keys were last fetched.", ("issuer",)),
    KEYS_USABLE: Family(
        "gauge", "Whether an issuer's tokens can be verified: keys are here, not too old.", ("issuer",)
    ),
    QUESTIONS: Family("counter", "Questions to issuers what a token is, by what became of them.", ("issuer", "result")),
    LEFT_ALONE: Family("gauge", "Whether an issuer failed so often that it is not asked for a while.", ("issuer",)),
    KEY_FETCHES: Family("counter", "Attempts to fetch an issuer's keys.", ("issuer", "result")),
    BUNDLE_FETCHES: Family("counter", "Looks at the server of the bundle, by what came of them.", ("result",)),
    BUNDLE_REVISION: Family("gauge", "Revision of the bundle in force.", ("bundle",)),
    BUNDLE_EXPIRES: Family("gauge", "Seconds until the bundle in force expires; negative: since then.", ("bundle",)),
    BUNDLE_CHECKED: Family(
        "gauge", "Seconds since the server last had a good bundle, or said that ours is it.", ("bundle",)
    ),
}
"""Every metric there is; counting anything else is a KeyError."""

Snapshot = dict[str, Any]
_Key = tuple[str, ...]
_Seen = tuple[bool, Reason, tuple[str, ...], tuple[Any, ...]]


class Registry:
    """Counters and gauges of one process; used by any thread.

    Totals start from what the process of the same name had last written (see MetricsWriter).
    """

    def __init__(self, process: str = "") -> None:
        self.process = process
        self.revision = ""
        self._lock = threading.Lock()
        self._counters: dict[_Key, float] = {}
        self._gauges: dict[_Key, float] = {}
        self._sampled: dict[_Key, Callable[[], float]] = {}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter. Raises KeyError or ValueError for a metric or labels that do not exist."""
        key = _key("counter", name, labels)
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + by

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge. Raises as count does."""
        key = _key("gauge", name, labels)
        with self._lock:
            self._gauges[key] = value

    def sample(self, name: str, read: Callable[[], float], *labels: str) -> None:
        """Read a gauge from a function at each snapshot. Raises as count does."""
        self._sampled[_key("gauge", name, labels)] = read

    def snapshot(self, now: float) -> Snapshot:
        """Return everything as JSON-able data. `now` is Unix seconds."""
        sampled = {key: read() for key, read in self._sampled.items()}
        with self._lock:
            self._fold()
            gauges = self._gauges | sampled
            if self.revision:
                gauges[REVISION, self.revision, self.process] = 1
            return {
                "time": now,
                "counters": [[*key, value] for key, value in self._counters.items()],
                "gauges": [[*key, value] for key, value in gauges.items()],
                **self._histogram(),
            }

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from an earlier snapshot's totals. Raises ValueError, KeyError or TypeError for anything else."""
        for *key, value in snapshot["counters"]:
            name, *labels = (str(part) for part in key)
            if name in FAMILIES:
                self.count(name, *labels, by=float(value))

    def _fold(self) -> None:
        """Turn what was noted cheaply into counters; the lock is held."""

    def _histogram(self) -> Snapshot:
        return {}


class WorkerMetrics(Registry):
    """A worker's metrics: a Registry that also watches every check."""

    def __init__(self, process: str = "") -> None:
        super().__init__(process)
        self._pending: dict[_Seen, int] = {}
        self._buckets = [0] * (len(BOUNDS_NS) + 1)
        self._sum_ns = 0
        self._skewed = 0
        self._exemplars: list[tuple[str, int, float] | None] = [None] * len(self._buckets)

    def observe(self, outcome: Outcome, duration_ns: int, trace: str = "") -> None:
        """Count one answered check that took `duration_ns` nanoseconds.

        With `trace`, the id of the trace that its span is in, it becomes its bucket's exemplar.
        """
        decision, context = outcome.decision, outcome.context
        seen = (decision.allowed, decision.reason, decision.policies, decision.shadow)
        bucket = bisect_left(BOUNDS_NS, duration_ns)
        skewed = context is not None and not -SKEW_NS <= context.time_ns - context.now_ns <= SKEW_NS
        with self._lock:
            pending = self._pending
            pending[seen] = pending.get(seen, 0) + 1
            self._buckets[bucket] += 1
            self._sum_ns += duration_ns
            self._skewed += skewed
            if trace:
                self._exemplars[bucket] = (trace, duration_ns, time.time())
            if len(pending) > _MAX_PENDING:
                self._fold()

    def internal_error(self, error: BaseException) -> None:
        """Count a failure of ours by its kind."""
        self.count(INTERNAL_ERRORS, type(error).__name__)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from an earlier snapshot, its histogram included where the buckets are the same."""
        super().restore(snapshot)
        if snapshot.get("bounds") == list(BOUNDS_NS):
            buckets, total = [int(count) for count in snapshot["buckets"]], int(snapshot["sum"])
            with self._lock:
                self._buckets = [mine + before for mine, before in zip(self._buckets, buckets, strict=True)]
                self._sum_ns += total

    def _fold(self) -> None:
        for (allowed, reason, policies, shadow), count in self._pending.items():
            effect = "allow" if allowed else "deny"
            self._add((CHECKS, effect, reason.value), count)
            if reason in _BY_POLICY:
                for policy in policies:
                    self._add((POLICY_DECISIONS, policy, effect, "enforce"), count)
            for match in shadow:
                self._add((POLICY_DECISIONS, match.policy_id, match.effect, "shadow"), count)
        self._pending = {}
        if self._skewed:
            self._add((CLOCK_SKEW,), self._skewed)
            self._skewed = 0

    def _add(self, key: _Key, count: int) -> None:
        self._counters[key] = self._counters.get(key, 0) + count

    def _histogram(self) -> Snapshot:
        exemplars = [[index, *each] for index, each in enumerate(self._exemplars) if each is not None]
        return {
            "bounds": list(BOUNDS_NS),
            "buckets": list(self._buckets),
            "sum": self._sum_ns,
            "exemplars": exemplars,
        }


_BY_POLICY: Final = frozenset({Reason.ALLOWED, Reason.DENIED_BY_POLICY})
"""Reasons of which `Decision.policies` are the policies that matched."""


def _key(kind: str, name: str, labels: tuple[str, ...]) -> _Key:
    family = FAMILIES[name]
    if family.kind != kind or len(labels) != len(family.labels):
        raise ValueError(f"{name} is a {family.kind} with the labels {family.labels}")
    return (name, *labels)


class MetricsWriter:
    """Writes a registry's snapshot to `folder/NAME.json` every second, whole or not at all.

    Starting, it goes on from the totals of that file, so that a killed process loses at most a second of counts.
    """

    def __init__(self, registry: Registry, folder: Path, name: str, *, clock: Callable[[], float] = time.time) -> None:
        registry.process = registry.process or name
        self._registry = registry
        self._path = folder / f"{name}.json"
        self._clock = clock
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        before = read_snapshot(self._path)
        if before is not None:
            try:
                registry.restore(before)
            except (KeyError, TypeError, ValueError):
                return  # another version's file, or a damaged one: counters start at nought, as after a new disk

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write once more and end."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        self.write()

    def write(self) -> bool:
        """Write the file now; False when the disk would not have it."""
        data = json.dumps(self._registry.snapshot(self._clock()), separators=(",", ":")).encode()
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            fresh.replace(self._path)
        except OSError:
            return False
        return True

    def _run(self) -> None:
        while not self._done.wait(WRITE_SECONDS):
            self.write()


def read_snapshot(path: Path) -> Snapshot | None:
    """Return the snapshot in a file; None when there is none that can be read."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_snapshots(folder: Path, *, besides: str = "") -> list[Snapshot]:
    """Return the snapshots of every process that writes to `folder`, but not that of the process `besides`."""
    found = [read_snapshot(path) for path in sorted(folder.glob("*.json")) if path.stem != besides]
    return [snapshot for snapshot in found if snapshot is not None]
