"""h2load from Debian's nghttp2-client, unpacked below .venv without root where it is not installed."""

import os
import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("nghttp2-client", "libev4", "libc-ares2", "libjemalloc2", "libnghttp2-14")
HOME = Path(__file__).resolve().parent.parent / ".venv" / "debian"


@dataclass(frozen=True)
class Load:
    """What one run of h2load measured; latencies in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


def find() -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of h2load; fetch the packages when the machine has none."""
    if shutil.which("h2load"):
        return ["h2load"], dict(os.environ)
    binary = HOME / "usr/bin/h2load"
    if not binary.exists():
        if not shutil.which("apt-get"):
            raise SystemExit("h2load is needed: install nghttp2-client")
        HOME.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True, capture_output=True)
            except subprocess.CalledProcessError as error:
                raise SystemExit(
                    f"apt-get cannot download {' '.join(PACKAGES)}: {error.stderr.decode().strip()}"
                ) from None
            for package in Path(folder).glob("*.deb"):
                subprocess.run(["dpkg", "-x", str(package), str(HOME)], check=True)
    libraries = ":".join(str(path) for path in (HOME / "usr/lib").iterdir() if path.is_dir())
    return [str(binary)], {**os.environ, "LD_LIBRARY_PATH": libraries}


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
