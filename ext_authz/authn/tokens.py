"""Tokens we issue: short-lived JWTs with the claims of CONTRACT section 7.

Law: at most an hour, always `typ: at+jwt`, always a `jti`; a subject that could
not be authenticated here is not minted. Non-goal: verifying (jwt.py), files.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ext_authz.authn.jwks import KeySet
from ext_authz.authn.jws import b64url_encode
from ext_authz.authn.jwt import OWN_TYPE, JwtIssuer
from ext_authz.authn.jwt_settings import ClaimPaths, JwtSettings
from ext_authz.authn.names import bare_problem
from ext_authz.authn.signing import SigningKey
from ext_authz.settings import FilePath, NonEmptyText, Settings

MAX_LIFETIME: Final = 3600
"""Seconds (CONTRACT section 7)."""
_OURS: Final = frozenset(
    {"iss", "aud", "sub", "iat", "nbf", "exp", "jti", "roles", "groups", "org", "permissions", "cnf"}
)


class TokensSettings(Settings):
    """Tokens that `ext-authz token issue` mints; they are accepted here too."""

    issuer: NonEmptyText
    """`iss` of the tokens; no other issuer's, and not the assertions'."""
    audience: NonEmptyText
    """`aud` of the tokens."""
    private_key: FilePath
    """PEM key (Ed25519 or P-256), or a secret of at least 32 bytes for HS256."""
    previous: tuple[FilePath, ...] = ()
    """Former keys (PEM, private or public): still published and accepted, no longer signed with."""


def issue(
    key: SigningKey,
    settings: TokensSettings,
    *,
    subject: str,
    now: int,
    lifetime: int,
    token_id: str,
    roles: Sequence[str] = (),
    groups: Sequence[str] = (),
    org: str = "",
    permissions: Sequence[str] = (),
    amr: Sequence[str] = (),
    fingerprint: str = "",
    claims: Mapping[str, Any] | None = None,
) -> str:
    """Mint a token. `now` is Unix seconds, `lifetime` seconds; `fingerprint` (SHA-256 hex) binds it to a certificate.

    Raises ValueError when the subject is no bare name, the lifetime is not from 1 s to 1 h, or `claims` sets one of
    ours.
    """
    problem = bare_problem(subject)
    if problem:
        raise ValueError(f"subject `{subject}` {problem}")
    if not 0 < lifetime <= MAX_LIFETIME:
        raise ValueError(f"a token lives from 1 to {MAX_LIFETIME} seconds")
    taken = sorted(_OURS & set(claims or ()))
    if taken:
        raise ValueError(f"claim `{taken[0]}` is set otherwise")
    payload: dict[str, Any] = {
        "iss": settings.issuer,
        "aud": settings.audience,
        "sub": subject,
        "iat": now,
        "exp": now + lifetime,
        "jti": token_id,
    }
    listed = {"roles": list(roles), "groups": list(groups), "permissions": list(permissions), "amr": list(amr)}
    payload |= {name: values for name, values in listed.items() if values}
    if org:
        payload["org"] = org
    if fingerprint:
        payload["cnf"] = {"x5t#S256": b64url_encode(bytes.fromhex(fingerprint))}
    return key.sign(OWN_TYPE, payload | dict(claims or {}))


def own_issuer(settings: TokensSettings, keys: KeySet) -> JwtIssuer:
    """Return the issuer entry that accepts our own tokens (`signing.verification_keys` has the keys)."""
    secret = any(isinstance(key.material, bytes) for key in keys.keys)
    entry = JwtSettings(
        issuer=settings.issuer,
        audiences=(settings.audience,),
        algorithms=("HS256",) if secret else ("EdDSA", "ES256"),
        claims=ClaimPaths(roles="roles", groups="groups"),
        hmac_secret_file=settings.private_key if secret else None,
        jwks_file=None if secret else settings.private_key,
    )
    return JwtIssuer(entry, keys, own=True)


def new_token_id() -> str:
    """Return a fresh `jti` of 128 random bits."""
    return secrets.token_urlsafe(16)
