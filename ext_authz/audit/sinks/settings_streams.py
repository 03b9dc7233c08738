"""Settings of the sinks that are streams or stores: syslog, Kafka, Redis, NATS, S3.

Law: as settings_base.py. Non-goal: clients' own options.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from ext_authz.audit.sinks.settings_base import (
    MAX_BYTES,
    MAX_EVENTS,
    MAX_LINGER,
    MIN_BYTES,
    Address,
    BatchSettings,
    ClientTls,
    Compression,
    Format,
    Name,
    NatsUrl,
    RedisUrl,
    Secret,
    SinkBase,
    Timeout,
    Url,
)
from ext_authz.settings import Count, Duration, Flag, Size, is_loopback, mistake


class SyslogSinkSettings(SinkBase):
    """RFC 5424 over TLS (RFC 5425). Best effort: syslog acknowledges nothing."""

    type: Literal["syslog"]
    address: Address
    """`HOST:PORT`."""
    transport: Literal["tls", "tcp"] = "tls"
    """`tcp` (RFC 6587, octet counting) only on loopback, or with `unsafe_plaintext`."""
    tls: ClientTls = ClientTls()
    """How the receiver is verified."""
    unsafe_plaintext: Flag = False
    """Allow `tcp` beyond loopback."""
    facility: Annotated[Count, Field(le=23)] = 13
    """Number of the facility; 13 is log audit."""
    window: Annotated[Size, Field(le=16 * 2**20)] = 64 * 1024
    """After a broken connection so many bytes that were sent last are sent again."""
    timeout: Timeout = 30
    """For connecting and for one batch."""
    format: Format = "native"

    @model_validator(mode="after")
    def _private(self) -> "SyslogSinkSettings":
        host = self.address.rpartition(":")[0].strip("[]")
        if self.transport == "tcp" and not (self.unsafe_plaintext or is_loopback(host)):
            raise mistake("`transport: tcp` beyond loopback: use `tls`, or say `unsafe_plaintext: true`")
        return self

    @property
    def place(self) -> str:
        """The receiver."""
        return f"syslog:{self.address}"


class KafkaSinkSettings(SinkBase):
    """A Kafka topic; the log's id is the key, so that a log keeps its order."""

    type: Literal["kafka"]
    brokers: Annotated[tuple[Address, ...], Field(min_length=1)]
    """`HOST:PORT` of some brokers."""
    topic: Name
    """Topic."""
    tls: ClientTls = ClientTls()
    """How brokers are verified."""
    username: Secret | None = None
    """For SASL, with `password`."""
    password: Secret | None = None
    """Of `username`."""
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    """SASL mechanism."""
    unsafe_plaintext: Flag = False
    """Speak without TLS to brokers beyond loopback (on loopback TLS is spoken where `tls` or `username` is set)."""
    compression: Literal["none", "gzip", "lz4", "zstd"] = "zstd"
    """Of what is sent."""
    timeout: Timeout = 30
    """For one batch."""
    format: Format = "native"

    @model_validator(mode="after")
    def _pair(self) -> "KafkaSinkSettings":
        if (self.username is None) != (self.password is None):
            raise mistake("`username` and `password` go together")
        return self

    @property
    def plaintext(self) -> bool:
        """Whether brokers are spoken to without TLS."""
        local = all(is_loopback(each.rpartition(":")[0].strip("[]")) for each in self.brokers)
        return self.unsafe_plaintext or (local and "tls" not in self.model_fields_set and self.username is None)

    @property
    def place(self) -> str:
        """The topic at the first broker."""
        return f"kafka:{self.brokers[0]}/{self.topic}"

    @property
    def extra(self) -> str | None:
        """The client of librdkafka."""
        return "kafka"


