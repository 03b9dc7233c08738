"""The settings of one issuer of tokens: `identity.jwt[]`.

Law: exactly one source of keys, algorithms that fit it, and no default that lets
an issuer grant roles. Non-goal: what holds between issuers (together.py, config).
"""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema, model_validator

from ext_authz.authn.jws import ALGORITHMS, HMAC_BYTES
from ext_authz.authn.names import bare_problem
from ext_authz.authn.places import TokenPlace
from ext_authz.settings import FilePath, Flag, NonEmptyText, Seconds, Settings, Some, mistake, shown, url_problem

MAX_LEEWAY: Final = 300
MIN_STALE: Final = 60
CONFIGURATION: Final = "/.well-known/openid-configuration"


def _url(value: object) -> str:
    if not isinstance(value, str):
        raise mistake(f"{shown(value)} is not a URL")
    problem = url_problem(value)
    if problem:
        raise mistake(f"{shown(value)} {problem}")
    return value


def _algorithm(value: object) -> str:
    if isinstance(value, str) and value.lower() == "none":
        raise mistake("`none` is never accepted: it means that anybody may write the token")
    if not isinstance(value, str) or value not in ALGORITHMS:
        raise mistake(f"{shown(value)} is none of {', '.join(sorted(ALGORITHMS))}")
    return str(value)


def _prefix(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or "://" in value or value != value.lstrip():
        raise mistake(f"{shown(value)} cannot stand before a subject")
    if bare_problem(f"{value}x") is not None:
        raise mistake(f"{shown(value)} makes subjects read as names of another kind")
    return str(value)


def _leeway(seconds: int) -> int:
    if seconds > MAX_LEEWAY:
        raise mistake(f"is at most {MAX_LEEWAY}s")
    return seconds


def _stale(seconds: int) -> int:
    if seconds < MIN_STALE:
        raise mistake(f"is at least {MIN_STALE}s")
    return seconds


def _lifetime(seconds: int) -> int:
    if seconds == 0:
        raise mistake("is 0: every token would be refused")
    return seconds


Algorithm = Annotated[str, BeforeValidator(_algorithm)]
Prefix = Annotated[str, BeforeValidator(_prefix)]
Leeway = Annotated[Seconds, AfterValidator(_leeway)]
"""How far clocks may differ, in seconds."""


Url = Annotated[str, BeforeValidator(_url), WithJsonSchema({"type": "string", "format": "uri"})]


class ClaimPaths(Settings):
    """Where a token says what; dotted paths. `roles` and `groups` are taken only where named here."""

    roles: NonEmptyText | None = None
    """Claim with the subject's roles: a list of texts or one text."""
    groups: NonEmptyText | None = None
    """Claim with the subject's groups."""
    org: NonEmptyText | None = "org"
    """Claim with the subject's organisation, one text."""
    scopes: NonEmptyText | None = "scope"
    """Claim with scopes: words in one text, or a list."""


class MfaSettings(Settings):
    """What in a token says that more than one factor was used (RFC 8176, OpenID Connect Core 2)."""

    amr: tuple[NonEmptyText, ...] = ("mfa",)
    """Values of `amr` of which one is enough."""
    acr: tuple[NonEmptyText, ...] = ()
    """Values of `acr` that are enough."""
    max_age: Seconds | None = None
    """They count for so long after `auth_time`; a token without `auth_time` has them not."""


class JwtSettings(Settings):
    """One issuer whose tokens are accepted."""

    issuer: NonEmptyText
    """The exact `iss` of its tokens."""
    audiences: Some[NonEmptyText]
    """A token must name one of these in `aud`."""
    jwks_file: FilePath | None = None
    """JWK set with the issuer's public keys."""
    hmac_secret_file: FilePath | None = None
    """Shared secret of at least 32 bytes (one line break at its end is dropped)."""
    jwks_uri: Url | None = None
    """Where the JWK set is fetched: `https`, or `http` on loopback."""
    discovery: Flag = False
    """Find the JWK set by OpenID Connect discovery at the issuer's own URL."""
    max_stale: Annotated[Seconds, AfterValidator(_stale)] = 86400
    """Fetched keys older than this (the issuer could not be reached) verify nothing any more; at least 1m."""
    algorithms: tuple[Algorithm, ...] = ()
    """Only these; without it RS256 for public keys, HS256 for a secret."""
    leeway: Leeway = 30
    """How far clocks may differ; at most 5m."""
    max_lifetime: Annotated[Seconds, AfterValidator(_lifetime)] = 3600
    """A token that lives longer, or will expire later than this from now, is refused."""
    claims: ClaimPaths = ClaimPaths()
    """Where a token says what."""
    subject_prefix: Prefix = ""
    """Put before `sub` and groups; with two issuers each needs a different one."""
    binding: Literal["off", "if_present", "required"] = "if_present"
    """Whether a token must be bound to the client certificate (RFC 8705 `cnf.x5t#S256`)."""
    dpop: Literal["off", "if_present", "required"] = "off"
    """Whether `authorization: DPoP` is read (RFC 9449), and whether a token must be bound to a key (`cnf.jkt`)."""
    mfa: MfaSettings = MfaSettings()
    """What says that more than one factor was used."""
    token_from: TokenPlace | None = None
    """Where its tokens stand, in place of `authorization: Bearer`."""
    jwt_svid: Flag = False
    """Allow subjects that are SPIFFE IDs of `identity.mtls.trust_domains`."""

    @model_validator(mode="after")
    def _holds_together(self) -> "JwtSettings":
        sources = (self.jwks_file, self.jwks_uri, self.hmac_secret_file, self.discovery or None)
        if sum(source is not None for source in sources) != 1:
            raise mistake("exactly one of `jwks_file`, `jwks_uri`, `discovery: true` and `hmac_secret_file` is needed")
        if self.discovery and ("?" in self.issuer or url_problem(self.issuer)):
            raise mistake(f"`discovery` asks the issuer, and {shown(self.issuer)} is no `https` URL to ask")
        if "max_stale" in self.model_fields_set and not self.source:
            raise mistake("`max_stale` is for keys that are fetched (`jwks_uri`, `discovery`)")
        if self.dpop != "off" and self.token_from is not None:
            raise mistake("`dpop` is for tokens in `authorization: DPoP`, and `token_from` names another place")
        for algorithm in self.algorithms:
            if (algorithm in HMAC_BYTES) != (self.hmac_secret_file is not None):
                kind = "a public key" if algorithm in HMAC_BYTES else "a shared secret"
                raise mistake(f"`{algorithm}` cannot verify with {kind}")
        return self

    @property
    def source(self) -> str:
        """The URL that leads to the keys, "" where they are not fetched."""
        return self.issuer.rstrip("/") + CONFIGURATION if self.discovery else self.jwks_uri or ""

    @property
    def accepted(self) -> frozenset[str]:
        """The algorithms accepted, the default filled in."""
        return frozenset(self.algorithms or (("RS256",) if self.hmac_secret_file is None else ("HS256",)))
