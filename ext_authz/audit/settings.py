"""What a user may say about the audit trail.

Law: what this version cannot do is refused by name, so that nobody believes a
trail to be something that it is not. Non-goal: opening sinks or keys.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from ext_authz.audit.sinks.settings import KINDS, AnySink, FileSinkSettings, StdoutSinkSettings
from ext_authz.audit.sinks.settings_base import one_of
from ext_authz.envelope.keys import KeyReference, parse_reference
from ext_authz.settings import Seconds, Settings, mistake, parse_seconds, parse_size, shown

MIN_TRAIL_BYTES: Final = 2**20
MIN_SEGMENT_BYTES: Final = 64 * 2**10
MAX_SEGMENT_BYTES: Final = 2**30
MIN_SEGMENT_SECONDS: Final = 10
MAX_SEGMENT_SECONDS: Final = 7 * 86_400
KEPT: Final = frozenset(
    {"schema", "event_id", "seq", "time", "decision_id", "decision", "reason", "http_status", "erased"}
)
"""What redaction leaves in every event."""


def _sink(value: object) -> object:
    if isinstance(value, Settings):
        return value
    if isinstance(value, str):
        raise mistake(f"a sink is a mapping such as `{{type: {one_of(value, KINDS, 'a kind of sink')}}}`")
    if not isinstance(value, Mapping) or "type" not in value:
        raise mistake("a sink needs a `type`")
    return {**value, "type": one_of(value["type"], KINDS, "a kind of sink")}


def _key(value: object, info: ValidationInfo) -> KeyReference:
    if isinstance(value, KeyReference):
        return value
    if not isinstance(value, str):
        raise mistake(
            f"{shown(value)} is not a key such as `file:PATH`, `vault:KEY`, `awskms:alias/NAME` or `pkcs11:…`"
        )
    base = info.context.get("base") if isinstance(info.context, Mapping) else None
    try:
        return parse_reference(value, None if base is None else Path(base))
    except ValueError as error:
        raise mistake(str(error)) from None


def _signing_key(value: object, info: ValidationInfo) -> KeyReference:
    key = _key(value, info)
    if key.scheme == "awskms":
        raise mistake("checkpoints are signed by `file:PATH` or `vault:KEY`; AWS KMS has no Ed25519 key for it")
    if key.scheme == "pkcs11":
        raise mistake("checkpoints are signed by `file:PATH` or `vault:KEY`; a `pkcs11:` key encrypts only")
    return key


def _on_full(value: object) -> str:
    return one_of(value, ("deny", "drop"), "`deny` or `drop`")


def _max_bytes(value: object) -> int:
    size = parse_size(value)
    if size < MIN_TRAIL_BYTES:
        raise mistake(f"{shown(str(value))} is less than 1MiB")
    return size


def _segment_bytes(value: object) -> int:
    size = parse_size(value)
    if not MIN_SEGMENT_BYTES <= size <= MAX_SEGMENT_BYTES:
        raise mistake(f"{shown(str(value))} is not from 64KiB to 1GiB")
    return size


def _segment_age(value: object) -> int:
    seconds = parse_seconds(value)
    if not MIN_SEGMENT_SECONDS <= seconds <= MAX_SEGMENT_SECONDS:
        raise mistake(f"{shown(str(value))} is not from 10s to 7d")
    return seconds


def _pointer(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or len(value) == 1:
        raise mistake(f"{shown(value)} is not a JSON Pointer such as `/context/path` (RFC 6901)")
    if re.search(r"~(?![01])", value):
        raise mistake(f"{shown(value)} is not a JSON Pointer: after `~` stands `0` or `1`")
    first = value[1:].partition("/")[0]
    if first in KEPT:
        raise mistake(f"`{first}` cannot be redacted: the trail would not hold together without it")
    return str(value)


SinkSettings = Annotated[Annotated[AnySink, Field(discriminator="type")], BeforeValidator(_sink)]


KeySetting = Annotated[KeyReference, BeforeValidator(_key), WithJsonSchema({"type": "string"})]
SigningKeySetting = Annotated[KeyReference, BeforeValidator(_signing_key), WithJsonSchema({"type": "string"})]
_SIZE: Final = WithJsonSchema({"type": ["string", "integer"]})
_AGE: Final = WithJsonSchema({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"})


class EncryptionSettings(Settings):
    """Which key wraps the data keys of the trail's segments."""

    key: KeySetting
    """`file:PATH` (a keyring), `vault:[MOUNT/]KEY`, `awskms:KEY`, or a `pkcs11:` URI of a key in a token."""


class SigningSettings(Settings):
    """Which key signs the trail's checkpoints."""

    key: SigningKeySetting
    """`file:PATH` (an Ed25519 key, PEM) or `vault:[MOUNT/]KEY`."""


class SpoolSettings(Settings):
    """How the trail itself is kept."""

    max_bytes: Annotated[int, BeforeValidator(_max_bytes), _SIZE] = 10 * 2**30
    """How large the trail of all processes may get; from 80 % on, denials of strangers are coalesced."""
    retain: Seconds = 90 * 86_400
    """How long events are kept; older segments go once every sink has them."""
    on_full: Annotated[Literal["deny", "drop"], BeforeValidator(_on_full)] = "deny"
    """When the disk takes no more: `deny` answers `audit_unavailable` instead of an allow; `drop` answers, counts what
    is missing, and records how much when there is space again."""
    segment_bytes: Annotated[int, BeforeValidator(_segment_bytes), _SIZE] = 64 * 2**20
    """A new segment with a new data key begins after this many bytes …"""
    segment_age: Annotated[int, BeforeValidator(_segment_age), _AGE] = 86_400
    """… or this long after the last one, where there were events."""


class AuditSettings(Settings):
    """The `audit:` section."""

    sinks: tuple[SinkSettings, ...] = ()
    """Where events are delivered to; the trail in `run_dir` is kept whether there is one or not."""
    spool: SpoolSettings = SpoolSettings()
    encryption: EncryptionSettings | None = None
    """The key of the trail. Without: `audit.key`, a keyring made beside this file at the first start."""
    signing: SigningSettings | None = None
    """The key of its checkpoints. Without: `audit-signing.key`, made beside this file at the first start."""
    redact: tuple[Annotated[str, BeforeValidator(_pointer)], ...] = ()
    """JSON Pointers of what is erased from every event before it is recorded; `erased` in the event names them."""

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
