"""Chains of authenticators for tests: one issuer, one authority and a few API keys unless a test says otherwise."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import credentials as made

from ext_authz.authn import Chain
from ext_authz.authn.api_key import ApiKey, ApiKeyAuthenticator, ApiKeysSettings
from ext_authz.authn.api_key_file import new_key
from ext_authz.authn.jwks import KeySet, from_jwks, from_secret
from ext_authz.authn.jwt import JwtAuthenticator, JwtIssuer
from ext_authz.authn.jwt_settings import JwtSettings
from ext_authz.authn.mtls import MtlsAuthenticator, MtlsSettings
from ext_authz.authn.roles import RoleBindings, RoleBindingSettings
from ext_authz.authn.trust import TrustStore

NOWHERE = Path("unread")


@cache
def key_set() -> KeySet:
    """The RSA key `rsa-0`, the P-256 key `ec-0` and the Ed25519 key `ed-0`."""
    return from_jwks(
        made.jwks(
            made.jwk(made.rsa_key(), kid="rsa-0"),
            made.jwk(made.ec_key(), kid="ec-0"),
            made.jwk(made.ed_key(), kid="ed-0"),
        )
    )


def jwt_settings(**more: Any) -> JwtSettings:
    values = {"issuer": made.ISSUER, "audiences": [made.AUDIENCE], "jwks_file": "unread", "claims": {"roles": "roles"}}
    return JwtSettings.model_validate({**values, **more})


def issuer(keys: KeySet | None = None, **more: Any) -> JwtIssuer:
    return JwtIssuer(jwt_settings(**more), keys or key_set())


def secret_issuer(**more: Any) -> JwtIssuer:
    settings = {"jwks_file": None, "hmac_secret_file": "unread", **more}
    return JwtIssuer(
        JwtSettings.model_validate(
            {k: v for k, v in {**jwt_settings().model_dump(exclude_unset=True), **settings}.items() if v is not None}
            | {"claims": {"roles": "roles"}, "mfa": {}, "algorithms": settings.get("algorithms", ["HS256"])}
        ),
        from_secret(made.SECRET),
    )


@cache
def api_keys() -> Mapping[str, tuple[str, ApiKey]]:
    """Keys by what they are: `good`, `expired`, `withdrawn`."""
    keys = {}
    for index, (name, lifetime) in enumerate({"good": 3600, "expired": -10, "withdrawn": 3600}.items()):
        key, record = new_key(
            subject="batch-7",
            secret=bytes([index + 1]) * 32,
            key_id=f"ak-{name}",
            now=made.NOW - 60,
            lifetime=lifetime,
            roles=["batch"],
            org="research",
        )
        if name == "withdrawn":
            record = ApiKey(**{**{f: getattr(record, f) for f in record.__slots__}, "revoked": made.NOW - 5})
        keys[name] = (key, record)
    return keys


def key(name: str = "good") -> str:
    return api_keys()[name][0]


def chain(
    *,
    jwt: Sequence[JwtIssuer] | None = (),
    mtls: Mapping[str, Any] | None = None,
    store: TrustStore | None = None,
    peers: Sequence[str] = (),
    keys: bool = True,
    anonymous: bool = False,
    bindings: Mapping[str, Sequence[str]] | None = None,
    records: Sequence[ApiKey] | None = None,
    **more: Any,
) -> Chain:
    """Build a chain; `jwt=()` is the usual issuer, `jwt=None` no JWTs; `mtls=None` no certificates."""
    certificates = None
    if mtls is not None:
        section = {**mtls, **({"ca_bundle": "unread"} if store else {})}
        certificates = MtlsAuthenticator(MtlsSettings.model_validate(section), store, peers)
    tokens = None
    if jwt is not None:
        tokens = JwtAuthenticator(jwt or [issuer()], (mtls or {}).get("trust_domains", ()))
    lookup = None
    if keys:
        settings = ApiKeysSettings(file=NOWHERE)
        lookup = ApiKeyAuthenticator(settings, records or [record for _, record in api_keys().values()])
    bound = [RoleBindingSettings(role=role, members=tuple(names)) for role, names in (bindings or {}).items()]
    return Chain(certificates, tokens, lookup, RoleBindings(bound), anonymous, **more)


SPIFFE: Mapping[str, Any] = {"trust_domains": [made.TRUST_DOMAIN]}


@cache
def verified_store() -> TrustStore:
    return TrustStore(made.root().pem)
