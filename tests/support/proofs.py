"""DPoP proofs made with PyJWT, another implementation than the one under test."""

import base64
import hashlib
import json
import secrets
import time
from typing import Any

import jwt as pyjwt
from credentials import ec_key, jwk
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

METHOD, URI = "POST", "https://models.internal/v2/models/fraud/infer"


def public(key: Any) -> dict[str, Any]:
    made = jwk(key)
    made.pop("use")
    return made


def thumbprint(key: Any) -> str:
    """RFC 7638 3, written anew."""
    members = {name: value for name, value in public(key).items() if name in ("crv", "e", "kty", "n", "x", "y")}
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    return b64(hashlib.sha256(canonical).digest())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def algorithm(key: Any) -> str:
    kinds = {ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA", rsa.RSAPrivateKey: "PS256"}
    return next(name for kind, name in kinds.items() if isinstance(key, kind))


def proof(text: str, key: Any = None, *, header: Any = None, signer: Any = None, alg: str = "", **claims: Any) -> str:
    """Prove possession of `key` (the P-256 key 7) for the token `text`; a claim or header that is None is left out."""
    key = key or ec_key(7)
    payload = {
        "jti": secrets.token_urlsafe(12),
        "htm": METHOD,
        "htu": URI,
        "iat": int(time.time()),
        "ath": b64(hashlib.sha256(text.encode()).digest()),
        **claims,
    }
    payload = {name: value for name, value in payload.items() if value is not None}
    head = {"typ": "dpop+jwt", "jwk": public(key), **(header or {})}
    return pyjwt.encode(payload, signer or key, alg or algorithm(signer or key), headers=head)


def bound(key: Any = None, **claims: Any) -> str:
    """A good token of the usual issuer, bound to `key`."""
    from served import token as by_the_clock

    return by_the_clock(cnf={"jkt": thumbprint(key or ec_key(7))}, **claims)


def presented(text: str, made: str | None = None, scheme: str = "DPoP", **more: str) -> dict[str, str]:
    return {"authorization": f"{scheme} {text}", "dpop": proof(text) if made is None else made, **more}
