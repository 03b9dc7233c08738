"""Bearer JWTs of configured issuers (RFC 7519, RFC 8725, RFC 9068, RFC 8705 3).

Law: a remembered token skips parsing and signature only; its dates and its
binding are compared on every check. Nothing in a token chooses how it is verified.
Non-goal: revocation, role bindings and where tokens are found (the chain).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ext_authz.authn import claims as read
from ext_authz.authn.binding import UNBOUND, Binding, binding
from ext_authz.authn.cache import Verdicts
from ext_authz.authn.claimed_identity import IdentityReader, audience, mfa_until
from ext_authz.authn.claims import ClaimError
from ext_authz.authn.jwks import KeySet
from ext_authz.authn.jws import MAX_TOKEN_BYTES, Compact, JwsError, parse_compact, strict_json
from ext_authz.authn.jwt_settings import JwtSettings
from ext_authz.authn.names import claimed
from ext_authz.authn.remote import Fetched
from ext_authz.model import Identity, Reason, Refusal

ASSERTION_TYPE: Final = "authz-assertion+jwt"
OWN_TYPE: Final = "at+jwt"
_FOREIGN_TYPES: Final = frozenset({"", "jwt", OWN_TYPE})
_SVID_TYPES: Final = _FOREIGN_TYPES | {"jose"}
NS: Final = 1_000_000_000
FOREVER: Final = 2**62
_REMEMBERED: Final = 8192
_REMEMBERED_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class JwtIssuer:
    """One issuer, compiled: its settings and its keys.

    `own`: the tokens are minted here (tokens.py), so they must say `at+jwt`, and
    their subjects may be another issuer's: whoever holds our key may name anybody.
    `until_ns` is when fetched keys end to count (Unix nanoseconds); None for keys that are configured.
    """

    settings: JwtSettings
    keys: KeySet
    own: bool = False
    until_ns: int | None = None
    types: frozenset[str] = field(init=False)
    algorithms: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Pin the algorithms; an issuer none of whose keys fits any of them is a mistake (ValueError)."""
        object.__setattr__(self, "algorithms", self.settings.accepted)
        foreign = _SVID_TYPES if self.settings.jwt_svid else _FOREIGN_TYPES
        object.__setattr__(self, "types", frozenset({OWN_TYPE}) if self.own else foreign)
        fetched = self.until_ns is not None
        if not fetched and not any(self.algorithms & key.algorithms for key in self.keys.keys):
            raise ValueError(f"no key of issuer `{self.settings.issuer}` is for {', '.join(sorted(self.algorithms))}")


@dataclass(frozen=True, slots=True, eq=False)
class VerifiedToken:
    """A token whose signature, shape and issuer hold; `from_ns` ≤ now < `until_ns` must be compared on each check.

    `early` says what is wrong before `from_ns`; `bound` is what must be proven beside the token (of a key, that is
    the chain's to see to). `size` is the token's in bytes. From `lapses_ns` on it counts as `lapsed`: without the
    factors that were used too long ago.
    """

    identity: Identity
    from_ns: int
    until_ns: int
    early: str
    bound: Binding
    size: int
    lapses_ns: int = FOREVER
    lapsed: "VerifiedToken | None" = None

    def at(self, now_ns: int) -> "VerifiedToken":
        """Return the token as it counts now."""
        return self if self.lapsed is None or now_ns < self.lapses_ns else self.lapsed

    def lapsing(self, until: int | None) -> "VerifiedToken":
        """Return this token with factors that count until `until` (Unix seconds), None: as long as it does."""
        if until is None or not self.identity.mfa:
            return self
        ends = self.identity.expires_at
        fresh = replace(self.identity, expires_at=until if ends is None else min(ends, until))
        lapsed = replace(self, identity=replace(self.identity, mfa=False))
        return replace(self, identity=fresh, lapses_ns=until * NS, lapsed=lapsed)


