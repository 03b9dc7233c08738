"""The configuration file as one typed tree: what is the server's own, and each component's own settings.

Law: a key is either read by code or refused (`not available in this version`);
every default is the safe one, and what is not safe says `unsafe_`.
Non-goal: looking at files, or at two sections together (inputs and rules do).
"""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, model_validator

from ext_authz.audit.settings import AuditSettings
from ext_authz.authn.api_key import ApiKeysSettings
from ext_authz.authn.asked_settings import IntrospectionSettings, TokenReviewSettings
from ext_authz.authn.assertion import AssertionSettings
from ext_authz.authn.jwt_settings import JwtSettings
from ext_authz.authn.mtls import MtlsSettings
from ext_authz.authn.roles import RoleBindingSettings
from ext_authz.authn.tokens import TokensSettings
from ext_authz.bundle.settings import BundleSettings
from ext_authz.config.tracing import TracingSettings
from ext_authz.headers import DEFAULT_HEADERS
from ext_authz.monitor.settings import MonitorSettings
from ext_authz.settings import (
    FilePath,
    Flag,
    Network,
    NonEmptyText,
    Seconds,
    mistake,
    parse_cidr,
    parse_count,
    parse_path,
    parse_size,
    shown,
)
from ext_authz.settings import Settings as Section
from ext_authz.state.settings import StateSettings

MAX_WORKERS: Final = 256
MAX_SOCKET_PATH: Final = 107
MAX_PORT: Final = 65535
MIN_REQUEST_BYTES: Final = 1024
MAX_REQUEST_BYTES: Final = 64 * 2**20
_TCP = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):([0-9]{1,5})\Z")
UNIX: Final = "unix:"
WORKER: Final = "{worker}"


def parse_listen(value: object, info: ValidationInfo) -> str:
    """Return the listener `HOST:PORT`, `[HOST]:PORT` or `unix:PATH`; raises a mistake otherwise.

    `localhost` becomes its address; a socket's relative path is taken from the file's folder.
    """
    if not isinstance(value, str):
        raise mistake(f"{shown(value)} is not an address such as {_EXAMPLES}")
    if value.startswith(UNIX):
        return _socket(value, info)
    found = _TCP.match(value)
    host = (found[1] or found[2]) if found else ""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise mistake(f"{shown(value)} is not an address such as {_EXAMPLES}") from None
    port = int(found[3]) if found else 0
    if port > MAX_PORT:
        raise mistake(f"port {port} is above {MAX_PORT}")
    return f"[{address}]:{port}" if address.version == _V6 else f"{address}:{port}"


_V6 = 6
_EXAMPLES = "`127.0.0.1:9191`, `[::1]:9191` or `unix:/run/ext-authz/{worker}.sock`"


def _socket(value: str, info: ValidationInfo) -> str:
    path = str(parse_path(value.removeprefix(UNIX), info))
    if "{" in path.replace(WORKER, ""):
        raise mistake(f"{shown(value)} holds a placeholder other than `{WORKER}`")
    if len(path.replace(WORKER, str(MAX_WORKERS)).encode()) > MAX_SOCKET_PATH:
        raise mistake(f"a socket's path has at most {MAX_SOCKET_PATH} bytes")
    return UNIX + path


def is_local(address: str) -> bool:
    """Whether only this machine reaches a listener (as parse_listen returned it)."""
    if address.startswith(UNIX):
        return True
    return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback


def _parse_workers(value: object) -> int | str:
    if value == "auto":
        return "auto"
    count = parse_count(value)
    if not 1 <= count <= MAX_WORKERS:
        raise mistake(f"{count} workers; from 1 to {MAX_WORKERS}, or `auto` for one per CPU")
    return count


def _parse_proxy(value: object) -> Network | str:
    if isinstance(value, str) and "://" in value:
        return parse_spiffe_id(value)
    return parse_cidr(value)


def parse_spiffe_id(value: object) -> str:
    """Return a SPIFFE ID; raises a mistake otherwise. Source: the SPIFFE-ID standard, section 2."""
    if isinstance(value, str) and _SPIFFE.match(value) and not any(part in (".", "..") for part in value.split("/")):
        return str(value)
    raise mistake(f"{shown(value)} is not a SPIFFE ID such as `spiffe://ml.example/ns/mesh/sa/envoy`")


_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)+\Z")


