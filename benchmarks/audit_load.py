"""What the audit trail costs the whole sidecar under load, and what sinks that are slow or dead add to that.

    python benchmarks/audit_load.py [--transports grpcio,native] [--calls 20000] [--rounds 5] [--json FILE]

The load and the request are those of sidecar.py. The workers have a core of their own; the control processes (the
exporter is in them), the load and the sinks share another. `off` is the same sidecar with a trail that takes events and
drops them (null_trail.py), `on` seals and writes them. In a round all are started anew and run side by side, and the load
goes from one to the next in short turns, so that what else the machine does meets all alike. A ratio is the median over
the rounds of a round's own, with the least and the greatest. It exits 1 where an aim is missed by CPU time of the worker
a check, which also means something on a busy machine; checks per second do on a quiet one only.
"""

import argparse
import contextlib
import http.server
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import h2load
from sidecar import FILE_SINK, METHOD, ROOT, allowed, cpu_us, pin, serving, write_configuration

from ext_authz.audit.segment import HEADER_BYTES, Kind, frames

TURNS = 20
PAUSE_SECONDS = 0.05
"""Between turns, for the exporter to end with what the last left."""
OFF, ON = "off", "on"
AIMS = {
    (ON, OFF): 0.85,
    ("on, a file", OFF): 0.85,
    ("on, two dead sinks", ON): 0.97,
    ("on, two slow sinks", ON): 0.97,
}
"""(what, beside what): the least ratio of checks a second (issue: audit on to off, dead sinks to none)."""


@dataclass(frozen=True)
class Run:
    """Checks a second, and microseconds of the worker's CPU a check."""

    per_second: float
    cpu_us: float


class Slow(http.server.BaseHTTPRequestHandler):
    """Takes its time: half a second to refuse with 429 below /busy, elsewhere as long to accept."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        left = int(self.headers["content-length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        time.sleep(0.5)
        self.send_response(429 if self.path == "/busy" else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def receivers(core: int) -> Iterator[dict[str, str]]:
    """Yield by variant the sinks as YAML, with somebody, or nobody, at their other end."""
    with socket.socket() as refusing, socket.socket() as hanging:
        refusing.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(128)  # the kernel accepts; nobody reads or answers
        slow = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
        child = os.fork()
        if child == 0:
            slow.serve_forever()
        pin([child], core)

        def sink(name: str, port: int, path: str = "/") -> str:
            return f"{{name: {name}, type: http, url: 'http://127.0.0.1:{port}{path}'}}"

        dead = [sink("refusing", refusing.getsockname()[1]), sink("hanging", hanging.getsockname()[1])]
        try:
            yield {
                OFF: "",
                ON: "",
                "on, a file": FILE_SINK,
                "on, two dead sinks": ", ".join(dead),
                "on, two slow sinks": ", ".join(
                    sink(name, slow.server_port, f"/{name}") for name in ("busy", "sleepy")
                ),
            }
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            slow.server_close()


@contextlib.contextmanager
def sidecar(folder: Path, transport: str, sinks: str, *, off: bool, cores: tuple[int, int]) -> Iterator["Sidecar"]:
    """Run one, from nothing; afterwards see to it that it recorded what it should."""
    folder.mkdir(mode=0o700)
    configuration, request, _ = write_configuration(folder, transport, sinks)
    program = [str(ROOT / "benchmarks/null_trail.py")] if off else ["-m", "ext_authz"]
    command = [sys.executable, *program, "serve", "-c", str(configuration)]
    address = f"unix:{folder}/0.sock"
    worker = "null_trail\0" if off else "server.worker\0"
    with serving(command, "listening", cores[0], worker, cores[1]) as pids:
        if len(pids) != 1 or not allowed(address, request):
            raise SystemExit("the benchmark's request is not allowed; its figures would mean nothing")
        made = Sidecar(address, request, pids, cores[1])
        yield made
    found = recorded(folder)
    if found > 16 if off else found < made.sent:
        raise SystemExit(f"{found} events are on record of {made.sent} checks, audit {'off' if off else 'on'}")


@dataclass
class Sidecar:
    """One that runs, and how many checks it was sent."""

    address: str
    request: bytes
    pids: list[int]
    core: int
    sent: int = 0

    def burst(self, calls: int) -> Run:
        """Send it so many checks."""
        before = cpu_us(self.pids)
        load = h2load.run(self.address, METHOD, self.request, calls=calls, connections=2, streams=16, core=self.core)
        self.sent += calls
        return Run(load.per_second, (cpu_us(self.pids) - before) / calls)


def measured(transport: str, variants: dict[str, str], *, calls: int, cores: tuple[int, int]) -> dict[str, Run]:
    """Run all variants side by side, the load going from one to the next and back; return the medians of its turns."""
    bursts: dict[str, list[Run]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(
                sidecar(Path(scratch, str(number)), transport, sinks, off=name == OFF, cores=cores)
            )
            for number, (name, sinks) in enumerate(variants.items())
        }
        for each in running.values():
            each.burst(calls // 5)
        for turn in range(TURNS):
            # The other way round every second time: no variant always follows the same one.
            for name in list(running)[:: -1 if turn % 2 else 1]:
                bursts[name].append(running[name].burst(calls // TURNS))
                time.sleep(PAUSE_SECONDS)
    return {
        name: Run(statistics.median(each.per_second for each in own), statistics.median(each.cpu_us for each in own))
        for name, own in bursts.items()
    }


def recorded(folder: Path) -> int:
    """Return how many events the worker's log holds."""
    return sum(
        frame.kind is Kind.EVENT
        for path in folder.glob("run/audit/worker-0-*.seg")
        for frame in frames(path.read_bytes()[HEADER_BYTES:])
    )


