"""Private keys we sign with, and the public key set that others verify with.

Law: EdDSA and ES256 keys, or a secret of at least 32 bytes for HS256; each named
by its RFC 7638 thumbprint, so that rotation needs no names.
Non-goal: what is signed (tokens.py, assertion.py) and reading files.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ext_authz.authn import jws
from ext_authz.authn.jwks import (
    Key,
    KeySet,
    KeySetError,
    from_public_keys,
    from_secret,
    strip_newline,
    thumbprint,
    to_jwk,
)

_PEM: Final = b"-----BEGIN"
_WANTED: Final = "an Ed25519 or P-256 key in PEM is wanted"


class SigningKeyError(ValueError):
    """The file holds no key to sign with; the message says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key to sign with. `algorithm` is EdDSA, ES256 or HS256; `kid` is "" and `public` None for a secret."""

    algorithm: str
    material: jws.PrivateKey | bytes = field(repr=False)
    kid: str
    public: jws.PublicKey | None

    def sign(self, typ: str, claims: Mapping[str, Any]) -> str:
        """Return the compact JWS of `claims` with `typ` and, for a public-key algorithm, `kid` in its header."""
        header = {"typ": typ, "kid": self.kid} if self.kid else {"typ": typ}
        return jws.compact(header, claims, self.algorithm, self.material)


def load_signing_key(data: bytes, *, symmetric: bool = False) -> SigningKey:
    """Read a PEM private key or, with `symmetric`, else a shared secret; raises SigningKeyError."""
    if data.lstrip().startswith(_PEM):
        try:
            private = serialization.load_pem_private_key(data, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise SigningKeyError(f"is not an unencrypted private key; {_WANTED}") from None
        if isinstance(private, ed25519.Ed25519PrivateKey):
            public: jws.PublicKey = private.public_key()
            return SigningKey("EdDSA", private, thumbprint(to_jwk(public)), public)
        if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
            public = private.public_key()
            return SigningKey("ES256", private, thumbprint(to_jwk(public)), public)
        raise SigningKeyError(f"is a key of another kind; {_WANTED}")
    if not symmetric:
        raise SigningKeyError(f"is not a private key; {_WANTED}")
    try:
        from_secret(data)
    except KeySetError as error:
        raise SigningKeyError(f"is neither a PEM private key nor a secret: {error}") from None
    return SigningKey("HS256", strip_newline(data), "", None)


def load_public_key(data: bytes) -> jws.PublicKey:
    """Read the public half of a PEM key, private or public (a former key of a rotation); raises SigningKeyError."""
    try:
        public = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        found = load_signing_key(data).public
        if found is None:
            raise SigningKeyError(f"is not a key; {_WANTED}") from None
        return found
    if isinstance(public, ed25519.Ed25519PublicKey):
        return public
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return public
    raise SigningKeyError(f"is a key of another kind; {_WANTED}")


def verification_keys(current: SigningKey, previous: Iterable[jws.PublicKey] = ()) -> KeySet:
    """Return the key set that verifies what `current` signs and what former keys signed."""
    if isinstance(current.material, bytes):
        key_set = from_secret(current.material)
        only = tuple(Key(None, frozenset({"HS256"}), key.material, key.thumbprint) for key in key_set.keys)
        return KeySet(only, key_set.digest)
    publics = [current.public] if current.public is not None else []
    unique = {thumbprint(to_jwk(public)): public for public in [*publics, *previous]}
    return from_public_keys(unique.values())


def public_jwks(keys: Iterable[KeySet]) -> bytes:
    """Return the JWK set document (RFC 7517) of public keys; secrets are left out."""
    entries: dict[str, dict[str, str]] = {}
    for key_set in keys:
        for key in key_set.keys:
            if not isinstance(key.material, bytes):
                named = {"kid": key.kid or key.thumbprint, "use": "sig", "alg": min(key.algorithms)}
                entries[key.thumbprint] = {**to_jwk(key.material), **named}
    return orjson.dumps({"keys": list(entries.values())})
