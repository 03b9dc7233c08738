"""What a user may say about the audit trail.

Law: what this version cannot do is refused by name, so that nobody believes a
trail to be signed, encrypted or redacted that is not. Non-goal: opening sinks.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, field_validator

from ext_authz.documents import did_you_mean
from ext_authz.settings import NOT_AVAILABLE, FilePath, Settings, Unavailable, mistake, shown

KINDS: Final = ("stdout", "file")
LATER_KINDS: Final = (
    "http",
    "splunk",
    "elasticsearch",
    "opa",
    "otlp",
    "syslog",
    "kafka",
    "redis",
    "nats",
    "s3",
)
FORMATS: Final = ("native",)
LATER_FORMATS: Final = ("ocsf", "ecs", "cef", "leef", "cloudevents")


def _one_of(value: object, known: tuple[str, ...], later: tuple[str, ...], what: str) -> str:
    if isinstance(value, str) and value in known:
        return str(value)
    if isinstance(value, str) and value in later:
        raise mistake(NOT_AVAILABLE)
    near = did_you_mean(value, (*known, *later)) if isinstance(value, str) else ""
    raise mistake(f"{shown(value)} is not {what}{near}")


def _format(value: object) -> str:
    return _one_of(value, FORMATS, LATER_FORMATS, "a format")


def _sink(value: object) -> object:
    if isinstance(value, Settings):
        return value
    if not isinstance(value, Mapping) or "type" not in value:
        raise mistake("a sink needs a `type`")
    return {**value, "type": _one_of(value["type"], KINDS, LATER_KINDS, "a kind of sink")}


def _on_full(value: object) -> str:
    return _one_of(value, ("deny",), ("drop",), "`deny` or `drop`")


Format = Annotated[Literal["native"], BeforeValidator(_format)]


class StdoutSinkSettings(Settings):
    """Standard output of the server, one event a line."""

    type: Literal["stdout"]
    format: Format = "native"


class FileSinkSettings(Settings):
    """A file that events are appended to; it may be rotated under us by renaming."""

    type: Literal["file"]
    path: FilePath
    """Created 0600; not inside the trail's own folder."""
    format: Format = "native"


SinkSettings = Annotated[
    Annotated[StdoutSinkSettings | FileSinkSettings, Field(discriminator="type")], BeforeValidator(_sink)
]


class SpoolSettings(Settings):
    """How the trail itself is kept."""

    max_bytes: Unavailable = None
    retain: Unavailable = None
    on_full: Annotated[Literal["deny"], BeforeValidator(_on_full)] = "deny"
    """When the disk takes no more: `deny` answers `audit_unavailable` instead of an allow."""


class AuditSettings(Settings):
    """The `audit:` section."""

    sinks: tuple[SinkSettings, ...] = ()
    """Where events are delivered to; the trail in `run_dir` is kept whether there is one or not."""
    spool: SpoolSettings = SpoolSettings()
    encryption: Unavailable = None
    signing: Unavailable = None
    redact: Unavailable = None

    @field_validator("sinks")
    @classmethod
    def _distinct(cls, sinks: tuple[SinkSettings, ...]) -> tuple[SinkSettings, ...]:
        seen: set[object] = set()
        for sink in sinks:
            key = sink.path.resolve() if isinstance(sink, FileSinkSettings) else sink.type
            if key in seen:
                raise mistake("two sinks write to the same place: every event would stand there twice")
            seen.add(key)
        return sinks