def report(transport: str, runs: dict[str, list[Run]]) -> list[str]:
    """Print the table of one transport; return which aims were missed by CPU time."""
    print(f"\n{transport:26} {'checks/s':>9} {'CPU µs':>7}   ratio, by checks/s and by CPU (median, least to greatest)")
    missed = []
    for name, own in runs.items():
        row = [
            f"{name:26} {statistics.median(r.per_second for r in own):9.0f} {statistics.median(r.cpu_us for r in own):7.1f}"
        ]
        for (what, beside), aim in AIMS.items():
            if what != name:
                continue
            pairs = list(zip(own, runs[beside], strict=True))
            by_clock = [one.per_second / other.per_second for one, other in pairs]
            by_cpu = [other.cpu_us / one.cpu_us for one, other in pairs]
            good = statistics.median(by_cpu) >= aim
            row.append(f"  of `{beside}`: {spread(by_clock)} {spread(by_cpu)} aim {aim} {'met' if good else 'MISSED'}")
            if not good:
                missed.append(f"{transport}: `{name}` is {statistics.median(by_cpu):.3f} of `{beside}`, aim {aim}")
        print("".join(row))
    return missed


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transports", default="grpcio,native")
    parser.add_argument("--calls", type=int, default=20_000, help="calls of each in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every run here")
    options = parser.parse_args()
    available = sorted(os.sched_getaffinity(0))
    cores = available[0], available[-1]
    if cores[0] == cores[1]:
        print("one CPU only: exporter and worker share it, so the aims cannot be judged", file=sys.stderr)
    load_before = os.getloadavg()[0]
    transports = options.transports.split(",")
    with receivers(cores[1]) as variants:
        runs: dict[str, dict[str, list[Run]]] = {each: {name: [] for name in variants} for each in transports}
        for turn in range(options.rounds):
            for transport in transports:
                found = measured(transport, variants, calls=options.calls, cores=cores)
                for name, run in found.items():
                    runs[transport][name].append(run)
                about = ", ".join(f"{name} {run.cpu_us:.1f} µs" for name, run in found.items())
                print(f"round {turn + 1}/{options.rounds}: {transport}: {about}", file=sys.stderr)
    missed = [each for transport in transports for each in report(transport, runs[transport])]
    print(
        f"\n{options.rounds} rounds of {options.calls:,} calls each; load average {load_before:.1f} to {os.getloadavg()[0]:.1f}"
    )
    if options.json:
        plain = {
            transport: {name: [asdict(run) for run in own] for name, own in by_name.items()}
            for transport, by_name in runs.items()
        }
        options.json.write_text(json.dumps(plain, indent=2) + "\n")
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