class RedisSinkSettings(SinkBase):
    """Redis Streams: one stream for each log, each event under an id of its own."""

    type: Literal["redis"]
    url: RedisUrl
    """`rediss://HOST:PORT/DB`, or `redis://` on loopback or with `unsafe_plaintext`."""
    stream: Name = "ext-authz:audit"
    """Before the log's id it names the stream; the set `STREAM:logs` lists the logs."""
    username: Secret | None = None
    """Of an ACL user."""
    password: Secret | None = None
    """Of the user."""
    replicas: Annotated[Count, Field(le=16)] = 0
    """How many replicas must have a batch before it counts (WAIT)."""
    tls: ClientTls = ClientTls()
    """How the server is verified."""
    unsafe_plaintext: Flag = False
    """Allow `redis://` beyond loopback."""
    timeout: Timeout = 30
    """For one batch."""
    format: Format = "native"

    @model_validator(mode="after")
    def _private(self) -> "RedisSinkSettings":
        parts = urlsplit(self.url)
        if parts.scheme == "redis" and not (self.unsafe_plaintext or is_loopback(parts.hostname or "")):
            raise mistake("`url` is neither `rediss` nor on loopback: use `rediss`, or say `unsafe_plaintext: true`")
        if parts.path.strip("/") and not parts.path.strip("/").isdigit():
            raise mistake("the path of `url` is the number of a database")
        return self

    @property
    def place(self) -> str:
        """The streams at the server."""
        parts = urlsplit(self.url)
        return f"redis:{parts.netloc}{parts.path}/{self.stream}"

    @property
    def extra(self) -> str | None:
        """Redis' client."""
        return "redis"


class NatsSinkSettings(SinkBase):
    """NATS JetStream; the event id is the message id by which the server drops duplicates."""

    type: Literal["nats"]
    url: NatsUrl
    """`tls://HOST:PORT`, or `nats://` on loopback or with `unsafe_plaintext`."""
    subject: Name = "ext-authz.audit"
    """Subject of a stream that exists."""
    username: Secret | None = None
    """With `password`; or `token`."""
    password: Secret | None = None
    """Of `username`."""
    token: Secret | None = None
    """In place of `username` and `password`."""
    tls: ClientTls = ClientTls()
    """How the server is verified."""
    unsafe_plaintext: Flag = False
    """Allow `nats://` beyond loopback."""
    timeout: Timeout = 30
    """For one batch."""
    format: Format = "native"

    @model_validator(mode="after")
    def _private(self) -> "NatsSinkSettings":
        parts = urlsplit(self.url)
        if parts.scheme == "nats" and not (self.unsafe_plaintext or is_loopback(parts.hostname or "")):
            raise mistake("`url` is neither `tls` nor on loopback: use `tls`, or say `unsafe_plaintext: true`")
        if (self.username is None) != (self.password is None):
            raise mistake("`username` and `password` go together")
        return self

    @property
    def place(self) -> str:
        """The subject at the server."""
        return f"nats:{urlsplit(self.url).netloc}/{self.subject}"

    @property
    def extra(self) -> str | None:
        """NATS' client."""
        return "nats"


class ObjectBatchSettings(BatchSettings):
    """How many events make one object."""

    events: Annotated[Count, Field(ge=1, le=MAX_EVENTS)] = 50_000
    """At most so many."""
    bytes: Annotated[Size, Field(ge=MIN_BYTES, le=MAX_BYTES)] = 8 * 2**20
    """About so many bytes of events, as the trail has them."""
    linger: Annotated[Duration, Field(ge=0, le=MAX_LINGER)] = 60
    """How long to wait for a batch to fill."""


class S3SinkSettings(SinkBase):
    """Objects in S3 or what speaks its protocol; an object that is there is never written again."""

    type: Literal["s3"]
    bucket: Name
    """Bucket; region and credentials are boto3's usual ones."""
    prefix: Name = "ext-authz"
    """Before `/LOG_ID/SEQ.jsonl.gz`."""
    region: Name | None = None
    """Region, where boto3 does not find one itself."""
    endpoint: Url | None = None
    """URL of another service than AWS; `http` only on loopback."""
    tls: ClientTls = ClientTls()
    """How the service is verified."""
    compression: Compression = "gzip"
    """Of objects."""
    timeout: Timeout = 60
    """For one request."""
    format: Format = "native"
    batch: ObjectBatchSettings = ObjectBatchSettings()
    """How many events make one object."""

    @model_validator(mode="after")
    def _private(self) -> "S3SinkSettings":
        parts = urlsplit(self.endpoint or "https://aws")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise mistake("`endpoint` is neither `https` nor on loopback")
        return self

    @property
    def place(self) -> str:
        """The prefix in the bucket."""
        return f"s3:{self.bucket}/{self.prefix}"

    @property
    def extra(self) -> str | None:
        """AWS' client."""
        return "aws"
