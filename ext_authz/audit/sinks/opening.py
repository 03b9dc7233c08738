"""Settings to sinks: the one module that names every kind.

Law: what cannot be opened as configured is said before the server starts. Non-goal: reaching a receiver; a sink that
is down at the start is as one that goes down later.
"""

from collections.abc import Iterable
from pathlib import Path

from ext_authz.audit.delivery import Batch, Outlet
from ext_authz.audit.formats import ENCODERS, TEXT
from ext_authz.audit.settings import SinkSettings
from ext_authz.audit.sinks import Sink
from ext_authz.audit.sinks.extras import missing
from ext_authz.audit.sinks.file import FileSink
from ext_authz.audit.sinks.http import HttpSink
from ext_authz.audit.sinks.http_client import Http
from ext_authz.audit.sinks.settings import FileSinkSettings, HttpBase, HttpSinkSettings, StdoutSinkSettings
from ext_authz.audit.sinks.stdout import StdoutSink


def open_sinks(settings: Iterable[SinkSettings], directory: Path) -> list[Outlet]:
    """Return the configured sinks of the trail in `directory`. Raises ValueError, saying which cannot be."""
    outlets: list[Outlet] = []
    for each in settings:
        problem = sink_problem(each, directory)
        if problem is not None:
            raise ValueError(problem)
        batch = Batch(each.batch.events, each.batch.bytes, each.batch.linger)
        outlets.append(Outlet(_open(each), batch))
    return outlets


def sink_problem(settings: SinkSettings, directory: Path) -> str | None:
    """Say why a sink cannot be beside the trail in `directory`, or None."""
    if isinstance(settings, FileSinkSettings) and settings.path.resolve().is_relative_to(directory.resolve()):
        return f"`{settings.path}` is inside the trail's own folder {directory}: name a file elsewhere"
    return missing(settings.extra)


def _open(settings: SinkSettings) -> Sink:
    if isinstance(settings, StdoutSinkSettings):
        return StdoutSink(settings.label, ENCODERS[settings.format])
    if isinstance(settings, FileSinkSettings):
        return FileSink(settings.label, settings.path, ENCODERS[settings.format])
    return _http(settings)


def _http(settings: HttpSinkSettings) -> HttpSink:
    text = settings.format in TEXT
    body = settings.body or ("lines" if text else "array")
    kind = "text/plain; charset=utf-8" if text else "application/json" if body == "array" else "application/x-ndjson"
    client = _client(settings, compress=settings.compression == "gzip")
    return HttpSink(settings.label, client, ENCODERS[settings.format], body, kind)


def _client(settings: HttpBase, *, compress: bool, headers: dict[str, str] | None = None) -> Http:
    own = {name: value.get_secret_value() for name, value in settings.headers.items()}
    return Http(
        settings.url,
        headers={**(headers or {}), **own},
        seconds=settings.timeout,
        compress=compress,
        ca_file=settings.tls.authorities(),
        certificate=settings.tls.pair(),
    )
