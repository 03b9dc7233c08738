"""Snapshots of several processes, merged, as Prometheus text or, for who asks for it, as OpenMetrics with exemplars.

Law: counters and histograms add up, gauges stand side by side (or add up where they have no label of their own);
of the processes' exemplars each bucket shows the newest; a damaged snapshot is left out, never an error page.
Source: OpenMetrics 1.0. Non-goal: counting (metrics.py).
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from ext_authz.server.metrics import BOUNDS_NS, DURATION, FAMILIES, STALE_SECONDS, Family, Snapshot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_NANOSECONDS: Final = 1_000_000_000
_TRACE: Final = re.compile(r"[0-9a-f]{32}\Z")
_QUALITY: Final = re.compile(r"[01](\.[0-9]{0,3})?\Z")

_Totals = dict[str, dict[tuple[str, ...], float]]


def render(snapshots: Iterable[Snapshot], now: float, *, openmetrics: bool = False) -> bytes:
    """Return the merged snapshots in Prometheus' text format 0.0.4, or in OpenMetrics 1.0. `now` is Unix seconds."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(list(snapshots), now, exemplars=openmetrics))
    if openmetrics:
        return bytes(generate_openmetrics(registry))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def wants_openmetrics(accept: str) -> bool:
    """Whether an `Accept` names OpenMetrics and likes nothing of text better (RFC 9110 12.5.1)."""
    best = {"application/openmetrics-text": 0.0, "text": 0.0}
    for each in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in each.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                quality = float(parameter[2:]) if _QUALITY.match(parameter[2:]) else 0.0
        name = "text" if kind in ("text/plain", "text/*", "*/*") else kind
        if name in best:
            best[name] = max(best[name], quality)
    asked = best["application/openmetrics-text"]
    return asked > 0 and asked >= best["text"]


class _Merged(Collector):
    def __init__(self, snapshots: list[Snapshot], now: float, *, exemplars: bool) -> None:
        self._values: _Totals = {name: {} for name in FAMILIES}
        self._buckets = [0] * (len(BOUNDS_NS) + 1)
        self._sum_ns = 0
        self._wants_exemplars = exemplars
        self._exemplars: dict[int, tuple[float, Exemplar]] = {}
        for snapshot in snapshots:
            try:
                self._merge(snapshot, now)
            except (KeyError, TypeError, ValueError):
                continue

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, family in FAMILIES.items():
            if name == DURATION:
                yield self._durations(family)
                continue
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = make(name, family.help, labels=family.labels)
            values = self._values[name]
            if not family.labels and family.kind == "counter":
                values = {(): values.get((), 0)}  # a counter that has not counted yet is nought, not missing
            for labels, value in sorted(values.items()):
                metric.add_metric(labels, value)
            yield metric

    def _durations(self, family: Family) -> Metric:
        cumulative = 0
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        bounds = [*(str(bound / _NANOSECONDS) for bound in BOUNDS_NS), "+Inf"]
        for index, (bound, count) in enumerate(zip(bounds, self._buckets, strict=True)):
            cumulative += count
            newest = self._exemplars.get(index) if self._wants_exemplars else None
            buckets.append((bound, cumulative) if newest is None else (bound, cumulative, newest[1]))
        metric = HistogramMetricFamily(DURATION, family.help)
        metric.add_metric((), buckets, self._sum_ns / _NANOSECONDS)
        return metric

    def _merge(self, snapshot: Snapshot, now: float) -> None:
        """Add one snapshot, all of it or nothing."""
        counters = [self._entry(each, "counter") for each in snapshot["counters"]]
        fresh = abs(now - float(snapshot["time"])) <= STALE_SECONDS
        gauges = [self._entry(each, "gauge") for each in snapshot["gauges"]] if fresh else []
        buckets, total, exemplars = [0] * len(self._buckets), 0, []
        if snapshot.get("bounds") == list(BOUNDS_NS):
            buckets, total = [int(count) for count in snapshot["buckets"]], int(snapshot["sum"])
            exemplars = [self._exemplar(*each) for each in snapshot.get("exemplars", ())]
        self._buckets = [mine + theirs for mine, theirs in zip(self._buckets, buckets, strict=True)]
        self._sum_ns += total
        for index, at, exemplar in exemplars:
            if index not in self._exemplars or self._exemplars[index][0] < at:
                self._exemplars[index] = (at, exemplar)
        for name, labels, value in counters + gauges:
            values = self._values[name]
            values[labels] = values.get(labels, 0) + value

    @staticmethod
    def _exemplar(index: int, trace: str, duration_ns: int, at: float) -> tuple[int, float, Exemplar]:
        """Return an exemplar of a snapshot; one outside its bucket is none (OpenMetrics, "Exemplars")."""
        if not _TRACE.match(trace) or bisect_left(BOUNDS_NS, duration_ns) != index:
            raise ValueError("not an exemplar")
        return index, float(at), Exemplar({"trace_id": trace}, duration_ns / _NANOSECONDS, float(at))

    @staticmethod
    def _entry(entry: list[object], kind: str) -> tuple[str, tuple[str, ...], float]:
        name, *labels, value = entry
        family = FAMILIES[str(name)]
        if family.kind != kind or len(labels) != len(family.labels) or not isinstance(value, (int, float)):
            raise ValueError(f"not a {kind}: {name}")
        return str(name), tuple(map(str, labels)), value
