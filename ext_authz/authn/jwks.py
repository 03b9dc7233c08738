"""Key sets: an immutable value read from JWKS text or a shared secret, with a digest.

Law: only public signature keys that are strong enough come in; a private or
symmetric key in a published set is a mistake. Whoever fetches keys later only
swaps one KeySet for another. Non-goal: fetching, files, time.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from ext_authz.authn.jws import (
    HMAC_BYTES,
    JwsError,
    PublicKey,
    algorithms_of,
    b64url_decode,
    b64url_encode,
    strict_json,
    verify,
)
from ext_authz.authn.weak_keys import is_roca

MAX_JWKS_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 128
MAX_TRIED: Final = 4
"""Keys tried for a token that names none."""
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

_COORDINATE_BYTES: Final = {"P-256": 32, "P-384": 48, "P-521": 66}
# RFC 7638 3.2, RFC 8037 2: the members that make the key.
_REQUIRED: Final = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


class KeySetError(ValueError):
    """The text is not a key set to trust; `mistakes` has one message per mistake."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(self.mistakes))


@dataclass(frozen=True, slots=True)
class Key:
    """One verification key. `kid` is None where the set gives none; `thumbprint` is RFC 7638's."""

    kid: str | None
    algorithms: frozenset[str]
    material: PublicKey | bytes
    thumbprint: str

    def verify(self, algorithm: str, data: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's under an algorithm that the key is for."""
        return algorithm in self.algorithms and verify(algorithm, self.material, data, signature)


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys of one issuer. `digest` (SHA-256 hex) changes whenever a key does; `ignored` says what was passed over."""

    keys: tuple[Key, ...]
    digest: str
    ignored: tuple[str, ...] = ()

    def candidates(self, algorithm: str, kid: str | None) -> tuple[Key, ...]:
        """Return the keys that may verify: those of `kid`, or without one at most MAX_TRIED of the fitting kind."""
        fitting = (key for key in self.keys if algorithm in key.algorithms)
        if kid is not None:
            return tuple(key for key in fitting if key.kid == kid)
        return tuple(fitting)[:MAX_TRIED]

    def has_kid(self, kid: str) -> bool:
        """Whether any key is named `kid`."""
        return any(key.kid == kid for key in self.keys)

    @property
    def thumbprints(self) -> frozenset[str]:
        """RFC 7638 thumbprints of all keys."""
        return frozenset(key.thumbprint for key in self.keys)


def from_jwks(text: bytes) -> KeySet:
    """Read a JWK set (RFC 7517 5).

    Keys that are not for signatures or of an unknown kind are passed over, as
    the RFC asks. Raises KeySetError with every mistake: private or symmetric
    keys, weak or malformed ones, a `kid` given twice, no usable key.
    """
    if len(text) > MAX_JWKS_BYTES:
        raise KeySetError([f"larger than {MAX_JWKS_BYTES} bytes"])
    try:
        entries = strict_json(text, "the key set").get("keys")
    except JwsError as error:
        raise KeySetError([str(error)]) from None
    if not isinstance(entries, list):
        raise KeySetError(["the key set has no list `keys`"])
    if len(entries) > MAX_KEYS:
        raise KeySetError([f"the key set holds more than {MAX_KEYS} keys"])
    keys: list[Key] = []
    mistakes: list[str] = []
    ignored: list[str] = []
    for index, entry in enumerate(entries):
        try:
            key = _read(entry)
        except JwsError as error:
            mistakes.append(f"key {index}: {error}")
            continue
        if isinstance(key, str):
            ignored.append(f"key {index}: {key}")
        elif key.kid is not None and any(other.kid == key.kid for other in keys):
            mistakes.append(f"key {index}: its `kid` is another key's too")
        else:
            keys.append(key)
    if not keys and not mistakes:
        mistakes.append("the key set holds no key for signatures")
    if mistakes:
        raise KeySetError(mistakes)
    return _key_set(keys, ignored)


def from_secret(secret: bytes) -> KeySet:
    """Make the key set of a shared HMAC secret; one line break at its end is dropped.

    Raises KeySetError when it is shorter than 32 bytes or is a PEM or JSON file
    mistaken for a secret (the classic way to turn a public key into one).
    """
    stripped = strip_newline(secret)
    if stripped.lstrip().startswith((b"-----BEGIN", b"{")):
        raise KeySetError(["holds a key file, not a shared secret"])
    algorithms = frozenset(name for name, least in HMAC_BYTES.items() if len(stripped) >= least)
    if not algorithms:
        raise KeySetError([f"the secret is shorter than {HMAC_BYTES['HS256']} bytes"])
    return _key_set([Key(None, algorithms, stripped, hashlib.sha256(b"oct\0" + stripped).hexdigest())], [])


def from_public_keys(keys: Iterable[PublicKey]) -> KeySet:
    """Make a key set of public keys, each named by its thumbprint (as tokens.py signs)."""
    made = []
    for public in keys:
        print_ = thumbprint(to_jwk(public))
        made.append(Key(print_, algorithms_of(public), public, print_))
    return _key_set(made, [])


def strip_newline(data: bytes) -> bytes:
    """Drop one line break at the end, as editors and `echo` leave it."""
    return data.removesuffix(b"\n").removesuffix(b"\r")


def _key_set(keys: list[Key], ignored: list[str]) -> KeySet:
    digest = hashlib.sha256()
    # In whatever order: some issuers list the same keys differently each time.
    for line in sorted(orjson.dumps([key.kid, sorted(key.algorithms), key.thumbprint]) for key in keys):
        digest.update(line)
    return KeySet(tuple(keys), digest.hexdigest(), tuple(ignored))


def to_jwk(key: PublicKey) -> dict[str, str]:
    """Return the members of a public JWK that identify the key (RFC 7518 6, RFC 8037 2)."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    elif isinstance(key, rsa.RSAPublicKey):
        jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
    else:
        jwk = ECAlgorithm.to_jwk(key, as_dict=True)
    return {name: jwk[name] for name in _REQUIRED[jwk["kty"]]}


def thumbprint(jwk: Mapping[str, str]) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of the identifying members."""
    return b64url_encode(hashlib.sha256(orjson.dumps(dict(jwk), option=orjson.OPT_SORT_KEYS)).digest())


def identifying(jwk: Mapping[str, Any]) -> dict[str, str]:
    """Return the members of any JWK that identify its key (RFC 7638 3.2); raises JwsError where they are not text."""
    names = _REQUIRED.get(str(jwk.get("kty")), ())
    found = {name: jwk.get(name) for name in names}
    if not found or not all(isinstance(value, str) for value in found.values()):
        raise JwsError("`jwk` is not a public key of a known kind")
    return {name: str(value) for name, value in found.items()}


def read_key(entry: Mapping[str, Any]) -> Key:
    """Return the key of a single public JWK; raises JwsError on anything that a key set would refuse or pass over."""
    key = _read(entry)
    if isinstance(key, str):
        raise JwsError(f"`jwk` is {key}")
    return key


def _read(entry: object) -> Key | str:
    """Return the key, or why it is passed over; raises JwsError on a mistake."""
    if not isinstance(entry, dict):
        raise JwsError("is not an object")
    kty = entry.get("kty")
    if kty == "oct":
        raise JwsError("a symmetric key does not belong into a key set; use `hmac_secret_file`")
    if any(member in entry for member in _PRIVATE):
        raise JwsError("holds a private key")
    if entry.get("use", "sig") != "sig":
        return "not for signatures"
    operations = entry.get("key_ops")
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        return "not for verification"
    if kty == "RSA":
        material: PublicKey = _rsa(entry)
    elif kty == "EC":
        if entry.get("crv") not in _COORDINATE_BYTES:
            return "of an unsupported curve"
        material = _ec(entry)
    elif kty == "OKP":
        if entry.get("crv") != "Ed25519":
            return "of an unsupported curve"
        material = _okp(entry)
    else:
        return "of an unsupported kind"
    algorithms = algorithms_of(material)
    named = entry.get("alg")
    if named is not None:
        if not isinstance(named, str) or named not in algorithms:
            return "for an unsupported algorithm"
        algorithms = frozenset({named})
    kid = entry.get("kid")
    if kid is not None and (not isinstance(kid, str) or not kid):
        raise JwsError("`kid` is not text")
    return Key(kid, algorithms, material, thumbprint(to_jwk(material)))


def _member(entry: Mapping[str, Any], name: str) -> bytes:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise JwsError(f"`{name}` is missing")
    return b64url_decode(value, f"`{name}`")


# PyJWT reads padded and non-canonical base64url, numbers of any size and private members; so each member is looked at
# first, and no other is handed over.


def _rsa(entry: Mapping[str, Any]) -> rsa.RSAPublicKey:
    n = int.from_bytes(_member(entry, "n"), "big")
    e = int.from_bytes(_member(entry, "e"), "big")
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise JwsError(f"an RSA key has from {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    # A huge exponent makes every verification slow; 3 has a history of forgeries.
    if not 2**16 < e < 2**32 or not e & 1:
        raise JwsError("the RSA exponent is not an odd number from 65537 to 2^32")
    if is_roca(n):
        raise JwsError("the RSA key can be factored (ROCA, CVE-2017-15361)")
    try:
        key = RSAAlgorithm.from_jwk({name: entry[name] for name in _REQUIRED["RSA"]})
    except (ValueError, InvalidKeyError):
        raise JwsError("is not an RSA key") from None
    assert isinstance(key, rsa.RSAPublicKey)  # noqa: S101  no private member was handed over
    return key


def _ec(entry: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    size = _COORDINATE_BYTES[entry["crv"]]
    if len(_member(entry, "x")) != size or len(_member(entry, "y")) != size:
        raise JwsError(f"a coordinate has {size} bytes on this curve")
    try:
        key = ECAlgorithm.from_jwk({name: entry[name] for name in _REQUIRED["EC"]})
    except (ValueError, InvalidKeyError):
        raise JwsError("the point is not on its curve") from None
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101
    return key


def _okp(entry: Mapping[str, Any]) -> ed25519.Ed25519PublicKey:
    _member(entry, "x")
    try:
        key = OKPAlgorithm.from_jwk({name: entry[name] for name in _REQUIRED["OKP"]})
    except (ValueError, InvalidKeyError):
        raise JwsError("is not an Ed25519 key") from None
    assert isinstance(key, ed25519.Ed25519PublicKey)  # noqa: S101
    return key
