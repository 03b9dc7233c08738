"""The settings of a signed bundle: `policies.bundle`.

Law: no bundle without a name and a key to verify it with; no fetching without TLS
beyond loopback unless `unsafe_http` says so. Non-goal: reading key files (config).
"""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator

from ext_authz.bundle.manifest import name_problem
from ext_authz.settings import (
    Count,
    FilePath,
    Flag,
    Seconds,
    SecretText,
    Settings,
    Size,
    mistake,
    not_empty,
    shown,
    url_problem,
)

MIN_POLL: Final = 1
MAX_POLL: Final = 86_400
MAX_KEYS: Final = 8
MAX_HEADERS: Final = 8
_HEADER = re.compile(r"[a-z0-9-]{1,64}\Z")
_VALUE = re.compile(r"[!-~]([ -~]{0,8190}[!-~])?\Z")
_OURS: Final = frozenset(
    {"host", "accept", "accept-encoding", "connection", "content-length", "if-none-match", "transfer-encoding"}
)


def _name(value: object) -> str:
    problem = name_problem(value) if isinstance(value, str) else "is not text"
    if problem is not None:
        raise mistake(f"{shown(value)} {problem}")
    return str(value)


def _poll(value: int) -> int:
    if not MIN_POLL <= value <= MAX_POLL:
        raise mistake(f"`poll` is from {MIN_POLL}s to 1d")
    return value


def _headers(value: dict[str, SecretStr]) -> dict[str, SecretStr]:
    if len(value) > MAX_HEADERS:
        raise mistake(f"at most {MAX_HEADERS} headers are sent")
    for name, content in value.items():
        if not _HEADER.match(name) or name in _OURS:
            raise mistake(f"{shown(name)} is not a header (lower case) that can be sent")
        if not _VALUE.match(content.get_secret_value()):
            # The value is a secret: it is not repeated.
            raise mistake(f"the value of {shown(name)} is not printable ASCII text")
    return value


BundleName = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string"})]


class BundleSettings(Settings):
    """A signed archive of policies and resources, fetched from a server (docs/bundles.md)."""

    url: Annotated[str, WithJsonSchema({"type": "string", "format": "uri"})]
    """Where the bundle is: `https`, or `http` on loopback."""
    name: BundleName
    """The name that its manifest must have, so that another bundle signed with the same key is not taken for it."""
    public_keys: Annotated[tuple[FilePath, ...], AfterValidator(not_empty), Field(json_schema_extra={"minItems": 1})]
    """Ed25519 public keys (PEM) of which one must have signed it; two while the key is changed."""
    poll: Annotated[Seconds, AfterValidator(_poll)] = 60
    """How often the server is asked for a newer one (ETag)."""
    timeout: Seconds = 30
    """How long one whole download may take."""
    headers: Annotated[dict[str, SecretText], AfterValidator(_headers)] = Field(default_factory=dict)
    """Sent with the request, such as `authorization: "Bearer ${TOKEN}"`; never to another host."""
    min_revision: Count = 1
    """The lowest revision that is believed on a clean `run_dir`; elsewhere the newest so far is remembered."""
    max_bytes: Size = 16 * 2**20
    """The largest archive that is fetched."""
    max_unpacked_bytes: Size = 64 * 2**20
    """How much its files may have together."""
    max_files: Count = 2000
    """How many files it may have."""
    unsafe_http: Flag = False
    """Allow `http` beyond loopback: whoever is on the way can hold updates back, and reads `headers`."""

    @model_validator(mode="after")
    def _holds_together(self) -> "BundleSettings":
        problem = url_problem(self.url, plaintext=self.unsafe_http)
        if problem is not None:
            raise mistake(f"`url` {shown(self.url)} {problem}")
        if len(self.public_keys) > MAX_KEYS:
            raise mistake(f"at most {MAX_KEYS} `public_keys` are needed")
        if self.timeout == 0:
            raise mistake("`timeout` is 0: nothing could be fetched")
        return self
