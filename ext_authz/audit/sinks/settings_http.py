"""Settings of the sinks that POST: any receiver, Splunk, Elasticsearch, OPA's collectors, OpenTelemetry.

Law: as settings_base.py. Non-goal: what bodies look like.
"""

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from ext_authz.audit.sinks.settings_base import (
    TEXT_FORMATS,
    ClientTls,
    Compression,
    Format,
    HeaderName,
    JsonFormat,
    Name,
    Secret,
    SinkBase,
    Timeout,
    Url,
)
from ext_authz.settings import Flag, is_loopback, mistake


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
    compression: Compression = "none"
    """Of what is sent."""

    @model_validator(mode="after")
    def _fits(self) -> "HttpSinkSettings":
        if self.body == "array" and self.format in TEXT_FORMATS:
            raise mistake(f"`body: {self.body}` does not go with `{self.format}`: it is no JSON and goes as `lines`")
        return self


class SplunkSinkSettings(HttpBase):
    """Splunk's HTTP Event Collector."""

    type: Literal["splunk"]
    token: Secret
    """The collector's token."""
    format: Format = "native"
    index: Name | None = None
    """Index; the token's own where it is not set."""
    source: Name = "ext-authz"
    """Splunk's `source`."""
    sourcetype: Name | None = None
    """Splunk's `sourcetype`; `ext_authz:FORMAT` where it is not set."""
    indexer_ack: Flag = False
    """Wait until the indexers have a batch (the token must have acknowledgement enabled); a 200 alone says received."""
    compression: Compression = "none"
    """Of what is sent."""


class ElasticsearchSinkSettings(HttpBase):
    """Elasticsearch or OpenSearch, by bulk requests that create each document once."""

    type: Literal["elasticsearch"]
    index: Name = "logs-ext_authz.audit-default"
    """Index or data stream."""
    api_key: Secret | None = None
    """Encoded API key; or `username` and `password`."""
    username: Secret | None = None
    """With `password`, in place of an API key."""
    password: Secret | None = None
    """Of `username`."""
    format: JsonFormat = "ecs"
    compression: Compression = "gzip"
    """Of what is sent."""

    @model_validator(mode="after")
    def _one_way_in(self) -> "ElasticsearchSinkSettings":
        if (self.username is None) != (self.password is None):
            raise mistake("`username` and `password` go together")
        if self.api_key is not None and self.username is not None:
            raise mistake("`api_key` and `username`: one of them")
        return self


class OpaSinkSettings(HttpBase):
    """A collector of OPA's decision logs: a compressed array of OPA's own events."""

    type: Literal["opa"]


class OtlpSinkSettings(HttpBase):
    """An OpenTelemetry collector, as logs."""

    type: Literal["otlp"]
    protocol: Literal["http", "grpc"] = "http"
    """`http` POSTs protobuf to `url` (`…/v1/logs`); `grpc` calls the host and port of `url`."""
    compression: Compression = "gzip"
    """Of what is sent."""

    @property
    def extra(self) -> str | None:
        """OTLP's messages; over HTTP an HTTP library too."""
        return "otlp"
