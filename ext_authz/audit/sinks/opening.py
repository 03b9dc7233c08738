"""Settings to sinks: the one module that names every kind.

Law: what cannot be opened as configured is said before the server starts. Non-goal: reaching a receiver; a sink that
is down at the start is as one that goes down later.
"""

import base64
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from ext_authz.audit.delivery import Batch, Outlet
from ext_authz.audit.formats import ENCODERS, TEXT, opa
from ext_authz.audit.settings import SinkSettings
from ext_authz.audit.sinks import Sink
from ext_authz.audit.sinks.elasticsearch import ElasticsearchSink
from ext_authz.audit.sinks.extras import missing
from ext_authz.audit.sinks.file import FileSink
from ext_authz.audit.sinks.http import HttpSink
from ext_authz.audit.sinks.http_client import Http
from ext_authz.audit.sinks.kafka import KafkaSink
from ext_authz.audit.sinks.nats import NatsSink
from ext_authz.audit.sinks.otlp import HttpSender, OtlpSink
from ext_authz.audit.sinks.redis import RedisSink
from ext_authz.audit.sinks.s3 import S3Sink
from ext_authz.audit.sinks.settings import FileSinkSettings, StdoutSinkSettings
from ext_authz.audit.sinks.settings_http import (
    ElasticsearchSinkSettings,
    HttpBase,
    HttpSinkSettings,
    OpaSinkSettings,
    OtlpSinkSettings,
    SplunkSinkSettings,
)
from ext_authz.audit.sinks.settings_streams import (
    KafkaSinkSettings,
    NatsSinkSettings,
    RedisSinkSettings,
    S3SinkSettings,
    SyslogSinkSettings,
)
from ext_authz.audit.sinks.settings_webhooks import SlackSettings, WebhookSettings
from ext_authz.audit.sinks.splunk import SplunkSink
from ext_authz.audit.sinks.stdout import StdoutSink
from ext_authz.audit.sinks.syslog import SyslogSink
from ext_authz.audit.sinks.webhooks import WebhookSink, alertmanager, slack


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


def open_webhooks(settings: Iterable[WebhookSettings]) -> list[Outlet]:
    """Return the configured webhooks. Raises ValueError where a library is missing."""
    outlets: list[Outlet] = []
    for each in settings:
        problem = missing(each.extra)
        if problem is not None:
            raise ValueError(problem)
        batch = Batch(each.batch.events, each.batch.bytes, each.batch.linger)
        outlets.append(Outlet(_webhook(each), batch))
    return outlets


def _webhook(settings: WebhookSettings) -> WebhookSink:
    if isinstance(settings, SlackSettings):
        http = Http(settings.url.get_secret_value(), seconds=settings.timeout)
        return WebhookSink(f"alerts:{settings.label}", http, slack)
    target = settings.url if urlsplit(settings.url).path not in ("", "/") else "/api/v2/alerts"
    return WebhookSink(f"alerts:{settings.label}", _client(settings, compress=False), alertmanager, _target(target))


def sink_problem(settings: SinkSettings, directory: Path) -> str | None:
    """Say why a sink cannot be beside the trail in `directory`, or None."""
    if isinstance(settings, FileSinkSettings) and settings.path.resolve().is_relative_to(directory.resolve()):
        return f"`{settings.path}` is inside the trail's own folder {directory}: name a file elsewhere"
    return missing(settings.extra)


def _open(settings: SinkSettings) -> Sink:
    match settings:
        case StdoutSinkSettings():
            return StdoutSink(settings.label, ENCODERS[settings.format])
        case FileSinkSettings():
            return FileSink(settings.label, settings.path, ENCODERS[settings.format])
        case HttpSinkSettings():
            return _http(settings)
        case SplunkSinkSettings():
            return _splunk(settings)
        case ElasticsearchSinkSettings():
            return _elasticsearch(settings)
        case OpaSinkSettings():
            return HttpSink(settings.label, _client(settings, compress=True), opa.encode, "array", "application/json")
        case OtlpSinkSettings():
            return _otlp(settings)
        case SyslogSinkSettings():
            return SyslogSink(
                settings.label,
                settings.address,
                ENCODERS[settings.format],
                facility=settings.facility,
                window=settings.window,
                seconds=settings.timeout,
                tls=settings.transport == "tls",
                ca_file=settings.tls.authorities(),
                certificate=settings.tls.pair(),
            )
        case KafkaSinkSettings():
            return _kafka(settings)
        case RedisSinkSettings():
            return _redis(settings)
        case NatsSinkSettings():
            return _nats(settings)
        case S3SinkSettings():
            return _s3(settings)


def _http(settings: HttpSinkSettings) -> HttpSink:
    text = settings.format in TEXT
    body = settings.body or ("lines" if text else "array")
    kind = "application/json" if body == "array" else "application/x-ndjson"
    if text:
        kind = "text/plain; charset=utf-8"
    elif settings.format == "cloudevents" and body == "array":
        kind = "application/cloudevents-batch+json"
    client = _client(settings, compress=settings.compression == "gzip")
    return HttpSink(settings.label, client, ENCODERS[settings.format], body, kind)


