"""Starts everything, makes the calls, prints what came of them, ends everything.

Law: exit 0 only if every call ended as it says it should and every check is on
record; whatever happens, no process outlives this one. Non-goal: staying up unwatched.
"""

import contextlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from ext_authz.demo import calls, envoy, files, model_server, report
from ext_authz.demo.calls import CALLS, ENVOY, Call, CommandFailedError, World
from ext_authz.demo.clients import TLS_REFUSED, Clients
from ext_authz.demo.files import DirectoryError, Files
from ext_authz.demo.processes import Child, Processes, StartError, free_ports
from ext_authz.demo.report import Row
from ext_authz.demo.upstreams import data_lake
from ext_authz.envoy_config.settings import DATA_LAKE, MODEL_SERVER, EnvoySettings, Listener

DIRECTORY: Final = Path("demo-run")
_SIDECAR_SECONDS: Final = 60.0
_LOG_SECONDS: Final = 2.0
_EVENTS_SECONDS: Final = 5.0
# A shell starts background jobs with SIGINT ignored; ours is to be ended by it all the same.
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Running:
    """What is up: the callers' world, Envoy, and every process."""

    world: World
    proxy: envoy.Envoy
    processes: Processes


def main(directory: Path | None, keep: bool) -> int:  # noqa: FBT001  the command line's own switch
    """Run the demo in `directory` (None: `demo-run`). Returns 0, 1 (something differed) or 2 (it could not start)."""
    console = Console(width=None if sys.stdout.isatty() else report.WIDTH, highlight=False)
    started = time.monotonic()
    try:
        with _signals_interrupt(), files.prepare(directory or DIRECTORY) as made, running(made, _teller(console)) as up:
            rows = [_call(up, each) for each in _progress(console, CALLS)]
            console.print(report.table(rows))
            problems = _missing_events(made, rows)
            report.next_steps(console, made)
            status = report.last_line(console, rows, problems, time.monotonic() - started)
            if keep:
                report.commands(console, up.world)
                _wait(up.processes.children)
            return status
    except KeyboardInterrupt:
        console.print("ended")
        return 0 if keep else _INTERRUPTED
    except (DirectoryError, StartError, CommandFailedError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2


@contextlib.contextmanager
def running(made: Files, tell: Callable[[str], None]) -> Iterator[Running]:
    """Start the data lake, MLServer, the sidecar and Envoy; end them on leaving. Raises StartError."""
    with data_lake(made.sockets / "lake.sock"), Processes(made.logs) as processes:
        http_port, grpc_port, metrics_port = free_ports(3)
        models = model_server.start(processes, made.directory / "models", http_port, grpc_port, metrics_port)
        key = calls.cli(["apikey", "new", "--subject", "batch-7", "-c", str(made.config)]).strip()
        start_sidecar(processes, made.config, [made.authz_socket])
        tell("sidecar on a Unix socket, with the seed's policies word for word")
        proxy = envoy.start(processes, made.directory, _envoy_settings(made, http_port, grpc_port))
        tell("Envoy with mutual TLS")
        model_server.wait(models, http_port)
        tell("MLServer on loopback, two models trained on the spot")
        yield Running(World(made, Clients(made, proxy.ports), key), proxy, processes)


def start_sidecar(processes: Processes, config: Path, sockets: Sequence[Path], name: str = "sidecar") -> Child:
    """Start `ext-authz serve` and wait until every worker's socket takes connections. Raises StartError."""
    child = processes.start(name, [sys.executable, "-m", "ext_authz", "serve", "-c", str(config)])
    child.wait_until(lambda: all(map(_connects, sockets)), _SIDECAR_SECONDS)
    return child


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(str(path))
    return True


def _envoy_settings(made: Files, http_port: int, grpc_port: int) -> EnvoySettings:
    models = replace(MODEL_SERVER, http=(f"127.0.0.1:{http_port}",), grpc=(f"127.0.0.1:{grpc_port}",))
    lake = replace(DATA_LAKE, http=(f"unix:{made.sockets / 'lake.sock'}",))
    return EnvoySettings(
        listeners=(
            Listener(address="127.0.0.1:0"),
            Listener(name="tokens", address="127.0.0.1:0", require_client_certificate=False),
        ),
        upstreams=(models, lake),
        authz=(f"unix:{made.authz_socket}",),
        admin=f"unix:{made.sockets / 'admin.sock'}",
        certificate=str(made.server.certificate),
        private_key=str(made.server.private_key),
        client_ca=str(made.authority.certificate),
        # A laptop that also trains models is slower than a node that serves.
        authz_timeout="1s",
        trusted_hops=1,
        access_log=str(made.logs / "envoy-access.jsonl"),
    )


def _call(up: Running, call: Call) -> Row:
    """Make one call; reason and policy are what Envoy logged of the sidecar's answer."""
    if call.before is not None:
        call.before(up.world)
    answer = call.make(up.world)
    if answer.reason:
        return report.judge(call, answer, answer.reason, answer.policy)
    # Every HTTP request is one line of the log, a refused handshake none.
    entries = up.proxy.entries(0 if answer.label == TLS_REFUSED else 1, _LOG_SECONDS)
    said = entries[-1].get("authz") if entries else None
    if not said:
        return report.judge(call, answer, ENVOY, "")
    return report.judge(call, answer, str(said.get("reason", "")), str(said.get("policy_id", "")))


def _missing_events(made: Files, rows: Sequence[Row]) -> str:
    """Wait until as many audit events as checks have reached the sink; say what is missing."""
    wanted = sum(row.call.checked for row in rows)
    deadline = time.monotonic() + _EVENTS_SECONDS
    while (found := _decisions(made.events)) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return "" if found == wanted else f"{wanted} checks, but {found} audit events"


def _decisions(path: Path) -> int:
    try:
        return path.read_bytes().count(b'"ext_authz.decision/1"')
    except FileNotFoundError:
        return 0


def _wait(children: Sequence[Child]) -> None:
    """Wait for Ctrl-C, or for a process to end by itself. Raises StartError for the latter."""
    while all(child.process.poll() is None for child in children):
        time.sleep(0.2)
    ended = next(child for child in children if child.process.poll() is not None)
    raise StartError(f"{ended.name} ended with status {ended.process.poll()}\n{ended.tail()}")


def _teller(console: Console) -> Callable[[str], None]:
    began = time.monotonic()

    def tell(what: str) -> None:
        console.print(f"[green]✓[/] {what} [dim]({time.monotonic() - began:.1f} s)[/]")

    return tell


def _progress(console: Console, wanted: Sequence[Call]) -> Iterator[Call]:
    """Yield the calls; on a terminal a line says which one runs."""
    with console.status("calling") as status:
        for number, call in enumerate(wanted, start=1):
            status.update(f"call {number} of {len(wanted)}: {call.who}: {call.what}")
            yield call


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the demo as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
