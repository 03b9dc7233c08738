"""What a user may say about each kind of sink.

Law: certificates are always verified; plaintext beyond loopback says `unsafe_`; what authenticates us is a secret and
never shown; a sink's name holds none. Non-goal: opening sinks (opening.py).
"""

import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator

from ext_authz.documents import did_you_mean
from ext_authz.settings import (
    NOT_AVAILABLE,
    Count,
    Duration,
    FilePath,
    Flag,
    NonEmptyText,
    Settings,
    Size,
    mistake,
    shown,
)

FORMATS: Final = ("native",)
LATER_FORMATS: Final = ("ocsf", "ecs", "cef", "leef", "cloudevents")
_TEXT_FORMATS: Final = ("cef", "leef")
_LOOPBACK: Final = re.compile(r"127(?:\.[0-9]{1,3}){3}|::1|localhost")
_VISIBLE: Final = re.compile(r"[!-~]{1,2048}\Z")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,8190}[!-~])?\Z")
_OURS: Final = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection"}
)
_MAX_EVENTS: Final = 100_000
_MIN_BYTES: Final = 1024
_MAX_BYTES: Final = 64 * 2**20
_MAX_LINGER: Final = 3600
_MAX_TIMEOUT: Final = 300


def one_of(value: object, known: tuple[str, ...], later: tuple[str, ...], what: str) -> str:
    """Return the known word; what is only named in the contract, and anything else, is a mistake."""
    if isinstance(value, str) and value in known:
        return str(value)
    if isinstance(value, str) and value in later:
        raise mistake(NOT_AVAILABLE)
    near = did_you_mean(value, (*known, *later)) if isinstance(value, str) else ""
    raise mistake(f"{shown(value)} is not {what}{near}")


def _format(value: object) -> str:
    return one_of(value, FORMATS, LATER_FORMATS, "a format")


def _url(value: object) -> str:
    problem = "is not a URL"
    if isinstance(value, str) and _VISIBLE.match(value):
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise mistake(problem) from None
        if parts.username is not None or parts.password is not None:
            raise mistake("a URL here holds no credentials: they have keys of their own")
        if (
            parts.scheme in ("http", "https")
            and parts.hostname
            and port != 0
            and not parts.fragment
            and "\\" not in value
        ):
            return value
    raise mistake(problem)


def _secret(value: object) -> SecretStr:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str) or not _HEADER_VALUE.match(value):
        raise mistake("a secret here is one line of printable ASCII without blanks at its ends")
    return SecretStr(value)


def _header_name(value: object) -> str:
    if not isinstance(value, str) or not _TOKEN.match(value):
        raise mistake(f"{shown(value)} is not a header's name")
    if value.lower() in _OURS:
        raise mistake(f"{shown(value)} is set by the sink itself")
    return value.lower()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine for certain."""
    return _LOOPBACK.fullmatch(host) is not None


Format = Annotated[Literal["native"], BeforeValidator(_format)]
Url = Annotated[str, BeforeValidator(_url), WithJsonSchema({"type": "string", "format": "uri"})]
Secret = Annotated[SecretStr, BeforeValidator(_secret), WithJsonSchema({"type": "string", "writeOnly": True})]
HeaderName = Annotated[str, BeforeValidator(_header_name)]
Timeout = Annotated[Duration, Field(gt=0, le=_MAX_TIMEOUT)]


class BatchSettings(Settings):
    """How many events go at once."""

    events: Annotated[Count, Field(ge=1, le=_MAX_EVENTS)] = 1000
    """At most so many."""
    bytes: Annotated[Size, Field(ge=_MIN_BYTES, le=_MAX_BYTES)] = 256 * 1024
    """About so many bytes of events, as the trail has them."""
    linger: Annotated[Duration, Field(ge=0, le=_MAX_LINGER)] = 0
    """How long to wait for a batch to fill."""


class ClientTls(Settings):
    """How the receiver is verified, and what we show it."""

    ca_file: FilePath | None = None
    """PEM bundle of the authorities trusted here; the machine's own where it is not set."""
    certificate: FilePath | None = None
    """PEM chain of our client certificate."""
    private_key: FilePath | None = None
    """PEM key of the client certificate."""

    @model_validator(mode="after")
    def _pair(self) -> "ClientTls":
        if (self.certificate is None) != (self.private_key is None):
            raise mistake("`certificate` and `private_key` go together")
        return self

    def pair(self) -> tuple[str, str] | None:
        """Return (certificate, key) as paths, or None."""
        if self.certificate is None or self.private_key is None:
            return None
        return str(self.certificate), str(self.private_key)

    def authorities(self) -> str | None:
        """Return the CA file's path, or None."""
        return None if self.ca_file is None else str(self.ca_file)


