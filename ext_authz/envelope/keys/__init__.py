"""Key providers: what wraps a data key and gives it back, and how a user names one.

Law: a provider opens only what it wrapped itself under the same context; which
key is asked is said by the user, never by the file. The kinds are named here
and not in wiring: a command that only encrypts loads nothing else of the program.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from ext_authz.documents import did_you_mean
from ext_authz.envelope.keys.pkcs11_uri import parse_token_key
from ext_authz.settings import shown

Context = Mapping[str, str]
"""What is bound to a wrapped key: names and values in clear text, seen by the key service and in its logs."""

DATA_KEY_BYTES: Final = 32
SCHEMES: Final = ("file", "vault", "awskms", "pkcs11")

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_VAULT = re.compile(rf"(?:(?P<mount>{_NAME}(?:/{_NAME})*)/)?(?P<key>{_NAME})\Z")
_AWS = re.compile(r"(?:arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:)?(?:key/|alias/)?[A-Za-z0-9/_-]{1,256}\Z")


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as a provider hands it out: who wrapped it, under which key and version, and the ciphertext."""

    provider: str
    key_id: str
    key_version: str
    blob: bytes

    def __str__(self) -> str:
        version = f" version {self.key_version}" if self.key_version else ""
        return f"{self.provider}:{self.key_id}{version}"


class KeyProvider(Protocol):
    """Holds a key-encryption key. Both methods raise KeyUnavailableError, and may take seconds (a network)."""

    def wrap(self, data_key: bytes, context: Context) -> WrappedKey:
        """Return `data_key` (32 bytes) wrapped under the newest version of the key and bound to `context`."""
        ...

    def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """Return the data key (32 bytes); raises AlteredError when ciphertext and context do not belong together."""
        ...


@dataclass(frozen=True, slots=True)
class KeyReference:
    """A key as a user names it: `file:PATH`, `vault:[MOUNT/]KEY`, `awskms:KEY` or a `pkcs11:` URI."""

    scheme: Literal["file", "vault", "awskms", "pkcs11"]
    rest: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.rest}"


def parse_reference(text: str, base: Path | None = None) -> KeyReference:
    """Return what `text` names; a relative path is taken from `base`. Raises ValueError, the text for the user."""
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in SCHEMES:
        near = did_you_mean(scheme, SCHEMES) if colon else ""
        raise ValueError(
            f"{shown(text)} is not a key such as `file:PATH`, `vault:KEY`, `awskms:alias/NAME` or `pkcs11:…`{near}"
        )
    if not rest or not rest.isprintable():
        raise ValueError(f"{shown(text)} names no key after `{scheme}:`")
    match scheme:
        case "file":
            return KeyReference("file", str(base / rest if base is not None else rest))
        case "vault":
            if not _VAULT.match(rest):
                raise ValueError(f"{shown(text)} is not `vault:[MOUNT/]KEY` (letters, digits, `.`, `_`, `-`)")
            return KeyReference("vault", rest)
        case "pkcs11":
            return KeyReference("pkcs11", parse_token_key(rest, base).rest)
        case _:
            if not _AWS.match(rest):
                raise ValueError(f"{shown(text)} is not `awskms:` with a key id, an alias (`alias/NAME`) or an ARN")
            return KeyReference("awskms", rest)


def open_key(reference: KeyReference, environ: Mapping[str, str]) -> KeyProvider:
    """Return the provider that holds the key; no network is used before the first wrap or unwrap.

    Raises KeyUnavailableError: a keyring that cannot be read or that others can read, an optional library that is
    not installed, an address that is not safe.
    """
    match reference.scheme:
        case "file":
            from ext_authz.envelope.keys.file import FileKeys

            return FileKeys.load(Path(reference.rest))
        case "vault":
            from ext_authz.envelope.keys.vault import TransitKey

            mount, _, key = reference.rest.rpartition("/")
            return TransitKey.connect(mount or "transit", key, environ)
        case "awskms":
            from ext_authz.envelope.keys.awskms import KmsKey

            return KmsKey.connect(reference.rest)
        case "pkcs11":
            from ext_authz.envelope.keys.pkcs11_key import Pkcs11Key

            return Pkcs11Key(parse_token_key(reference.rest), environ)


def context_bytes(context: Context) -> bytes:
    """Return the context as associated data; two contexts never give the same bytes.

    For each name in code-point order: length of name, name, length of value, value; lengths are u32 big-endian
    and count UTF-8 bytes.
    """
    parts = []
    for name in sorted(context):
        for text in (name, context[name]):
            raw = text.encode()
            parts.append(len(raw).to_bytes(4, "big") + raw)
    return b"".join(parts)
