"""The settings of issuers that are asked what a token is: `identity.introspection[]` and `identity.token_review`.

Law: every question has a time limit, every answer an end, and as few as `concurrency` are under way at once.
Non-goal: asking (server/asking_issuers.py) and what an answer means (asked.py).
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Final, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator

from ext_authz.authn.jwt_settings import ClaimPaths, Leeway, MfaSettings, Prefix, Url
from ext_authz.settings import (
    Count,
    Duration,
    FilePath,
    NonEmptyText,
    Seconds,
    SecretText,
    Settings,
    Some,
    mistake,
    shown,
)

MAX_REMEMBER: Final = 300
MAX_LIMIT: Final = 10
MAX_CONCURRENCY: Final = 64
_TOKEN_PREFIX = re.compile(r"[A-Za-z0-9._~+/-]{1,64}\Z")


def _remember(seconds: int) -> int:
    if not 1 <= seconds <= MAX_REMEMBER:
        raise mistake(f"is from 1s to {MAX_REMEMBER}s: for so long a withdrawn token still counts")
    return seconds


def _limit(seconds: float) -> float:
    if not 0 < seconds <= MAX_LIMIT:
        raise mistake(f"is above 0 and at most {MAX_LIMIT}s")
    return seconds


def _concurrency(count: int) -> int:
    if not 1 <= count <= MAX_CONCURRENCY:
        raise mistake(f"is from 1 to {MAX_CONCURRENCY}")
    return count


def _token_prefix(value: object) -> str:
    if not isinstance(value, str) or not _TOKEN_PREFIX.match(value):
        raise mistake(f"{shown(value)} is not what a token may begin with")
    return value


class AskedSettings(Settings):
    """What all issuers that are asked have in common."""

    issuer: NonEmptyText
    """The name of the issuer: the `iss` of its tokens where they are JWTs, and of its answers where they say one."""
    audiences: Some[NonEmptyText]
    """An answer must name one of these."""
    token_prefix: Annotated[str, BeforeValidator(_token_prefix)] | None = None
    """What its tokens that are no JWTs begin with; one issuer may go without."""
    subject_prefix: Prefix = ""
    """Put before subjects and groups; with two issuers each needs a different one."""
    remember: Annotated[Seconds, AfterValidator(_remember)] = 30
    """How long an answer counts at most (never beyond the token's `exp`); at most 5m."""
    time_limit: Annotated[Duration, AfterValidator(_limit)] = 2
    """How long one question may take; at most 10s. A check waits 200ms of it."""
    concurrency: Annotated[Count, AfterValidator(_concurrency)] = 8
    """How many questions may be under way at once."""
    leeway: Leeway = 30
    """How far clocks may differ; at most 5m."""
    ca_file: FilePath | None = None
    """PEM bundle that its certificate is verified with, in place of the system's; read at each connection."""

    @property
    def jwt_svid(self) -> bool:
        """Subjects are never SPIFFE IDs here."""
        return False

    @property
    def digest(self) -> bytes:
        """What tells this issuer's answers from those to other questions, secrets aside."""
        plain = self.model_dump(mode="json", exclude={"client_secret"})
        return hashlib.sha256(orjson.dumps([type(self).__name__, plain], option=orjson.OPT_SORT_KEYS)).digest()


class IntrospectionSettings(AskedSettings):
    """An issuer that tells what a token is by OAuth 2.0 Token Introspection (RFC 7662)."""

    url: Url
    """Its introspection endpoint: `https`, or `http` on loopback."""
    client_id: NonEmptyText
    """What this sidecar is called there (`client_secret_basic`, RFC 6749 2.3.1)."""
    client_secret: SecretText
    """The secret that goes with it: `${file:PATH}` or `${NAME}`."""
    claims: ClaimPaths = ClaimPaths()
    """Where an answer says what."""
    binding: Literal["off", "if_present", "required"] = "if_present"
    """Whether a token must be bound to the client certificate (RFC 8705 `cnf.x5t#S256`)."""
    dpop: Literal["off", "if_present", "required"] = "off"
    """Whether `authorization: DPoP` is read (RFC 9449), and whether a token must be bound to a key (`cnf.jkt`)."""
    mfa: MfaSettings = MfaSettings()
    """What says that more than one factor was used."""


class TokenReviewSettings(AskedSettings):
    """A Kubernetes cluster that tells what a service account's token is (TokenReview)."""

    url: Url = "https://kubernetes.default.svc"
    """The API server."""
    token_file: FilePath = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    """Holds the token that this sidecar asks with (`system:auth-delegator`); read at each question."""
    ca_file: FilePath | None = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    """PEM bundle that the API server's certificate is verified with; read at each connection."""

    @property
    def claims(self) -> ClaimPaths:
        """Groups are the cluster's word; nothing else is."""
        return ClaimPaths(groups="groups", org=None, scopes=None)

    @property
    def mfa(self) -> MfaSettings:
        """Nothing says so."""
        return MfaSettings(amr=(), acr=())

    @property
    def binding(self) -> Literal["off"]:
        """Tokens are not bound to certificates."""
        return "off"

    @property
    def dpop(self) -> Literal["off"]:
        """Tokens are not bound to keys."""
        return "off"
