"""h2load from Debian's nghttp2-client, unpacked below .venv without root where it is not installed."""

# ruff: noqa: E402  the helpers of the tests are found first

import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests/support")]

import debian


@dataclass(frozen=True)
class Load:
    """What one run of h2load measured; latencies in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


def find() -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of h2load; fetch the packages when the machine has none."""
    try:
        found = debian.find("h2load")
    except debian.AbsentError as error:
        raise SystemExit(f"h2load is needed: install nghttp2-client ({error})") from None
    return [found.path], found.environment


def run(address: str, method: str, message: bytes, *, calls: int, connections: int, streams: int, core: int) -> Load:
    """Send `calls` unary gRPC calls with `message` to `address` (host:port or unix:/path) from CPU `core`."""
    command, environment = find()
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        base = [f"--base-uri={address}"] if address.startswith("unix:") else []
        target = f"http://{'localhost' if base else address}{method}"
        done = subprocess.run(
            ["taskset", "-c", str(core), *command, "-n", str(calls), "-c", str(connections), "-m", str(streams),
             "-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers",
             f"--log-file={log}", *base, target],
            env=environment, capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
        failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
        if failed is None or any(int(n) for n in failed.groups()):
            raise SystemExit(f"h2load saw failures:\n{done.stdout}")
        micros = [int(line.split("\t")[2]) for line in log.read_text().splitlines()]
    rate = re.search(r"([\d.]+) req/s", done.stdout)
    assert rate is not None
    cuts = statistics.quantiles(micros, n=100)
    return Load(float(rate.group(1)), cuts[49] / 1000, cuts[98] / 1000)
