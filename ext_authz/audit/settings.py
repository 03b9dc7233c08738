"""What a user may say about the audit trail.

Law: what this version cannot do is refused by name, so that nobody believes a
trail to be signed, encrypted or redacted that is not. Non-goal: opening sinks.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from ext_authz.audit.sinks.settings import KINDS, LATER_KINDS, AnySink, FileSinkSettings, StdoutSinkSettings, one_of
from ext_authz.settings import Settings, Unavailable, mistake


def _sink(value: object) -> object:
    if isinstance(value, Settings):
        return value
    if not isinstance(value, Mapping) or "type" not in value:
        raise mistake("a sink needs a `type`")
    return {**value, "type": one_of(value["type"], KINDS, LATER_KINDS, "a kind of sink")}


def _on_full(value: object) -> str:
    return one_of(value, ("deny",), ("drop",), "`deny` or `drop`")


SinkSettings = Annotated[Annotated[AnySink, Field(discriminator="type")], BeforeValidator(_sink)]


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
        names: set[str] = set()
        places: set[object] = set()
        for sink in sinks:
            if isinstance(sink, (FileSinkSettings, StdoutSinkSettings)):
                place = sink.path.resolve() if isinstance(sink, FileSinkSettings) else sink.type
                if place in places:
                    raise mistake("two sinks write to the same place: every event would stand there twice")
                places.add(place)
            if sink.label in names:
                raise mistake(f"two sinks are called `{sink.label}`: give one a `name`, its cursor goes by it")
            names.add(sink.label)
        return sinks