class SinkBase(Settings):
    """What every sink can say."""

    name: NonEmptyText | None = None
    """What cursors, metrics and messages call it; changing it sends the whole trail again. It needs no secret."""
    batch: BatchSettings = BatchSettings()
    """How many events go at once."""

    @property
    def place(self) -> str:
        """What it is called where no name was given."""
        raise NotImplementedError

    @property
    def extra(self) -> str | None:
        """The extra that it needs installed."""
        return None

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or self.place


class StdoutSinkSettings(SinkBase):
    """Standard output of the server, one event a line."""

    type: Literal["stdout"]
    format: Format = "native"

    @property
    def place(self) -> str:
        """There is one."""
        return "stdout"


class FileSinkSettings(SinkBase):
    """A file that events are appended to; it may be rotated under us by renaming."""

    type: Literal["file"]
    path: FilePath
    """Created 0600; not inside the trail's own folder."""
    format: Format = "native"

    @property
    def place(self) -> str:
        """The file."""
        return f"file:{self.path}"


class HttpBase(SinkBase):
    """What every sink over HTTP can say."""

    url: Url
    """Where to POST; `https`, `http` on loopback, or `http` elsewhere with `unsafe_plaintext`."""
    headers: dict[HeaderName, Secret] = Field(default_factory=dict)
    """Sent with every request; a value is best `${NAME}` or `${file:PATH}`."""
    timeout: Timeout = 30
    """For one request."""
    tls: ClientTls = ClientTls()
    """How the receiver is verified."""
    unsafe_plaintext: Flag = False
    """Allow `http` beyond loopback: whoever is on the way reads and alters events."""

    @model_validator(mode="after")
    def _private(self) -> "HttpBase":
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not self.unsafe_plaintext:
            raise mistake("`url` is neither `https` nor on loopback: use `https`, or say `unsafe_plaintext: true`")
        return self

    @property
    def place(self) -> str:
        """The kind and the host: a path may hold a secret."""
        parts = urlsplit(self.url)
        kind: Any = getattr(self, "type", "http")
        return f"{kind}:{parts.netloc}"

    @property
    def extra(self) -> str | None:
        """An HTTP library."""
        return "http"


class HttpSinkSettings(HttpBase):
    """Any receiver of events over HTTP."""

    type: Literal["http"]
    format: Format = "native"
    body: Literal["array", "lines"] | None = None
    """A JSON `array` (the default of JSON formats), or `lines` (NDJSON; the only one of `cef` and `leef`)."""
    compression: Literal["none", "gzip"] = "none"
    """Of what is sent."""

    @model_validator(mode="after")
    def _fits(self) -> "HttpSinkSettings":
        if self.body == "array" and self.format in _TEXT_FORMATS:
            raise mistake(f"`{self.format}` is no JSON: it goes as `lines`")
        return self


KINDS: Final = ("stdout", "file", "http")
LATER_KINDS: Final = ("splunk", "elasticsearch", "opa", "otlp", "syslog", "kafka", "redis", "nats", "s3")
AnySink = StdoutSinkSettings | FileSinkSettings | HttpSinkSettings
