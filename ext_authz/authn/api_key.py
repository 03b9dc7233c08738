"""API keys: their format, their hashed records, and the authenticator that looks one up.

Law: a key is never stored, only its SHA-256 (a key has 256 random bits, so a slow
hash adds nothing); expiry and withdrawal are looked at on every check.
Non-goal: the file (api_key_file.py) and where keys are found (the chain).
"""

import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BeforeValidator

from ext_authz.authn.places import parse_credential_header
from ext_authz.model import Address, Auth, Identity, Reason, Refusal
from ext_authz.settings import FilePath, Network, Settings

PREFIX: Final = "eak_"
SECRET_BYTES: Final = 32
_BODY: Final = 43
_CHECK: Final = 6
KEY_LENGTH: Final = len(PREFIX) + _BODY + _CHECK
NS: Final = 1_000_000_000

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{_BODY}}})([0-9A-Za-z]{{{_CHECK}}})\Z")


class ApiKeysSettings(Settings):
    """API keys, read from a header of their own or as `authorization: Bearer eak_…`."""

    header: Annotated[str, BeforeValidator(parse_credential_header)] = "x-api-key"
    """Request header that carries a key."""
    file: FilePath
    """YAML file with the hashed keys, kept by `ext-authz apikey`."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One record. `digest` is the key's SHA-256 in hex; times are Unix seconds, None where there is none.

    `cidrs` are the networks that the key is good in; none: in all.
    """

    id: str
    subject: str
    digest: str
    roles: frozenset[str] = frozenset()
    org: str = ""
    created: int | None = None
    expires: int | None = None
    revoked: int | None = None
    note: str = ""
    cidrs: tuple[Network, ...] = ()

    @property
    def identity(self) -> Identity:
        """The principal that a holder of the key is."""
        return Identity(
            id=f"key:{self.subject}",
            name=self.subject,
            auth=Auth.API_KEY,
            roles=self.roles,
            org=self.org,
            issued_at=self.created,
            expires_at=self.expires,
            key_id=self.id,
        )


def encode_key(secret: bytes) -> str:
    """Return the key of 32 random bytes: `eak_`, 43 base62 digits, and 6 of a CRC-32, so that scanners can tell."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a key is made of {SECRET_BYTES} random bytes")
    body = _base62(int.from_bytes(secret, "big"), _BODY)
    return f"{PREFIX}{body}{_checksum(body)}"


def looks_like_a_key(text: str) -> bool:
    """Whether `text` has the form and the checksum of a key; says nothing about its being known."""
    found = _KEY.match(text)
    return found is not None and _checksum(found[1]) == found[2]


def digest_of(key: str) -> str:
    """Return what a record keeps of a key: SHA-256 in hex."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


class ApiKeyAuthenticator:
    """Looks up presented keys among the records of one file; immutable."""

    def __init__(self, settings: ApiKeysSettings, keys: Iterable[ApiKey], used: dict[str, int] | None = None) -> None:
        """Index the records by digest; raises ValueError when two share one.

        `used` is told when (Unix seconds) which key was last used, by id.
        """
        self.used: dict[str, int] = {} if used is None else used
        self.settings = settings
        self.header = settings.header
        records = tuple(keys)
        self._records = {record.digest: (record, record.identity) for record in records}
        self._networks = {record.id: record.cidrs for record in records if record.cidrs}
        if len(self._records) != len(records):
            raise ValueError("two records hold the same key")

    def authenticate(self, key: str, now_ns: int) -> Identity | Refusal:
        """Return the key's principal (without bound roles), or why it is refused."""
        if not looks_like_a_key(key):
            return Refusal(Reason.INVALID_API_KEY, "not in the form of a key")
        digest = digest_of(key)
        found = self._records.get(digest)
        # The index is searched by a hash of the secret, so its timing tells nothing of the secret; the comparison is
        # constant-time all the same.
        if found is None or not hmac.compare_digest(found[0].digest, digest):
            return Refusal(Reason.INVALID_API_KEY, "no such key")
        record, identity = found
        if record.revoked is not None:
            return Refusal(Reason.REVOKED, f"key `{record.id}` was withdrawn in the key file", record.subject)
        if record.expires is not None and now_ns >= record.expires * NS:
            return Refusal(Reason.INVALID_API_KEY, f"key `{record.id}` has expired", record.subject)
        return identity

    def is_restricted(self, key_id: str) -> bool:
        """Whether the key is good in some networks only."""
        return key_id in self._networks

    def elsewhere(self, identity: Identity, address: Address | None) -> Refusal | None:
        """Refuse a restricted key's holder who calls from outside its networks, or from nobody knows where."""
        networks = self._networks.get(identity.key_id, ())
        if not networks or (address is not None and any(address in network for network in networks)):
            return None
        where = "from outside its networks" if address is not None else "from an address that is not known"
        return Refusal(Reason.INVALID_API_KEY, f"key `{identity.key_id}` is used {where}", identity.name)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(binascii.crc32(f"{PREFIX}{body}".encode("ascii")), _CHECK)
