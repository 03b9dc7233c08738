"""What the settings of sinks are written in, and what all of them can say.

Law: certificates are always verified; plaintext beyond loopback says `unsafe_`; what authenticates us is a secret and
never shown; a sink's name holds none. Non-goal: opening sinks (opening.py).
"""

import re
from abc import ABC, abstractmethod
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator

from ext_authz.documents import did_you_mean
from ext_authz.settings import (
    Count,
    Duration,
    FilePath,
    NonEmptyText,
    Settings,
    Size,
    mistake,
    shown,
)

JSON_FORMATS: Final = ("native", "ocsf", "ecs", "cloudevents")
TEXT_FORMATS: Final = ("cef", "leef")
FORMATS: Final = (*JSON_FORMATS, *TEXT_FORMATS)
_VISIBLE: Final = re.compile(r"[!-~]{1,2048}\Z")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,8190}[!-~])?\Z")
_OURS: Final = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection"}
)
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]{1,253})):([0-9]{1,5})\Z")
_SUBJECT: Final = re.compile(r"[A-Za-z0-9._:/-]{1,200}\Z")
_MAX_PORT: Final = 65535
MAX_EVENTS: Final = 100_000
MIN_BYTES: Final = 1024
MAX_BYTES: Final = 64 * 2**20
MAX_LINGER: Final = 3600
_MAX_TIMEOUT: Final = 300


def one_of(value: object, known: tuple[str, ...], what: str) -> str:
    """Return the known word; anything else is a mistake."""
    if isinstance(value, str) and value in known:
        return str(value)
    near = did_you_mean(value, known) if isinstance(value, str) else ""
    raise mistake(f"{shown(value)} is not {what}{near}")


def _format(value: object) -> str:
    return one_of(value, FORMATS, "a format")


def _json_format(value: object) -> str:
    if isinstance(value, str) and value in TEXT_FORMATS:
        raise mistake(f"`{value}` is no JSON, which this sink needs")
    return one_of(value, JSON_FORMATS, "a format")


def parse_url(value: object, schemes: tuple[str, ...] = ("http", "https")) -> str:
    """Return a URL that holds no credentials; raises a mistake otherwise."""
    problem = f"is not a URL of {' or '.join(f'`{each}`' for each in schemes)}"
    if isinstance(value, str) and _VISIBLE.match(value):
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise mistake(problem) from None
        if parts.username is not None or parts.password is not None:
            raise mistake("a URL here holds no credentials: they have keys of their own")
        if parts.scheme in schemes and parts.hostname and port != 0 and not parts.fragment and "\\" not in value:
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


def _redis_url(value: object) -> str:
    return parse_url(value, ("rediss", "redis"))


def _nats_url(value: object) -> str:
    return parse_url(value, ("tls", "nats"))


def _address(value: object) -> str:
    found = _ADDRESS.match(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[3]) <= _MAX_PORT:
        raise mistake(f"{shown(value)} is not an address such as `logs.example:6514`")
    return str(value)


def _subject(value: object) -> str:
    if not isinstance(value, str) or not _SUBJECT.match(value):
        raise mistake(f"{shown(value)} is not a name of letters, digits, `.`, `_`, `-`, `:` and `/`")
    return value


Format = Annotated[Literal["native", "ocsf", "ecs", "cloudevents", "cef", "leef"], BeforeValidator(_format)]
JsonFormat = Annotated[Literal["native", "ocsf", "ecs", "cloudevents"], BeforeValidator(_json_format)]
RedisUrl = Annotated[str, BeforeValidator(_redis_url), WithJsonSchema({"type": "string", "format": "uri"})]
NatsUrl = Annotated[str, BeforeValidator(_nats_url), WithJsonSchema({"type": "string", "format": "uri"})]
Address = Annotated[str, BeforeValidator(_address), WithJsonSchema({"type": "string"})]
Name = Annotated[str, BeforeValidator(_subject), WithJsonSchema({"type": "string"})]
Compression = Literal["none", "gzip"]
Url = Annotated[str, BeforeValidator(parse_url), WithJsonSchema({"type": "string", "format": "uri"})]
Secret = Annotated[SecretStr, BeforeValidator(_secret), WithJsonSchema({"type": "string", "writeOnly": True})]
HeaderName = Annotated[str, BeforeValidator(_header_name)]
Timeout = Annotated[Duration, Field(gt=0, le=_MAX_TIMEOUT)]


class BatchSettings(Settings):
    """How many events go at once."""

    events: Annotated[Count, Field(ge=1, le=MAX_EVENTS)] = 1000
    """At most so many."""
    bytes: Annotated[Size, Field(ge=MIN_BYTES, le=MAX_BYTES)] = 256 * 1024
    """About so many bytes of events, as the trail has them."""
    linger: Annotated[Duration, Field(ge=0, le=MAX_LINGER)] = 0
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


class SinkBase(Settings, ABC):
    """What every sink can say."""

    name: NonEmptyText | None = None
    """What cursors, metrics and messages call it; changing it sends the whole trail again. It needs no secret."""
    batch: BatchSettings = BatchSettings()
    """How many events go at once."""

    @property
    @abstractmethod
    def place(self) -> str:
        """What it is called where no name was given."""

    @property
    def extra(self) -> str | None:
        """The extra that it needs installed."""
        return None

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or self.place
