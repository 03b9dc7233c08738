"""Claims that were believed, to an Identity: names with their issuer's prefix, roles, groups, factors.

Law: one reading for every kind of token; a claim of the wrong shape is a bad credential. Non-goal: whether to
believe the claims (jwt.py by signature, asked.py by the issuer's word), dates and audiences in time.
"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from ext_authz.authn import claims as read
from ext_authz.authn import spiffe
from ext_authz.authn.claims import ClaimError
from ext_authz.authn.jwt_settings import ClaimPaths, MfaSettings
from ext_authz.authn.names import bare_problem
from ext_authz.model import Auth, Identity


class Grants(Protocol):
    """What an issuer's entry says of its claims: the settings of every kind of issuer have it."""

    @property
    def issuer(self) -> str:
        """Its name."""

    @property
    def claims(self) -> ClaimPaths:
        """Where a token says what."""

    @property
    def subject_prefix(self) -> str:
        """Put before its names."""

    @property
    def mfa(self) -> MfaSettings:
        """What says that more than one factor was used."""

    @property
    def leeway(self) -> int:
        """How far clocks may differ, in seconds."""

    @property
    def jwt_svid(self) -> bool:
        """Whether its subjects may be SPIFFE IDs."""


class IdentityReader:
    """`prefixes` are all issuers' subject prefixes: none may be forged from behind another one."""

    def __init__(self, prefixes: Collection[str], trust_domains: Collection[str]) -> None:
        self._prefixes = frozenset(prefixes)
        self._trust_domains = frozenset(trust_domains)

    def identity(
        self,
        payload: Mapping[str, Any],
        settings: Grants,
        *,
        issued_at: int | None,
        expires_at: int | None,
        proven_key: str = "",
        own: bool = False,
    ) -> Identity:
        """Return the principal; `own` names may be another issuer's. Raises ClaimError."""
        identifier, name = self._subject(payload, settings, own=own)
        paths = settings.claims
        groups = read.texts(payload, paths.groups) if paths.groups else frozenset[str]()
        return Identity(
            id=identifier,
            name=name,
            auth=Auth.JWT,
            issuer=settings.issuer,
            roles=read.texts(payload, paths.roles) if paths.roles else frozenset(),
            groups=frozenset(self._prefixed(group, settings, "groups", own=own) for group in groups),
            org=read.text(payload, paths.org) if paths.org else "",
            scopes=read.texts(payload, paths.scopes, split=True) if paths.scopes else frozenset(),
            claims=payload,
            mfa=_mfa(payload, settings.mfa),
            issued_at=issued_at,
            expires_at=expires_at,
            token_id=read.text(payload, "jti") if "jti" in payload else "",
            proven_key=proven_key,
        )

    def _subject(self, payload: Mapping[str, Any], settings: Grants, *, own: bool) -> tuple[str, str]:
        subject = payload.get("sub")
        if not isinstance(subject, str):
            raise ClaimError("`sub` is missing" if subject is None else "`sub` is not text")
        if settings.jwt_svid and subject.startswith(spiffe.SCHEME):
            wrong = spiffe.problem(subject, self._trust_domains)
            if wrong:
                raise ClaimError(f"`sub` {wrong}")
            return subject, subject
        wrong = bare_problem(subject)
        if wrong:
            raise ClaimError(f"`sub` {wrong}")
        name = self._prefixed(subject, settings, "sub", own=own)
        return f"sub:{name}", name

    def _prefixed(self, name: str, settings: Grants, what: str, *, own: bool) -> str:
        """Put the issuer's prefix before a name; one that would read as another issuer's is refused."""
        prefix = settings.subject_prefix
        full = prefix + name
        if own:
            return full
        if prefix and what == "sub" and bare_problem(full):
            raise ClaimError(f"`{what}` with its prefix {bare_problem(full)}")
        if any(len(other) > len(prefix) and full.startswith(other) for other in self._prefixes):
            raise ClaimError(f"`{what}` reads as another issuer's")
        return full


def audience(payload: Mapping[str, Any], accepted: Collection[str]) -> None:
    """Raise ClaimError unless `aud` names one of the accepted."""
    named = payload.get("aud")
    if named is None:
        raise ClaimError("`aud` is missing")
    if isinstance(named, str):
        named = [named]
    if not isinstance(named, list) or not all(isinstance(item, str) for item in named):
        raise ClaimError("`aud` is neither text nor a list of texts")
    if not set(named) & set(accepted):
        raise ClaimError("`aud` names another audience")


def _mfa(payload: Mapping[str, Any], settings: MfaSettings) -> bool:
    methods = read.texts(payload, "amr") if "amr" in payload else frozenset()
    context = payload.get("acr")
    said = not methods.isdisjoint(settings.amr) or (isinstance(context, str) and context in settings.acr)
    return said and (settings.max_age is None or "auth_time" in payload)


def mfa_until(payload: Mapping[str, Any], settings: Grants, issued_at: int | None) -> int | None:
    """Return until when (Unix seconds) the factors count, None: as long as the token. Raises ClaimError."""
    when = read.date(payload, "auth_time")
    if when is not None and issued_at is not None and when > issued_at + settings.leeway:
        raise ClaimError("`auth_time` is after `iat`")
    age = settings.mfa.max_age
    return None if age is None or when is None else when + age
