"""The types that components' settings are written in: durations, sizes, flags, networks, paths.

Law: a scalar arrives as the text that was written, and one parser here says what
it means; a value that would have to be guessed is a mistake.
Non-goal: reading files or placing mistakes (config does both).
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

NOT_AVAILABLE: Final = "not available in this version"
MAX_COUNT: Final = 2**53

_INTEGER = re.compile(r"[0-9]{1,16}\Z")
_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)\Z")
_SIZE = re.compile(r"([0-9]{1,16})(B|KiB|MiB|GiB|TiB)?\Z")
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SHOWN = 80
_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1")
_VISIBLE = re.compile(r"[!-~]{1,2048}\Z")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(BaseModel):
    """Base of every component's settings: frozen, unknown keys refused, descriptions become the JSON Schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def mistake(message: str) -> PydanticCustomError:
    """Return the error a validator raises so that the user sees exactly `message` (no prefix)."""
    return PydanticCustomError("setting", "{message}", {"message": message})


def shown(value: object) -> str:
    """Quote what the user wrote for a message, bounded."""
    text = value if isinstance(value, str) else type(value).__name__
    return f"`{text[:_SHOWN]}…`" if len(text) > _SHOWN else f"`{text}`"


def parse_flag(value: object) -> bool:
    """Return the boolean written `true` or `false`; raises a mistake otherwise."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    raise mistake(f"{shown(value)} is neither `true` nor `false`")


def parse_count(value: object) -> int:
    """Return the whole number ≥ 0 written in decimal digits; raises a mistake otherwise."""
    if isinstance(value, str) and _INTEGER.match(value) and (value == "0" or value[0] != "0"):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
        return value
    raise mistake(f"{shown(value)} is not a whole number{' of 0 or more' if _is_negative(value) else ''}")


def _is_negative(value: object) -> bool:
    return isinstance(value, str) and value.startswith("-") and bool(_INTEGER.match(value[1:]))


def parse_duration(value: object) -> float:
    """Return the seconds of `500ms`, `30s`, `15m`, `1h` or `7d`; raises a mistake otherwise."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
        return value
    found = _DURATION.match(value) if isinstance(value, str) else None
    if found is None:
        raise mistake(f"{shown(value)} is not a duration such as `500ms`, `30s`, `15m`, `1h` or `7d`")
    seconds, rest = divmod(int(found[1]) * _MILLISECONDS[found[2]], 1000)
    return seconds + rest / 1000 if rest else seconds


def parse_seconds(value: object) -> int:
    """Return a duration that is a whole number of seconds; raises a mistake otherwise."""
    seconds = parse_duration(value)
    if seconds != int(seconds):
        raise mistake(f"{shown(value)} is not a whole number of seconds")
    return int(seconds)


def parse_size(value: object) -> int:
    """Return the bytes of `512`, `64KiB`, `1MiB` or `1GiB`; raises a mistake otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
        return value
    found = _SIZE.match(value) if isinstance(value, str) else None
    if found is None:
        raise mistake(f"{shown(value)} is not a size such as `512`, `64KiB`, `1MiB` or `1GiB`")
    return int(found[1]) * _BYTES[found[2]]


def parse_cidr(value: object) -> Network:
    """Return the network of a CIDR or a single address; host bits set are a mistake.

    An IPv4-mapped network is the IPv4 network it names (RFC 4291 2.5.5.2).
    """
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    if not isinstance(value, str) or "%" in value:
        raise mistake(f"{shown(value)} is not a CIDR such as `10.0.0.0/8`")
    try:
        network = ipaddress.ip_network(value, strict=True)
    except ValueError as error:
        about = "has bits set beyond its prefix" if "host bits" in str(error) else "is not a CIDR such as `10.0.0.0/8`"
        raise mistake(f"{shown(value)} {about}") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_PREFIX:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_PREFIX))
    return network


_MAPPED_PREFIX = 96


def parse_text(value: object) -> str:
    """Return non-empty text without control characters; raises a mistake otherwise."""
    if not isinstance(value, str) or not value:
        raise mistake(f"{shown(value)} is not text" if value != "" else "is empty")
    if any(ord(c) < ord(" ") or ord(c) == _DELETE for c in value):
        raise mistake("holds a control character")
    return str(value)


def _secret_text(value: object) -> SecretStr:
    # What is no text is not repeated: it may hold a secret in a wrong place.
    return value if isinstance(value, SecretStr) else SecretStr(parse_text(value if isinstance(value, str) else ""))


_DELETE = 0x7F


def parse_path(value: object, info: ValidationInfo) -> Path:
    """Return a path; a relative one is taken from `base` of the validation context (the file's folder)."""
    if isinstance(value, Path):
        path = value
    elif isinstance(value, str) and value and "\0" not in value:
        path = Path(value).expanduser() if value.startswith("~/") else Path(value)
    else:
        raise mistake(f"{shown(value)} is not a path" if value != "" else "is empty")
    context = info.context
    base = context.get("base") if isinstance(context, Mapping) else None
    return Path(base) / path if base is not None else path


def is_loopback(host: str) -> bool:
    """Whether a host is this machine for certain."""
    return _LOOPBACK.fullmatch(host) is not None


def url_problem(url: str, *, plaintext: bool = False) -> str | None:
    """Say why what is trusted cannot be fetched from `url`, or None.

    `https`, or `http` on loopback (anywhere with `plaintext`), and nothing hidden in it.
    """
    if not _VISIBLE.match(url):
        return "is not a URL"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if not parts.hostname or port == 0 or parts.username is not None or parts.fragment or "\\" in url:
        return "is not a URL of a host and a path alone"
    if parts.scheme == "https" or (parts.scheme == "http" and (plaintext or is_loopback(parts.hostname))):
        return None
    return "is neither `https` nor on loopback: whoever is on the way could answer in its place"


T = TypeVar("T")


def not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    """Return the list; an empty one is a mistake (`min_length` would also complain wherever an item is wrong)."""
    if not value:
        raise mistake("is empty")
    return value


Flag = Annotated[bool, BeforeValidator(parse_flag)]
"""`true` or `false`."""
Count = Annotated[int, BeforeValidator(parse_count), WithJsonSchema({"type": "integer", "minimum": 0})]
"""A whole number, 0 or more."""
Duration = Annotated[
    float, BeforeValidator(parse_duration), WithJsonSchema({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"})
]
"""Seconds, perhaps with a fraction; written `500ms`, `30s`, `15m`, `1h`, `7d`."""
Seconds = Annotated[
    int, BeforeValidator(parse_seconds), WithJsonSchema({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"})
]
"""Whole seconds; written as Duration is."""
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)?$"}),
]
"""Bytes; written `512`, `64KiB`, `1MiB`, `1GiB`."""
NonEmptyText = Annotated[str, BeforeValidator(parse_text), Field(min_length=1)]
"""Text of at least one character, none of them a control character."""
SecretText = Annotated[
    SecretStr, BeforeValidator(_secret_text), WithJsonSchema({"type": "string", "minLength": 1, "writeOnly": True})
]
"""As NonEmptyText, and shown nowhere: not by the admin listener, and in no message."""
Some = Annotated[tuple[T, ...], AfterValidator(not_empty), Field(json_schema_extra={"minItems": 1})]
"""A list of at least one item: `Some[NonEmptyText]`."""
Cidr = Annotated[Network, BeforeValidator(parse_cidr), WithJsonSchema({"type": "string"})]
"""A network, or a single address."""
FilePath = Annotated[Path, BeforeValidator(parse_path)]
"""A path; relative to the `base` of the validation context where there is one."""