def _parse_request_bytes(value: object) -> int:
    size = parse_size(value)
    if not MIN_REQUEST_BYTES <= size <= MAX_REQUEST_BYTES:
        raise mistake(f"{shown(str(value))} is not from 1KiB to 64MiB")
    return size


ListenAddress = Annotated[str, BeforeValidator(parse_listen), WithJsonSchema({"type": "string"})]
Workers = Annotated[
    int | str,
    BeforeValidator(_parse_workers),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}]}),
]
TrustedProxy = Annotated[Network | str, BeforeValidator(_parse_proxy), WithJsonSchema({"type": "string"})]
RequestBytes = Annotated[int, BeforeValidator(_parse_request_bytes), WithJsonSchema({"type": ["string", "integer"]})]
Verbatim = Annotated[tuple[Any, ...], WithJsonSchema({"type": "array", "items": {"type": "object"}})]
"""Read again from the marked tree by the component that owns it."""


class TlsSettings(Section):
    """TLS of the listener. The files are read again when they change."""

    certificate: FilePath
    """PEM chain, the leaf first."""
    private_key: FilePath
    """PEM key of the certificate."""
    client_ca: FilePath | None = None
    """PEM bundle; a client without a certificate from it is refused."""
    client_names: tuple[NonEmptyText, ...] = ()
    """Names (URI or DNS SANs) of which a client's certificate must hold one."""


class AdminTlsSettings(TlsSettings):
    """TLS of the admin listener. The files are read again when they change."""

    client_ca: FilePath | None = None
    """PEM bundle; only a client with a certificate from it gets more than the open paths, the token asked for too."""


class ServerSettings(Section):
    """The listener that Envoy asks."""

    listen: Annotated[tuple[ListenAddress, ...], Field(min_length=1, max_length=16)] = ("127.0.0.1:9191",)
    """`["127.0.0.1:9191"]`, or better `["unix:/run/ext-authz/{worker}.sock"]` ({worker}: one socket each)."""
    workers: Workers = 1
    """Processes that answer checks; `auto` is one per CPU."""
    tls: TlsSettings | None = None
    """TLS of the TCP listeners."""
    unsafe_plaintext: Flag = False
    """Allow TCP beyond loopback without client certificates: whoever reaches it can claim any principal."""
    socket_group: str = ""
    """Group that Unix sockets (mode 0660) are given to, so that Envoy's user reaches them."""
    trusted_proxies: tuple[TrustedProxy, ...] = ()
    """CIDRs whose x-forwarded-for entries, and SPIFFE IDs whose x-forwarded-client-cert, are believed."""
    max_request_bytes: RequestBytes = 2**20
    """The same number as Envoy's with_request_body; the receive limit is this plus 256 KiB."""
    drain: Seconds = 10
    """How long calls in flight may take after SIGTERM."""
    transport: Literal["auto", "grpcio", "native"] = "auto"
    """`native` (pygrpc-native) for plaintext on loopback and Unix sockets, `grpcio` everywhere; `auto` chooses."""
    strict_time: Flag = False
    """A time window must hold at the request's time and at this machine's clock."""
    report_errors: Flag = False
    """Send `error_response` in place of a denied response for a 503 (allowed under Envoy's failure_mode_allow)."""

    def worker_count(self) -> int:
        """Return how many worker processes there are."""
        return self.workers if isinstance(self.workers, int) else max(len(os.sched_getaffinity(0)), 1)

    def addresses(self) -> tuple[str, ...]:
        """Return every address listened on, each worker's own sockets included."""
        workers = range(self.worker_count())
        return tuple(
            dict.fromkeys(address.replace(WORKER, str(number)) for address in self.listen for number in workers)
        )


class AdminSettings(Section):
    """The listener for operators: probes, metrics, and with a credential the rest."""

    listen: ListenAddress = "127.0.0.1:9192"
    """Address, or `unix:PATH` (0600)."""
    token_file: FilePath | None = None
    """Holds the bearer token (at least 32 characters) that everything but the open paths asks for."""
    tls: AdminTlsSettings | None = None
    """TLS of the admin listener, and of nothing else there; beyond loopback only with it more than the open paths."""
    allow_changes: Flag = False
    """Let whoever has the credential record and lift quarantines there; without it the listener only shows."""


