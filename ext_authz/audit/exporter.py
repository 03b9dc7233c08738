"""All deliveries of one trail, a thread for each, and the ledger over them.

Law: emitted = delivered + pending + dropped, for each sink; none holds up another, the trail or a check.
Non-goal: how one sink gets on (delivery.py).
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ext_authz.audit.delivery import Delivery, Outlet
from ext_authz.audit.source import SealedSource, Source, Tally
from ext_authz.audit.trail import Segment


class Exporter:
    """Follows the trail in `directory` and delivers it to every outlet."""

    def __init__(
        self,
        directory: Path,
        outlets: Sequence[Outlet],
        *,
        source: Source | None = None,
        report: Callable[[str, str, str], None] = lambda _sink, _state, _reason: None,
    ) -> None:
        """`report` as Delivery has it; it is called on several threads."""
        self._source = source or SealedSource(directory, None)
        self._deliveries = [Delivery(directory, self._source, outlet, report=report) for outlet in outlets]
        self._tally = _Tally(self._source)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start a thread for each sink."""
        if self._threads:
            raise RuntimeError("the exporter was started before")
        for delivery in self._deliveries:
            thread = threading.Thread(
                target=delivery.run, args=(self._stop,), name=f"audit-{delivery.sink.name}"[:32], daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Deliver what is there as far as the sinks take it within `seconds`; the rest waits in the trail."""
        self._stop.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def ledger(self) -> dict[str, dict[str, int | float | str]]:
        """Return, by sink name: emitted = delivered + pending + dropped, and how the sink is doing.

        `retries` and `refused` since the start, `failing` (in a row), `state` (up, down, held), `last_error`, and
        `lag` in seconds. Counts cover the segments that exist, and those removed since the start: what of them had
        not been delivered is dropped.
        """
        counted = [(each, *each.counts(), each.condition) for each in self._deliveries]
        with self._lock:
            emitted, emitted_gone = self._tally.update()
        ledger: dict[str, dict[str, int | float | str]] = {}
        now = time.time()
        for delivery, by_segment, gone, condition in counted:
            delivered, dropped, pending = gone.delivered, gone.dropped, 0
            dropped += max(0, emitted_gone - gone.delivered - gone.dropped)
            for name, events in emitted.items():
                done, refused = by_segment.get(name, (0, 0))
                delivered += done
                dropped += refused
                pending += max(0, events - done - refused)
            since = condition.waiting_since
            ledger[delivery.sink.name] = {
                "emitted": delivered + pending + dropped,
                "delivered": delivered,
                "pending": pending,
                "dropped": dropped,
                "retries": condition.retries,
                "refused": condition.refused,
                "failing": condition.failures_in_a_row,
                "state": condition.state,
                "last_error": condition.last_error,
                "lag": 0.0 if since is None or not pending else max(0.0, now - since),
            }
        return ledger

    def delivered(self, segment: Segment) -> bool:
        """Whether every sink has all of the segment, by its durable cursor."""
        return all(delivery.has(segment) for delivery in self._deliveries)

    def spool_bytes(self) -> int:
        """Return the size of the whole trail in bytes."""
        return sum(self._source.size(each) for each in self._source.segments())


class _Tally:
    """Counts the events of each segment, reading every byte once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._seen: dict[str, Tally] = {}
        self._gone = 0

    def update(self) -> tuple[dict[str, int], int]:
        """Return the events by segment, and those of segments that were removed."""
        found = self._source.segments()
        for name in self._seen.keys() - {each.name for each in found}:
            self._gone += self._seen.pop(name).lines
        for segment in found:
            self._seen[segment.name] = self._source.tally(segment, self._seen.get(segment.name, Tally()))
        return {name: seen.lines for name, seen in self._seen.items()}, self._gone
