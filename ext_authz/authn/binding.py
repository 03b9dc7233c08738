"""What a token is bound to (RFC 7800 `cnf`): a certificate (RFC 8705 3.1), a key (RFC 9449 6.1), or both.

Law: a method that cannot be checked here binds to nothing, so nobody holds the token; a key's proof is never optional
for a token that is bound to one. Non-goal: looking at certificates (jwt.py) and proofs (dpop.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ext_authz.authn.claims import ClaimError
from ext_authz.authn.jws import b64url_decode

CERTIFICATE: Final = "x5t#S256"
KEY: Final = "jkt"
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Binding:
    """`certificate` is the SHA-256 (hex) of the one that must be presented, None where none must.

    `key` is the RFC 7638 thumbprint of the key to be proven, None where none must. "" in either is what nobody has;
    `why` then says what is wrong.
    """

    certificate: str | None = None
    key: str | None = None
    why: str = ""


UNBOUND: Final = Binding()


def binding(claims: Mapping[str, Any], mode: str, dpop: str) -> Binding:
    """Read `cnf`; `mode` and `dpop` are the settings `binding` and `dpop`. Raises ClaimError."""
    named = claims.get("cnf")
    if "cnf" not in claims or (mode == "off" and dpop == "off" and not (isinstance(named, dict) and KEY in named)):
        named = {}
    elif not isinstance(named, dict):
        raise ClaimError("`cnf` is not an object")
    elif mode != "off" and (not named or not set(named) <= {CERTIFICATE, KEY}):
        # RFC 7800 3.1: one key is confirmed. Another method beside it could not be checked.
        return Binding(certificate="", why=_NO_CERTIFICATE)
    if KEY in named and dpop == "off":
        return Binding(key="", why=f"{_NO_CERTIFICATE}, and `dpop` is off")
    if dpop == "required" and KEY not in named:
        return Binding(key="", why="the token is not bound to a key by `jkt`")
    if mode == "required" and CERTIFICATE not in named:
        return Binding(certificate="", why=_NO_CERTIFICATE)
    if not named:
        return UNBOUND
    certificate = _digest(named, CERTIFICATE).hex() if CERTIFICATE in named and mode != "off" else None
    key = named[KEY] if KEY in named and _digest(named, KEY) else None
    return Binding(certificate, key)


_NO_CERTIFICATE: Final = "the token is not bound to a certificate by `x5t#S256`"


def _digest(named: Mapping[str, Any], method: str) -> bytes:
    value = named[method]
    digest = b64url_decode(value, f"`cnf.{method}`") if isinstance(value, str) else b""
    if len(digest) != _DIGEST_BYTES:
        raise ClaimError(f"`cnf.{method}` is not a SHA-256 digest")
    return digest