class LogSettings(Section):
    """What is written on stderr: one line for each noteworthy thing, never one for each check."""

    format: Literal["text", "json"] = "text"
    """`text` for people; `json` for collectors: an object of `time`, `level`, `process`, `message` on each line."""


class ResourcesSettings(Section):
    """What is being asked for: routes, and what is known of each resource."""

    routes: Verbatim = ()
    """Routes, first match wins, before those of `files`."""
    catalog: Verbatim = ()
    """What is known of each resource."""
    files: tuple[NonEmptyText, ...] = ()
    """Globs of further files with `routes:` and `catalog:`."""


class PoliciesSettings(Section):
    """Where the policies are."""

    files: Annotated[tuple[NonEmptyText, ...], Field(min_length=1)] = ()
    """Globs, in path order; `*_test.yaml` is skipped; no match is an error."""
    bundle: BundleSettings | None = None
    """A signed archive of policies and resources; its policies come after those of `files`."""

    @model_validator(mode="after")
    def _come_from_somewhere(self) -> "PoliciesSettings":
        if not self.files and self.bundle is None:
            raise mistake("`files` or `bundle` is required")
        return self


class ResponseHeadersSettings(Section):
    """What an allow changes in the request."""

    headers: dict[str, str] = Field(default_factory=lambda: dict(DEFAULT_HEADERS))
    """Headers set for the upstream: name to template."""
    remove: tuple[NonEmptyText, ...] = ()
    """Further request headers stripped before the upstream."""
    forward_credentials: Flag = False
    """Pass the bearer token on; an API key never is."""
    assertion: AssertionSettings | None = None
    """A signed statement for the upstream about who called."""


class IdentitySettings(Section):
    """Who is calling: the ways to prove it, and who holds which role."""

    mtls: MtlsSettings | None = None
    """Client certificates of the connection that Envoy terminated."""
    jwt: tuple[JwtSettings, ...] = ()
    """Issuers of bearer tokens."""
    introspection: tuple[IntrospectionSettings, ...] = ()
    """Issuers that are asked what a token is (RFC 7662)."""
    token_review: TokenReviewSettings | None = None
    """A Kubernetes cluster that is asked what a service account's token is (TokenReview)."""
    api_keys: ApiKeysSettings | None = None
    """API keys of a hashed key file."""
    unsafe_anonymous: Flag = False
    """Let callers without any credential in, as an anonymous subject without roles."""
    role_bindings: tuple[RoleBindingSettings, ...] = ()
    """Roles held by typed names, besides those that credentials grant."""

    @property
    def asked(self) -> tuple[IntrospectionSettings | TokenReviewSettings, ...]:
        """Every issuer that is asked."""
        return self.introspection if self.token_review is None else (*self.introspection, self.token_review)

    @property
    def tokens_grant_roles(self) -> bool:
        """Whether a foreign issuer's tokens, or its word on them, can name any role."""
        return any(each.claims.roles for each in (*self.jwt, *self.asked))

    @property
    def reads_proofs(self) -> bool:
        """Whether any issuer's tokens may come as `DPoP`."""
        return any(each.dpop != "off" for each in (*self.jwt, *self.asked))


class Settings(Section):
    """The whole configuration file."""

    server: ServerSettings = ServerSettings()
    """The listener that Envoy asks."""
    admin: AdminSettings = AdminSettings()
    """The listener for operators."""
    run_dir: FilePath = Field(default=Path("run"), validate_default=True)
    """State and audit trail; created 0700, refused when others can write it."""
    identity: IdentitySettings = IdentitySettings()
    """Who is calling."""
    resources: ResourcesSettings = ResourcesSettings()
    """What is being asked for."""
    policies: PoliciesSettings
    """Who may do what."""
    response: ResponseHeadersSettings = ResponseHeadersSettings()
    """What an allow changes in the request."""
    tokens: TokensSettings | None = None
    """Tokens minted here."""
    audit: AuditSettings = AuditSettings()
    """The audit trail and where it is delivered."""
    monitor: MonitorSettings | None = None
    """Detectors, and what follows from what they find. Without this section nothing is watched."""
    log: LogSettings = LogSettings()
    """What is written on stderr."""
    tracing: TracingSettings | None = None
    """Spans of checks for an OpenTelemetry collector."""
    state: StateSettings = StateSettings()
    """Approvals, revocations and quarantines."""