def _splunk(settings: SplunkSinkSettings) -> SplunkSink:
    headers = {"authorization": f"Splunk {settings.token.get_secret_value()}"}
    envelope = {
        "source": settings.source,
        "sourcetype": settings.sourcetype or f"ext_authz:{settings.format}",
        **({"index": settings.index} if settings.index else {}),
    }
    return SplunkSink(
        settings.label,
        _client(settings, compress=settings.compression == "gzip", headers=headers),
        ENCODERS[settings.format],
        text=settings.format in TEXT,
        envelope=envelope,
        target=_target(settings.url),
        ack_seconds=settings.timeout if settings.indexer_ack else None,
    )


def _elasticsearch(settings: ElasticsearchSinkSettings) -> ElasticsearchSink:
    headers = {}
    if settings.api_key is not None:
        headers["authorization"] = f"ApiKey {settings.api_key.get_secret_value()}"
    elif settings.username is not None and settings.password is not None:
        pair = f"{settings.username.get_secret_value()}:{settings.password.get_secret_value()}"
        headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return ElasticsearchSink(
        settings.label,
        _client(settings, compress=settings.compression == "gzip", headers=headers),
        ENCODERS[settings.format],
        index=settings.index,
        target=f"{_target(settings.url).rstrip('/')}/_bulk",
    )


def _otlp(settings: OtlpSinkSettings) -> OtlpSink:
    compress = settings.compression == "gzip"
    if settings.protocol == "http":
        return OtlpSink(settings.label, HttpSender(_client(settings, compress=compress)))
    from ext_authz.audit.sinks.otlp_grpc import GrpcSender

    sender = GrpcSender(
        settings.url,
        headers={name: value.get_secret_value() for name, value in settings.headers.items()},
        seconds=settings.timeout,
        compress=compress,
        ca_file=settings.tls.authorities(),
        certificate=settings.tls.pair(),
    )
    return OtlpSink(settings.label, sender)


def _kafka(settings: KafkaSinkSettings) -> KafkaSink:
    configuration: dict[str, object] = {
        "bootstrap.servers": ",".join(settings.brokers),
        "compression.type": settings.compression,
        "client.id": "ext-authz",
    }
    protocol = "plaintext" if settings.plaintext else "ssl"
    if settings.username is not None and settings.password is not None:
        protocol = f"sasl_{protocol}"
        configuration |= {
            "sasl.mechanism": settings.mechanism,
            "sasl.username": settings.username.get_secret_value(),
            "sasl.password": settings.password.get_secret_value(),
        }
    configuration["security.protocol"] = protocol
    if not settings.plaintext:
        if settings.tls.authorities():
            configuration["ssl.ca.location"] = settings.tls.authorities()
        if pair := settings.tls.pair():
            configuration |= {"ssl.certificate.location": pair[0], "ssl.key.location": pair[1]}
    return KafkaSink(
        settings.label,
        settings.topic,
        ENCODERS[settings.format],
        configuration=configuration,
        seconds=settings.timeout,
    )


def _redis(settings: RedisSinkSettings) -> RedisSink:
    parts = urlsplit(settings.url)
    options: dict[str, object] = {
        "host": parts.hostname,
        "port": parts.port or 6379,
        "db": int(parts.path.strip("/") or 0),
        "username": settings.username.get_secret_value() if settings.username else None,
        "password": settings.password.get_secret_value() if settings.password else None,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.timeout,
        "client_name": "ext-authz",
        "retry": None,
    }
    if parts.scheme == "rediss":
        pair = settings.tls.pair()
        options |= {
            "ssl": True,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": settings.tls.authorities(),
            "ssl_certfile": pair[0] if pair else None,
            "ssl_keyfile": pair[1] if pair else None,
        }
    return RedisSink(
        settings.label,
        settings.stream,
        ENCODERS[settings.format],
        options=options,
        replicas=settings.replicas,
        seconds=settings.timeout,
    )


def _nats(settings: NatsSinkSettings) -> NatsSink:
    return NatsSink(
        settings.label,
        settings.subject,
        ENCODERS[settings.format],
        url=settings.url,
        user=settings.username.get_secret_value() if settings.username else None,
        password=settings.password.get_secret_value() if settings.password else None,
        token=settings.token.get_secret_value() if settings.token else None,
        ca_file=settings.tls.authorities(),
        certificate=settings.tls.pair(),
        seconds=settings.timeout,
    )


def _s3(settings: S3SinkSettings) -> S3Sink:
    options: dict[str, object] = {"verify": settings.tls.authorities() or True}
    if settings.region:
        options["region_name"] = settings.region
    if settings.endpoint:
        options["endpoint_url"] = settings.endpoint
    return S3Sink(
        settings.label,
        settings.bucket,
        settings.prefix,
        ENCODERS[settings.format],
        suffix="log" if settings.format in TEXT else "jsonl",
        compress=settings.compression == "gzip",
        options=options,
        seconds=settings.timeout,
    )


def _target(url: str) -> str:
    parts = urlsplit(url)
    return "" if parts.path in ("", "/") else parts.path + (f"?{parts.query}" if parts.query else "")


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
