"""JWS compact serialisation: strict parsing, and signatures by PyJWT's algorithms.

Law: one spelling per token. Base64url is canonical, JSON has no duplicate keys,
a header may not bring its own key (RFC 8725 3.1, 3.9, 3.10; RFC 7515 10.13).
PyJWT's own decoding takes other spellings, duplicate keys and unbounded depth, so
parsing is ours. Non-goal: claims, issuers and time (jwt.py).
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import Algorithm, get_default_algorithms

MAX_TOKEN_BYTES: Final = 16 * 1024
MAX_DEPTH: Final = 16
MAX_KID: Final = 512

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: dict[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
HMAC_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""HMAC algorithms and the least length of their secrets in bytes (RFC 7518 3.2)."""
ASYMMETRIC: Final = _RSA | frozenset(_CURVES) | {"EdDSA"}
ALGORITHMS: Final = ASYMMETRIC | frozenset(HMAC_BYTES)
# Not `none`, secp256k1 or whatever a later PyJWT adds.
_PRIMITIVES: Final[Mapping[str, Algorithm]] = {
    name: primitive for name, primitive in get_default_algorithms().items() if name in ALGORITHMS
}

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")
# A header that brings or points to its own key, encrypts, compresses, nests or asks for extensions.
_REFUSED_HEADERS = ("jwk", "jku", "x5u", "x5c", "crit", "b64", "enc", "zip", "cty")


class JwsError(ValueError):
    """The text is not a JWS that can be believed; the message is for the audit trail and quotes none of it."""


@dataclass(frozen=True, slots=True)
class Compact:
    """A parsed, unverified compact JWS. `header` has a textual `alg`, and `kid` and `typ` are text where present."""

    header: Mapping[str, Any]
    payload: bytes
    signing_input: bytes
    signature: bytes

    @property
    def algorithm(self) -> str:
        """The header's `alg`."""
        return str(self.header["alg"])

    @property
    def kid(self) -> str | None:
        """The header's `kid`, None when absent."""
        kid = self.header.get("kid")
        return None if kid is None else str(kid)

    @property
    def typ(self) -> str:
        """The header's `typ` in lower case without `application/` (RFC 7515 4.1.9), "" when absent."""
        return str(self.header.get("typ", "")).lower().removeprefix("application/")


def b64url_encode(data: bytes) -> str:
    """Encode without padding (RFC 7515 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str, what: str = "the value") -> bytes:
    """Decode canonical, unpadded base64url; raises JwsError on any other spelling of the same bytes."""
    if not _BASE64URL.match(text):
        raise JwsError(f"{what} is not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise JwsError(f"{what} is not base64url") from None
    if b64url_encode(data) != text:
        raise JwsError(f"{what} is not canonical base64url")
    return data


def strict_json(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object: UTF-8, no duplicate keys, no NaN, no lone surrogates, numbers in 64 bits, bounded depth.

    Raises JwsError.
    """
    try:
        orjson.loads(data)  # the strict grammar; the standard library accepts NaN and lone surrogates
        value = json.loads(data, object_pairs_hook=_unique)
    except _DuplicateKeyError:
        raise JwsError(f"{what} repeats a key") from None
    except (ValueError, RecursionError):
        raise JwsError(f"{what} is not strict JSON") from None
    if not isinstance(value, dict):
        raise JwsError(f"{what} is not a JSON object")
    _bounded(value, what, MAX_DEPTH)
    return value


class _DuplicateKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _DuplicateKeyError
    return made


def _bounded(value: object, what: str, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise JwsError(f"{what} is nested deeper than {MAX_DEPTH}")
        for item in value.values() if isinstance(value, dict) else value:
            _bounded(item, what, depth - 1)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise JwsError(f"{what} holds a number beyond 64 bits")


def parse_compact(token: str, *, own_key: bool = False) -> Compact:
    """Parse `header.payload.signature`; raises JwsError. Nothing is verified yet.

    `own_key` lets the header bring a `jwk`, for those who know beforehand which key it must be.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise JwsError(f"the token is larger than {MAX_TOKEN_BYTES} bytes")
    parts = token.split(".")
    if len(parts) == 5:  # noqa: PLR2004  RFC 7516 3.1
        raise JwsError("the token is encrypted (JWE)")
    if len(parts) != 3 or not all(parts[:2]):  # noqa: PLR2004  RFC 7515 3.1
        raise JwsError("the token does not have three parts")
    header = strict_json(b64url_decode(parts[0], "the header"), "the header")
    for name in _REFUSED_HEADERS:
        if name in header and not (own_key and name == "jwk"):
            raise JwsError(f"the header holds `{name}`")
    if not isinstance(header.get("alg"), str):
        raise JwsError("the header has no `alg`")
    kid, typ = header.get("kid"), header.get("typ", "")
    if "kid" in header and (not isinstance(kid, str) or not kid or len(kid) > MAX_KID):
        raise JwsError("the header's `kid` is not text")
    if not isinstance(typ, str):
        raise JwsError("the header's `typ` is not text")
    return Compact(
        header,
        b64url_decode(parts[1], "the payload"),
        f"{parts[0]}.{parts[1]}".encode("ascii"),
        b64url_decode(parts[2], "the signature"),
    )


def algorithms_of(key: PublicKey) -> frozenset[str]:
    """Return the algorithms that a public key may verify; empty where it is of no supported curve."""
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA
    if isinstance(key, ed25519.Ed25519PublicKey):
        return frozenset({"EdDSA"})
    return frozenset(name for name, curve in _CURVES.items() if isinstance(key.curve, curve))


def verify(algorithm: str, key: PublicKey | bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` over `data` is `key`'s under exactly `algorithm` (RFC 7518 3, RFC 8037 3.1).

    A key of another kind than the algorithm's verifies nothing (RFC 8725 3.1).
    """
    fits = algorithm in (HMAC_BYTES if isinstance(key, bytes) else algorithms_of(key))
    return fits and _PRIMITIVES[algorithm].verify(data, key, signature)


def sign(algorithm: str, key: PrivateKey | bytes, data: bytes) -> bytes:
    """Sign `data` with EdDSA, ES256/384/512 or HMAC; the key must be of the algorithm's kind."""
    return _PRIMITIVES[algorithm].sign(data, key)


def compact(header: Mapping[str, Any], claims: Mapping[str, Any], algorithm: str, key: PrivateKey | bytes) -> str:
    """Serialise and sign; `header` is given `alg` first."""
    head = b64url_encode(orjson.dumps({"alg": algorithm, **header}))
    signing_input = f"{head}.{b64url_encode(orjson.dumps(claims))}"
    return f"{signing_input}.{b64url_encode(sign(algorithm, key, signing_input.encode('ascii')))}"
