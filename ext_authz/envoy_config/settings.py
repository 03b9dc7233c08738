"""What a generated Envoy configuration is made from.

Law: every default is the safe one; what weakens the result says `unsafe_`.
Non-goal: reading files. Envoy substitutes no environment, so values are final.
"""

import ipaddress
import json
import re
from dataclasses import dataclass, field
from typing import Final

OPEN_INFERENCE_SERVICES: Final = ("inference.GRPCInferenceService", "inference.model_repository.ModelRepositoryService")
OPEN_INFERENCE_STREAMS: Final = ("/inference.GRPCInferenceService/ModelStreamInfer",)
# A repository load may carry parameters and files, and then asks for more than a load (CONTRACT section 3).
OPEN_INFERENCE_BODIES: Final = ("/v2/repository/",)

_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?s\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
_DOMAIN = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")
_PATH_PREFIX = re.compile(r"/[A-Za-z0-9._~!$&'()*+,=:@/-]*\Z")
_MAX_PORT: Final = 65535
_MAX_SOCKET_PATH: Final = 107
_MAX_HOPS: Final = 32
_MAX_BMP: Final = 0xFFFF
_NOT_PRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


def quote(value: str) -> str:
    """Return the value as a YAML double-quoted scalar of printable ASCII (YAML 1.2.2, 5.7 and 7.3.1)."""
    return _NOT_PRINTABLE.sub(_escape, json.dumps(value, ensure_ascii=False))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code <= _MAX_BMP else f"\\U{code:08x}"


class SettingsError(ValueError):
    """A value from which no safe configuration can be made."""


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen on or to connect to: a Unix socket path, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `unix:/path`, `host:port` or `[v6]:port`. Raises SettingsError."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path or "\0" in path or len(path.encode()) > _MAX_SOCKET_PATH:
                raise SettingsError(f"`{text}`: a Unix socket path has 1 to {_MAX_SOCKET_PATH} bytes")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
            raise SettingsError(f"`{text}` is not `unix:/path` or `host:port`")
        return cls(host=host, port=int(port))

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address; None for a name or a socket path."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.path) or self.host == "localhost" or (self.ip is not None and self.ip.is_loopback)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How Envoy proves itself to a server and which name it demands of it. Paths are PEM files."""

    ca: str
    certificate: str
    private_key: str
    server_name: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A TLS listener. Without `require_client_certificate` no certificate is asked for: tokens and keys alone."""

    name: str = "edge"
    address: str = "127.0.0.1:8443"
    require_client_certificate: bool = True


@dataclass(frozen=True, slots=True)
class Upstream:
    """A service behind Envoy, selected by host alone.

    `http` and `grpc` are endpoints spoken to in HTTP/1.1 and HTTP/2. Requests
    under `body_paths` are buffered for the check, as are calls of
    `grpc_services`, except the `grpc_streams`, which no buffering can end.
    """

    name: str
    hosts: tuple[str, ...]
    http: tuple[str, ...] = ()
    grpc: tuple[str, ...] = ()
    body_paths: tuple[str, ...] = ()
    grpc_services: tuple[str, ...] = ()
    grpc_streams: tuple[str, ...] = ()
    http2: bool = False
    timeout: str = "60s"
    tls: ClientTls | None = None


MODEL_SERVER: Final = Upstream(
    name="models",
    hosts=("models.internal", "*.models.internal"),
    http=("127.0.0.1:8080",),
    grpc=("127.0.0.1:8081",),
    body_paths=OPEN_INFERENCE_BODIES,
    grpc_services=OPEN_INFERENCE_SERVICES,
    grpc_streams=OPEN_INFERENCE_STREAMS,
)
DATA_LAKE: Final = Upstream(name="lake", hosts=("lake.internal",), http=("127.0.0.1:8090",))


@dataclass(frozen=True, slots=True)
class EnvoySettings:
    """All of one generated configuration.

    Durations are Envoy's (`0.25s`), sizes bytes, addresses `unix:/path` or
    `host:port`. `authz` lists one endpoint per sidecar worker. `trusted_hops`
    are the proxies in front whose `x-forwarded-for` counts, and equals what
    the sidecar's `trusted_proxies` describe. `listings_filter` is a Lua file
    (envoy/listings.lua) that takes out of listings what a caller may not see.
    `metadata_namespaces` and `route_metadata_namespaces` are shown to the
    sidecar, for routes with `named_by`.
    """

    listeners: tuple[Listener, ...] = field(default_factory=lambda: (Listener(),))
    upstreams: tuple[Upstream, ...] = (MODEL_SERVER, DATA_LAKE)
    authz: tuple[str, ...] = ("unix:/run/ext-authz/0.sock",)
    authz_tls: ClientTls | None = None
    authz_timeout: str = "0.25s"
    admin: str = "unix:/run/envoy/admin.sock"
    certificate: str = "/etc/envoy/certs/server.pem"
    private_key: str = "/etc/envoy/certs/server.key"
    client_ca: str = "/etc/envoy/certs/ca.pem"
    client_crl: str = ""
    trust_domains: tuple[str, ...] = ("ml.example",)
    trusted_hops: int = 0
    max_request_bytes: int = 1024 * 1024
    request_timeout: str = "300s"
    max_stream_duration: str = "3600s"
    hide_cookies: bool = True
    access_log: str = "/dev/stdout"
    listings_filter: str = ""
    metadata_namespaces: tuple[str, ...] = ()
    route_metadata_namespaces: tuple[str, ...] = ()
    unsafe_keep_forged_headers: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be written down safely. Raises SettingsError with every mistake, one a line."""
        mistakes = list(_mistakes(self))
        if mistakes:
            raise SettingsError("\n".join(mistakes))


