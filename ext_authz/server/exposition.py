"""Snapshots of several processes, merged, as Prometheus text.

Law: counters and histograms add up, gauges stand side by side (or add up where they have no label of their own);
a damaged snapshot is left out, never an error page. Non-goal: counting (metrics.py).
"""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ext_authz.server.metrics import BOUNDS_NS, DURATION, FAMILIES, STALE_SECONDS, Family, Snapshot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NANOSECONDS: Final = 1_000_000_000

_Totals = dict[str, dict[tuple[str, ...], float]]


def render(snapshots: Iterable[Snapshot], now: float) -> bytes:
    """Return the merged snapshots in Prometheus' text format 0.0.4. `now` is Unix seconds."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(list(snapshots), now))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, snapshots: list[Snapshot], now: float) -> None:
        self._values: _Totals = {name: {} for name in FAMILIES}
        self._buckets = [0] * (len(BOUNDS_NS) + 1)
        self._sum_ns = 0
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
        cumulative, buckets = 0, []
        bounds = [*(str(bound / _NANOSECONDS) for bound in BOUNDS_NS), "+Inf"]
        for bound, count in zip(bounds, self._buckets, strict=True):
            cumulative += count
            buckets.append((bound, cumulative))
        metric = HistogramMetricFamily(DURATION, family.help)
        metric.add_metric((), buckets, self._sum_ns / _NANOSECONDS)
        return metric

    def _merge(self, snapshot: Snapshot, now: float) -> None:
        """Add one snapshot, all of it or nothing."""
        counters = [self._entry(each, "counter") for each in snapshot["counters"]]
        fresh = abs(now - float(snapshot["time"])) <= STALE_SECONDS
        gauges = [self._entry(each, "gauge") for each in snapshot["gauges"]] if fresh else []
        buckets, total = [0] * len(self._buckets), 0
        if snapshot.get("bounds") == list(BOUNDS_NS):
            buckets, total = [int(count) for count in snapshot["buckets"]], int(snapshot["sum"])
        self._buckets = [mine + theirs for mine, theirs in zip(self._buckets, buckets, strict=True)]
        self._sum_ns += total
        for name, labels, value in counters + gauges:
            values = self._values[name]
            values[labels] = values.get(labels, 0) + value

    @staticmethod
    def _entry(entry: list[object], kind: str) -> tuple[str, tuple[str, ...], float]:
        name, *labels, value = entry
        family = FAMILIES[str(name)]
        if family.kind != kind or len(labels) != len(family.labels) or not isinstance(value, (int, float)):
            raise ValueError(f"not a {kind}: {name}")
        return str(name), tuple(map(str, labels)), value
