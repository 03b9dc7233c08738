"""What the exporter moves: events a second from a sealed trail to a file and to an HTTP receiver on loopback.

    python benchmarks/audit_export.py [--events 100000] [--formats native,ocsf]

It exits 1 where one of them moves fewer by the clock than AIMS say.

Median of three rounds each; the receiver runs in a process of its own and reads what it is sent. By the clock says
little on a busy machine: by CPU is what one free core would move, less what it waits for disk and network. Formats are timed alone, in microseconds of CPU per event.
"""

# ruff: noqa: E402  the helpers of the tests are found first

import argparse
import http.server
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests/support"), str(Path(__file__).parent)]

from audit import LIMITS, outcome
from trails import new_spool, open_key

from ext_authz.audit.decision import decision_event
from ext_authz.audit.delivery import Delivery
from ext_authz.audit.formats import ENCODERS
from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.sinks import Item
from ext_authz.audit.sinks.opening import open_sinks
from ext_authz.audit.source import SealedSource

ROUNDS = 3
AIMS = {"file": 20_000, "http, array": 10_000, "http, gzip": 10_000}
"""Events a second."""


class Reader(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        left = int(self.headers["content-length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--formats", default=",".join(ENCODERS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trail = Path(folder) / "audit"
        lines = fill(trail, arguments.events)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Reader)
        child = os.fork()
        if child == 0:
            server.serve_forever()
        missed = []
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            for name, settings in (
                ("file", {"type": "file", "path": f"{folder}/events.jsonl"}),
                ("http, array", {"type": "http", "url": url}),
                ("http, gzip", {"type": "http", "url": url, "compression": "gzip"}),
            ):
                rounds = [moved(trail, {**settings, "name": f"{name} {turn}"}) for turn in range(ROUNDS)]
                wall, cpu = (arguments.events / statistics.median(each) for each in zip(*rounds, strict=True))
                aim = f"{wall / AIMS[name]:.2f} of the aim"
                print(f"{name:14} {wall:10,.0f} events/s by the clock {cpu:10,.0f} by CPU, {aim}")
                if wall < AIMS[name]:
                    missed.append(f"{name}: {wall:,.0f} events a second, aim {AIMS[name]:,}")
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
    print(f"{'load average':14} {os.getloadavg()[0]:10.1f} on {len(os.sched_getaffinity(0))} cores")
    for name in arguments.formats.split(","):
        begin = time.process_time()
        for line in lines[:20_000]:
            ENCODERS[name](Item(line))
        print(f"{name:14} {(time.process_time() - begin) / len(lines[:20_000]) * 1e6:10.1f} µs of CPU per event")
    if missed:
        sys.exit("\n".join(missed))


def fill(trail: Path, count: int) -> list[bytes]:
    spool = new_spool(trail, limits=LIMITS)
    made, claims, lines = outcome(), frozenset({"kind", "email"}), []
    for seq in range(count):
        lines.append(decision_event(made, log_id=spool.log_id, seq=seq, claims_read=claims))
        spool.append(lambda _, line=lines[-1]: line)
    spool.close()
    return lines


def moved(trail: Path, settings: dict[str, object]) -> tuple[float, float]:
    """Return the seconds from nothing delivered to everything, by the clock and of this process' CPU."""
    (outlet,) = open_sinks(AuditSettings.model_validate({"sinks": [settings]}).sinks, trail)
    delivery = Delivery(trail, SealedSource(trail, open_key), outlet)
    begin, used = time.perf_counter(), time.process_time()
    while delivery.step(final=True):
        pass
    took = time.perf_counter() - begin, time.process_time() - used
    outlet.sink.close()
    return took


if __name__ == "__main__":
    main()
