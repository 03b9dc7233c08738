"""Proofs of possession by DPoP (RFC 9449 4.3): a caller signs this very request with the key its token is bound to.

Law: a proof counts once, for one method, host and path, one token, and for a minute; all that can refuse it is looked
at before it is spent. Non-goal: nonces (9), which are accepted and not asked for, and the token itself (jwt.py).
"""

import hashlib
import hmac
import ipaddress
import re
from typing import Any, Final

from ext_authz.authn import claims as read
from ext_authz.authn.cache import Verdicts
from ext_authz.authn.claims import ClaimError
from ext_authz.authn.jwks import Key, identifying, read_key, thumbprint
from ext_authz.authn.jws import ASYMMETRIC, JwsError, b64url_encode, parse_compact, strict_json
from ext_authz.authn.once import Once, Spent
from ext_authz.model import RequestFacts

HEADER: Final = "dpop"
SCHEME: Final = "dpop"
TYPE: Final = "dpop+jwt"
PAST_SECONDS: Final = 60
AHEAD_SECONDS: Final = 30
"""How old a proof may be, and how far a caller's clock may be ahead."""
MAX_PROOF_BYTES: Final = 8192
MAX_ID: Final = 256
CHALLENGE: Final = f'DPoP algs="{" ".join(sorted(ASYMMETRIC))}"'
_REMEMBERED_KEYS: Final = 4096
_SECOND: Final = 1_000_000_000

# `htu`: visible ASCII; userinfo, query and fragment have no place in it, but clients that leave the latter two in
# are many (RFC 9449 4.3 step 9 ignores both).
_HOST: Final = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?"
_URI = re.compile(rf"(https?)://{_HOST}(/[!-\"$->@-~]*)?(?:[?#][!-~]*)?\Z", re.IGNORECASE)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Proofs:
    """Checks proofs; remembers keys that were read before, and in `once` which proofs were seen."""

    def __init__(self, once: Once) -> None:
        self._once = once
        self._keys: Verdicts[str, Key] = Verdicts(_REMEMBERED_KEYS, _REMEMBERED_KEYS)

    def problem(self, facts: RequestFacts, token: str, thumb: str, now_ns: int) -> str:
        """Say why the request does not prove its holding the key `thumb` (RFC 7638) for `token`, or "".

        A proof that holds is spent: asked again, this refuses it.
        """
        values = facts.headers.get(HEADER)
        if values is None:
            return "the proof of the token's key was not presented"
        if len(values) > 1 or "," in values[0]:
            return "more than one DPoP proof"
        if len(values[0]) > MAX_PROOF_BYTES:
            return f"the DPoP proof is larger than {MAX_PROOF_BYTES} bytes"
        now = now_ns // _SECOND
        try:
            identifier, issued = self._read(values[0].strip(" \t"), facts, token, thumb, now)
        except (JwsError, ClaimError) as error:
            return f"DPoP proof: {error}"
        spent = self._once.spend(f"{thumb}.{identifier}".encode(), issued + PAST_SECONDS + 1, now)
        if spent is Spent.NOW:
            return ""
        return "the DPoP proof was used before" if spent is Spent.BEFORE else "no more DPoP proofs can be remembered"

    def _read(self, proof: str, facts: RequestFacts, token: str, thumb: str, now: int) -> tuple[str, int]:
        """Return (`jti`, `iat`) of a proof that holds; raises JwsError and ClaimError."""
        parsed = parse_compact(proof, own_key=True)
        if parsed.typ != TYPE:
            raise JwsError(f"`typ` is not `{TYPE}`")
        if parsed.algorithm not in ASYMMETRIC:
            raise JwsError("`alg` is not one of a public key")
        jwk = parsed.header.get("jwk")
        if not isinstance(jwk, dict):
            raise JwsError("the header has no `jwk`")
        if not hmac.compare_digest(thumbprint(identifying(jwk)), thumb):
            raise JwsError("signed with another key than the token is bound to")
        payload = strict_json(parsed.payload, "the payload")
        issued = read.date(payload, "iat")
        if issued is None or not now - PAST_SECONDS <= issued <= now + AHEAD_SECONDS:
            raise ClaimError("`iat` is missing" if issued is None else "`iat` is not of this minute")
        if payload.get("htm") != facts.method:
            raise ClaimError("`htm` is another method")
        if not _same(payload.get("htu"), facts):
            raise ClaimError("`htu` is another URI")
        if payload.get("ath") != b64url_encode(hashlib.sha256(token.encode("utf-8", "replace")).digest()):
            raise ClaimError("`ath` is another token's")
        identifier = payload.get("jti")
        if not isinstance(identifier, str) or not 0 < len(identifier) <= MAX_ID or not identifier.isprintable():
            raise ClaimError("`jti` is missing or no short text")
        if not self._key(jwk, thumb).verify(parsed.algorithm, parsed.signing_input, parsed.signature):
            raise JwsError("the signature does not verify")
        return identifier, issued

    def _key(self, jwk: dict[str, Any], thumb: str) -> Key:
        # A private key in the header would be remembered as its public half otherwise.
        if len(jwk) > len(identifying(jwk)):
            return read_key(jwk)
        known = self._keys.get(thumb)
        if known is None:
            known = read_key(jwk)
            self._keys.put(thumb, known)
        return known


def _same(uri: object, facts: RequestFacts) -> bool:
    """Whether `htu` names what was asked for, by scheme, host and path (RFC 3986 6.2.2 and 6.2.3).

    `https` is taken whatever Envoy says of the scheme (TLS may end before it), `http` only where it says so too. The
    port is not compared: generated Envoy configurations strip it, so it is not known here.
    """
    found = _URI.match(uri) if isinstance(uri, str) else None
    if found is None:
        return False
    scheme, host = found[1].lower(), found[2].lower()
    if scheme != "https" and facts.scheme.lower() != scheme:
        return False
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return False
    path = facts.path.partition("?")[0]
    return host.removesuffix(".") == facts.host and _normal(found[3] or "/") == _normal(path)


def _normal(path: str) -> str:
    return _ESCAPE.sub(_unescaped, path) if "%" in path else path


def _unescaped(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return chr(code) if code in _UNRESERVED else f"%{found[1].upper()}"