def _mistakes(settings: EnvoySettings) -> list[str]:
    found: list[str] = []
    if not settings.listeners:
        found.append("at least one listener is needed")
    if not settings.authz:
        found.append("at least one sidecar endpoint is needed")
    names = [listener.name for listener in settings.listeners] + [upstream.name for upstream in settings.upstreams]
    found += [f"`{name}` is not a name" for name in names if not _NAME.match(name)]
    found += [f"`{name}` is used twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if not settings.trust_domains:
        found.append("at least one trust domain is needed")
    found += [
        f"`{domain}` is not a trust domain" for domain in settings.trust_domains if not _TRUST_DOMAIN.match(domain)
    ]
    if not 0 <= settings.trusted_hops <= _MAX_HOPS:
        found.append(f"trusted hops are between 0 and {_MAX_HOPS}")
    if not 0 < settings.max_request_bytes < 2**32:
        found.append("max_request_bytes is between 1 and 4294967295")
    durations = [settings.authz_timeout, settings.request_timeout, settings.max_stream_duration]
    durations += [upstream.timeout for upstream in settings.upstreams]
    found += [
        f"`{text}` is not a duration in seconds such as `0.25s`" for text in durations if not _DURATION.match(text)
    ]
    for name, text in (
        ("authz_timeout", settings.authz_timeout),
        ("max_stream_duration", settings.max_stream_duration),
    ):
        if _DURATION.match(text) and float(text[:-1]) == 0:
            found.append(f"{name} 0s would mean no bound")
    found += _address_mistakes(settings)
    hosts: set[str] = set()
    for upstream in settings.upstreams:
        found += _upstream_mistakes(upstream)
        found += [f"host `{host}` belongs to two upstreams" for host in upstream.hosts if host in hosts]
        hosts.update(upstream.hosts)
    return found


def _address_mistakes(settings: EnvoySettings) -> list[str]:
    found: list[str] = []
    parsed: dict[str, Address] = {}
    texts = [listener.address for listener in settings.listeners] + [settings.admin, *settings.authz]
    for text in texts + [each for upstream in settings.upstreams for each in (*upstream.http, *upstream.grpc)]:
        try:
            parsed[text] = Address.parse(text)
        except SettingsError as error:
            found.append(str(error))
    found += [
        f"`{each.address}`: a listener needs an IP address and a port"
        for each in settings.listeners
        if each.address in parsed and parsed[each.address].ip is None
    ]
    if settings.admin in parsed and not parsed[settings.admin].path:
        found.append(f"`{settings.admin}`: whoever reaches the admin port controls Envoy; give a Unix socket")
    if settings.authz_tls is None:
        found += [
            f"`{each}`: a sidecar beyond this machine needs authz_tls"
            for each in settings.authz
            if each in parsed and not parsed[each].local
        ]
    return found


def _upstream_mistakes(upstream: Upstream) -> list[str]:
    found = [f"`{host}` is not a host" for host in upstream.hosts if not _DOMAIN.match(host)]
    if not upstream.hosts:
        found.append(f"upstream `{upstream.name}` has no host")
    if not upstream.http and not upstream.grpc:
        found.append(f"upstream `{upstream.name}` has no endpoint")
    if (upstream.grpc_services or upstream.grpc_streams) and not upstream.grpc:
        found.append(f"upstream `{upstream.name}` names gRPC services but no grpc endpoint")
    paths = (*upstream.body_paths, *upstream.grpc_streams, *(f"/{service}/" for service in upstream.grpc_services))
    found += [f"`{path}` is not a path" for path in paths if not _PATH_PREFIX.match(path)]
    return found
