"""Ed25519 keys that bundles are signed with, and the signatures file.

Law: a signature covers a prefix that nothing else of ours signs and the manifest's
exact bytes; a key is named by the SHA-256 of its 32 bytes.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ext_authz.bundle.manifest import SIGNATURES, quoted, strict_object
from ext_authz.bundle.problems import BundleError, Problem

MAX_SIGNATURES_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 16
_PREFIX: Final = b"ext-authz bundle manifest 1\n"
_SIGNATURE_BYTES: Final = 64
_WANTED: Final = "an Ed25519 key in PEM is wanted"


class KeyFileError(ValueError):
    """The file holds no key for bundles; the message quotes nothing of it."""


def key_id(public: Ed25519PublicKey) -> str:
    """Return the name of a key: the SHA-256 of its raw 32 bytes in hexadecimal."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()


def load_public(data: bytes) -> Ed25519PublicKey:
    """Read a public key (PEM). Raises KeyFileError, for a private key too: a server has no business with it."""
    if b"PRIVATE KEY" in data:
        raise KeyFileError(f"is a private key, and only who signs bundles should hold it; {_WANTED}")
    try:
        public = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"is not a public key; {_WANTED}") from None
    if not isinstance(public, Ed25519PublicKey):
        raise KeyFileError(f"is a key of another kind; {_WANTED}")
    return public


def load_private(data: bytes) -> Ed25519PrivateKey:
    """Read a private key (PEM, not encrypted). Raises KeyFileError."""
    try:
        private = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"is not an unencrypted private key; {_WANTED}") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"is a key of another kind; {_WANTED}")
    return private


def sign(manifest: bytes, private: Ed25519PrivateKey) -> tuple[str, bytes]:
    """Return the key's name and its signature of the manifest's bytes."""
    return key_id(private.public_key()), private.sign(_PREFIX + manifest)


def write_signatures(signatures: Mapping[str, bytes]) -> bytes:
    """Return the signatures file."""
    rows = [
        {"key": name, "signature": base64.b64encode(value).decode("ascii")}
        for name, value in sorted(signatures.items())
    ]
    return json.dumps({"signatures": rows}, indent=1).encode("ascii") + b"\n"


def read_signatures(data: bytes) -> dict[str, bytes]:
    """Read the signatures file: a signature by each key's name. Raises BundleError."""
    if len(data) > MAX_SIGNATURES_BYTES:
        raise BundleError(Problem.TOO_LARGE, f"`{SIGNATURES}` has more than {MAX_SIGNATURES_BYTES} bytes")
    try:
        plain = strict_object(data, f"`{SIGNATURES}`")
    except BundleError:
        raise _odd() from None
    rows = plain.get("signatures")
    if plain.keys() != {"signatures"} or not isinstance(rows, list) or len(rows) > MAX_SIGNATURES:
        raise _odd()
    found: dict[str, bytes] = {}
    for row in rows:
        if not isinstance(row, dict) or row.keys() != {"key", "signature"}:
            raise _odd()
        name, text = row["key"], row["signature"]
        if not isinstance(name, str) or not isinstance(text, str) or name in found:
            raise _odd()
        try:
            found[name] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise _odd() from None
        if len(found[name]) != _SIGNATURE_BYTES:
            raise _odd()
    return found


def _odd() -> BundleError:
    return BundleError(Problem.BAD_SIGNATURE, f"`{SIGNATURES}` is not a list of at most {MAX_SIGNATURES} signatures")


def by_id(keys: Iterable[Ed25519PublicKey]) -> dict[str, Ed25519PublicKey]:
    """Return keys by their names."""
    return {key_id(each): each for each in keys}


def signers(manifest: bytes, signatures: Mapping[str, bytes], keys: Mapping[str, Ed25519PublicKey]) -> tuple[str, ...]:
    """Return which of `keys` signed the manifest. Raises BundleError where none did."""
    if not signatures:
        raise BundleError(Problem.UNSIGNED, "nobody signed it")
    ours = [name for name in signatures if name in keys]
    if not ours:
        names = ", ".join(quoted(name[:16]) for name in sorted(signatures))
        raise BundleError(Problem.UNTRUSTED_KEY, f"it is signed by {names}, and none of these is a configured key")
    good = []
    for name in ours:
        try:
            keys[name].verify(signatures[name], _PREFIX + manifest)
            good.append(name)
        except InvalidSignature:
            continue
    if not good:
        raise BundleError(Problem.BAD_SIGNATURE, "the signature does not fit the manifest")
    return tuple(sorted(good))
