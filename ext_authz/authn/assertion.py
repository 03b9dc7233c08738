"""Assertions for upstreams: a short JWT that says whom this sidecar verified.

Law: an assertion says no more than the identity it was made of and outlives
neither it (but for GRACE) nor `lifetime`; `typ: authz-assertion+jwt` makes it useless as a
credential here. Non-goal: header templates and wiring.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

from ext_authz.authn.cache import Verdicts
from ext_authz.authn.jwks import KeySet
from ext_authz.authn.jwt import ASSERTION_TYPE
from ext_authz.authn.signing import SigningKey
from ext_authz.authn.tokens import new_token_id
from ext_authz.model import Identity
from ext_authz.settings import FilePath, NonEmptyText, Settings, mistake, parse_seconds

NS: Final = 1_000_000_000
GRACE: Final = 5
"""Seconds of life when the identity is in its last ones, or past them within the issuer's leeway."""
MIN_LIFETIME: Final = 10
MAX_LIFETIME: Final = 300
_REMEMBERED: Final = 4096


def _lifetime(value: object) -> int:
    seconds = parse_seconds(value)
    if not MIN_LIFETIME <= seconds <= MAX_LIFETIME:
        raise mistake(f"an assertion lives from {MIN_LIFETIME}s to {MAX_LIFETIME}s")
    return seconds


class AssertionSettings(Settings):
    """A signed statement for the upstream about who called."""

    header: NonEmptyText = "x-authz-assertion"
    """Header that carries it."""
    private_key: FilePath
    """PEM key (Ed25519 or P-256), no other purpose's."""
    previous: tuple[FilePath, ...] = ()
    """Former and coming keys (PEM, private or public): published, not signed with."""
    issuer: NonEmptyText
    """`iss` of the assertions, no token issuer's."""
    audience: NonEmptyText = "${resource.type}/${resource.id}"
    """`aud`, a template."""
    lifetime: Annotated[
        int, BeforeValidator(_lifetime), WithJsonSchema({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"})
    ] = 60
    """How long an assertion holds; from 10s to 300s."""


class AssertionSigner:
    """Signs assertions and hands the same one out until half its life is over."""

    def __init__(self, key: SigningKey, issuer: str, lifetime: int, token_id: Callable[[], str] = new_token_id) -> None:
        """`lifetime` is seconds; `token_id` makes each `jti`. Raises ValueError for a shared secret: others verify."""
        if key.public is None:
            raise ValueError("assertions need a public-key algorithm")
        self.key = key
        self.issuer = issuer
        self._lifetime = lifetime
        self._token_id = token_id
        self._memory: Verdicts[tuple[Any, ...], tuple[str, int]] = Verdicts(_REMEMBERED, _REMEMBERED)

    def sign(self, identity: Identity, audience: str, now_ns: int) -> str:
        """Return an assertion about a verified `identity` for `audience`; `now_ns` is Unix nanoseconds."""
        # All that the assertion says is in the key, so that a role taken away is gone from the next one.
        about = (
            identity.id, identity.auth, identity.issuer, identity.roles, identity.groups, identity.org,
            identity.workload, identity.mfa, identity.expires_at, audience,
        )  # fmt: skip
        known = self._memory.get(about)
        if known is not None and now_ns < known[1]:
            return known[0]
        now = now_ns // NS
        ends = now + self._lifetime
        if identity.expires_at is not None:
            ends = min(ends, max(identity.expires_at, now + GRACE))
        token = self.key.sign(ASSERTION_TYPE, self._claims(identity, audience, now, ends))
        self._memory.put(about, (token, (now + ends) * NS // 2))
        return token

    def _claims(self, identity: Identity, audience: str, now: int, ends: int) -> dict[str, Any]:
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": audience,
            "sub": identity.id,
            "iat": now,
            "exp": ends,
            "jti": self._token_id(),
            "auth": identity.auth.value,
        }
        optional = {
            "roles": sorted(identity.roles),
            "groups": sorted(identity.groups),
            "org": identity.org,
            "workload": identity.workload,
            "mfa": identity.mfa,
        }
        return claims | {name: value for name, value in optional.items() if value}


def conflicts(keys: KeySet, issuer: str, trusted: Collection[str], thumbprints: Iterable[str]) -> list[str]:
    """Say why assertions could be taken for credentials (CONTRACT section 7); each entry is a load error.

    `keys` are those published for assertions, `trusted` the issuers whose tokens are accepted or minted here,
    `thumbprints` their keys'.
    """
    found = []
    if issuer in trusted:
        found.append(f"`{issuer}` issues tokens too; assertions need an issuer of their own")
    if keys.thumbprints & set(thumbprints):
        found.append("the key signs tokens too; assertions need a key of their own")
    return found