def unheld(verified: VerifiedToken, fingerprint: str, now_ns: int) -> Refusal | None:
    """Refuse a token outside its dates, or without the certificate that it is bound to; None where neither is so."""
    if not verified.from_ns <= now_ns < verified.until_ns:
        who = claimed(verified.identity.name)
        if now_ns >= verified.until_ns:
            return Refusal(Reason.EXPIRED_TOKEN, "the token has expired", who)
        return Refusal(Reason.INVALID_TOKEN, verified.early, who)
    bound = verified.bound
    if bound is not UNBOUND and (bound.why or (bound.certificate is not None and fingerprint != bound.certificate)):
        another = "the token is bound to another certificate"
        absent = "the certificate that the token is bound to was not presented"
        return Refusal(
            Reason.TOKEN_NOT_BOUND, bound.why or (another if fingerprint else absent), claimed(verified.identity.name)
        )
    return None


class JwtAuthenticator:
    """Verifies tokens of the configured issuers; immutable but for its memory of verified tokens."""

    def __init__(
        self, issuers: Iterable[JwtIssuer], trust_domains: Iterable[str] = (), others: Iterable[str] = ()
    ) -> None:
        """Compile the issuers; `trust_domains` are whose SPIFFE IDs a `jwt_svid` issuer may name.

        `others` are the subject prefixes of issuers that are no part of this.

        Raises ValueError when two entries have the same issuer or `subject_prefix`.
        """
        entries = tuple(issuers)
        foreign = [entry for entry in entries if not entry.own]
        self._issuers = {entry.settings.issuer: entry for entry in entries}
        prefixes = {entry.settings.subject_prefix for entry in foreign}
        if len(self._issuers) != len(entries) or len(prefixes) != len(foreign):
            raise ValueError("two issuers share a name or a `subject_prefix`")
        if sum(entry.settings.jwt_svid for entry in entries) > 1:
            raise ValueError("only one issuer may have `jwt_svid`: a SPIFFE ID has no prefix that tells two apart")
        self._others = frozenset(others)
        self._trust_domains = frozenset(trust_domains)
        self._reader = IdentityReader(prefixes | self._others, self._trust_domains)
        self._until = {name: each.until_ns for name, each in self._issuers.items() if each.until_ns is not None}
        self._memory: Verdicts[bytes, VerifiedToken] = Verdicts(_REMEMBERED, _REMEMBERED_BYTES)

    @property
    def issuers(self) -> Mapping[str, JwtIssuer]:
        """The compiled issuers by name."""
        return self._issuers

    def with_keys(self, issuer: str, keys: KeySet) -> "JwtAuthenticator":
        """Return an authenticator with other keys for `issuer` and nothing remembered; raises KeyError, ValueError."""
        old = self._issuers[issuer]
        return self._with([JwtIssuer(old.settings, keys, own=old.own, until_ns=old.until_ns)])

    def with_fetched(self, fetched: Fetched) -> "JwtAuthenticator":
        """Return an authenticator with these fetched keys; what is remembered goes with the first key that changed."""
        changed = []
        for old in self._issuers.values():
            if old.until_ns is not None:
                keys, until_ns = fetched.of(old.settings)
                if (keys.digest, until_ns) != (old.keys.digest, old.until_ns):
                    changed.append(JwtIssuer(old.settings, keys, until_ns=until_ns))
        return self._with(changed) if changed else self

    def _with(self, changed: Iterable[JwtIssuer]) -> "JwtAuthenticator":
        swapped = {**self._issuers, **{each.settings.issuer: each for each in changed}}
        made = JwtAuthenticator(swapped.values(), self._trust_domains, self._others)
        if all(each.keys.digest == self._issuers[name].keys.digest for name, each in swapped.items()):
            made._memory = self._memory
        return made

    def authenticate(self, token: str, fingerprint: str, now_ns: int) -> VerifiedToken | Refusal:
        """Verify `token`; `fingerprint` is the caller's certificate's (SHA-256 hex, "" without one)."""
        if len(token) > MAX_TOKEN_BYTES:
            return Refusal(Reason.INVALID_TOKEN, f"the token is larger than {MAX_TOKEN_BYTES} bytes")
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        verified = self._memory.get(digest)
        if verified is None:
            found = self._verify(token)
            if isinstance(found, Refusal):
                return found
            verified = found
            self._memory.put(digest, verified, verified.size)
        if self._until and now_ns >= self._until.get(verified.identity.issuer, now_ns + 1):
            who = claimed(verified.identity.name)
            return Refusal(Reason.INVALID_TOKEN, "the keys of its issuer are older than `max_stale`", who)
        problem = unheld(verified, fingerprint, now_ns)
        return verified.at(now_ns) if problem is None else problem

    def _verify(self, token: str) -> VerifiedToken | Refusal:
        subject = ""
        try:
            parsed = parse_compact(token)
            payload = strict_json(parsed.payload, "the payload")
            subject = claimed(payload.get("sub"))
            issuer = self._issuer(parsed, payload)
            self._signature(parsed, issuer)
            return self._read(payload, issuer, len(token))
        except _UnknownKeyError as error:
            return Refusal(Reason.INVALID_TOKEN, str(error), subject, error.sought)
        except (JwsError, ClaimError) as error:
            return Refusal(Reason.INVALID_TOKEN, str(error), subject)

    def _issuer(self, parsed: Compact, payload: Mapping[str, Any]) -> JwtIssuer:
        if parsed.typ == ASSERTION_TYPE:
            raise JwsError("an assertion for upstreams is not a credential here")
        name = payload.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise JwsError("`iss` is missing" if name is None else "`iss` is not a configured issuer")
        if parsed.typ not in issuer.types:
            raise JwsError("`typ` is not one of this issuer's tokens")
        if parsed.algorithm not in issuer.algorithms:
            raise JwsError("`alg` is not one of this issuer's algorithms")
        return issuer

    def _signature(self, parsed: Compact, issuer: JwtIssuer) -> None:
        keys = issuer.keys.candidates(parsed.algorithm, parsed.kid if not _is_secret(issuer) else None)
        if not keys and issuer.until_ns is not None:
            name = issuer.settings.issuer
            if not issuer.keys.keys:
                raise _UnknownKeyError("the keys of its issuer have not been fetched yet", (name, parsed.kid or ""))
            if parsed.kid is not None and not issuer.keys.has_kid(parsed.kid):
                raise _UnknownKeyError("`kid` is not one of this issuer's keys", (name, parsed.kid))
        if not keys:
            known = parsed.kid is None or issuer.keys.has_kid(parsed.kid)
            raise JwsError("no key is for this `alg`" if known else "`kid` is not one of this issuer's keys")
        if not any(key.verify(parsed.algorithm, parsed.signing_input, parsed.signature) for key in keys):
            raise JwsError("the signature does not verify")

    def _read(self, payload: dict[str, Any], issuer: JwtIssuer, size: int) -> VerifiedToken:
        settings = issuer.settings
        audience(payload, settings.audiences)
        issued, expires, not_before = (read.date(payload, name) for name in ("iat", "exp", "nbf"))
        if issued is None or expires is None:
            raise ClaimError("`iat` is missing" if issued is None else "`exp` is missing")
        if expires <= issued:
            raise ClaimError("`exp` is not after `iat`")
        if expires - issued > settings.max_lifetime + settings.leeway:
            raise ClaimError("the token lives longer than `max_lifetime`")
        begins, early = max(
            (issued, "`iat` is in the future"),
            (not_before or 0, "`nbf` is in the future"),
            (expires - settings.max_lifetime, "`exp` is further ahead than `max_lifetime`"),
        )
        bound = binding(payload, settings.binding, settings.dpop)
        identity = self._reader.identity(
            payload, settings, issued_at=issued, expires_at=expires, proven_key=bound.key or "", own=issuer.own
        )
        from_ns, until_ns = (begins - settings.leeway) * NS, (expires + settings.leeway) * NS
        verified = VerifiedToken(identity, from_ns, until_ns, early, bound, size)
        return verified.lapsing(mfa_until(payload, settings, issued))


class _UnknownKeyError(JwsError):
    """No key verifies the token, but one that is not fetched yet may: `sought` is (issuer, `kid`)."""

    def __init__(self, message: str, sought: tuple[str, str]) -> None:
        super().__init__(message)
        self.sought = sought


def _is_secret(issuer: JwtIssuer) -> bool:
    return issuer.settings.hmac_secret_file is not None
