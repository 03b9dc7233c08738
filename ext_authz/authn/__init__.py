"""Who is calling: the chain of authenticators (CONTRACT section 2, "Who is calling").

Law: what is presented and bad is a refusal, never ignored in favour of another
credential; a certificate beneath a token or key is the workload and adds no role.
Non-goal: reading files and settings together (config and wiring do).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from ext_authz.authn.api_key import PREFIX, ApiKeyAuthenticator
from ext_authz.authn.asked import AskedTokens
from ext_authz.authn.cache import Verdicts
from ext_authz.authn.certificate import Certificate
from ext_authz.authn.dpop import CHALLENGE, HEADER, SCHEME, Proofs
from ext_authz.authn.jwt import JwtAuthenticator, VerifiedToken
from ext_authz.authn.mtls import MtlsAuthenticator, Presented
from ext_authz.authn.names import ANONYMOUS, claimed
from ext_authz.authn.once import MemoryOnce, Once
from ext_authz.authn.places import AUTHORIZATION, TokenPlace
from ext_authz.authn.roles import RoleBindings
from ext_authz.model import Address, Auth, Identity, Reason, Refusal, RequestFacts
from ext_authz.state import State

__all__ = ["Chain"]

_REMEMBERED: Final = 8192
_REMEMBERED_BYTES: Final = 8 * 1024 * 1024
_SMALL: Final = 512
_SECOND: Final = 1_000_000_000
_NO_CERTIFICATE: Final = Presented(None, None)
_NO_HEADERS: Final[frozenset[str]] = frozenset()

# What it is, the text, where of its own a token stands, and whether it came as `DPoP`.
Found = tuple[Literal["jwt", "key"], str, TokenPlace | None, bool]


class Chain:
    """Turns the credentials of a request into one Identity, or says why not; immutable but for its memory.

    `header_names` are the request headers that are read, `credential_headers`
    those of them stripped before the upstream, `bearer_headers` those of them
    that `forward_credentials` may pass on for a JWT principal; `cookies` and
    `parameters` (of the query) hold tokens too.
    """

    def __init__(
        self,
        mtls: MtlsAuthenticator | None,
        jwt: JwtAuthenticator | None,
        api_keys: ApiKeyAuthenticator | None,
        bindings: RoleBindings,
        anonymous: bool,  # noqa: FBT001  one of five parts, in the order of the configuration
        *,
        address_of: Callable[[RequestFacts], Address | None] = lambda _: None,
        once: Once | None = None,
        asked: AskedTokens | None = None,
    ) -> None:
        """`address_of` returns the caller's address, None where it cannot be known; a key may be bound to networks.

        `once` remembers proofs that were seen (by default for as long as this chain lives); `asked` judges tokens that
        only their issuers can.
        """
        self.mtls = mtls
        self.jwt = jwt
        self.api_keys = api_keys
        self.bindings = bindings
        self.anonymous = anonymous
        self._address_of = address_of
        self.asked = asked
        issuers = () if jwt is None else jwt.issuers.values()
        others = () if asked is None else asked.issuers.values()
        # Which issuers' tokens stand in which place; None is `authorization: Bearer`.
        self._places = {
            **{name.settings.issuer: name.settings.token_from for name in issuers},
            **dict.fromkeys(each.issuer for each in others),
        }
        self._own_places = tuple({place: None for place in self._places.values() if place is not None})
        self._reads_bearer = None in self._places.values()
        self.cookies = frozenset(place.cookie for place in self._own_places if place.cookie is not None)
        self.parameters = frozenset(place.query for place in self._own_places if place.query is not None)
        own_headers = (place.header_name for place in self._own_places)
        self.bearer_headers = frozenset(name for name in own_headers if name is not None)
        if self._reads_bearer:
            self.bearer_headers |= {AUTHORIZATION}
        self._once: Once = once or MemoryOnce()
        self._proofs: Proofs | None = None
        if any(each.dpop != "off" for each in (*(name.settings for name in issuers), *others)):
            self._proofs = Proofs(self._once)
        if self._proofs is not None:
            self.bearer_headers |= {HEADER}
        self.credential_headers = self.bearer_headers
        if api_keys is not None:
            self.credential_headers |= {AUTHORIZATION, api_keys.header}
        self.header_names = self.credential_headers | (mtls.header_names if mtls is not None else _NO_HEADERS)
        self._reads_authorization = self._reads_bearer or api_keys is not None
        # Identities with their bound roles and workload; what they are made of never changes.
        self._memory: Verdicts[tuple[VerifiedToken | str, Presented], Identity] = Verdicts(
            _REMEMBERED, _REMEMBERED_BYTES
        )

    def with_tokens(self, jwt: JwtAuthenticator) -> "Chain":
        """Return this chain with other keys for the same issuers; identities stay remembered by verified token."""
        made = Chain(
            self.mtls,
            jwt,
            self.api_keys,
            self.bindings,
            self.anonymous,
            address_of=self._address_of,
            once=self._once,
            asked=self.asked,
        )
        made._memory, made._proofs = self._memory, self._proofs
        return made

    def authenticate(self, facts: RequestFacts, state: State, now_ns: int) -> Identity | Refusal:
        """Return the verified caller; `now_ns` is this machine's clock in Unix nanoseconds."""
        found = self._find(facts)
        if self._own_places and not isinstance(found, Refusal):
            found = self._find_elsewhere(facts, found)
        if isinstance(found, Refusal):
            return found
        presented = self.mtls.authenticate(facts, now_ns) if self.mtls is not None else _NO_CERTIFICATE
        if isinstance(presented, Refusal):
            return presented
        identity = self._principal(found, presented, now_ns)
        if isinstance(identity, Refusal):
            return identity
        if self._own_places and found is not None and identity.auth is Auth.JWT:
            misplaced = self._misplaced(found, identity)
            if misplaced is not None:
                return misplaced
        if self.api_keys is not None and self.api_keys.is_restricted(identity.key_id):
            elsewhere = self.api_keys.elsewhere(identity, self._address_of(facts))
            if elsewhere is not None:
                return elsewhere
        revoked = _revocation(identity, presented, state)
        if revoked is not None:
            return revoked
        if identity.key_id and self.api_keys is not None:
            self.api_keys.used[identity.key_id] = now_ns // _SECOND
        if self._proofs is not None and found is not None and identity.auth is Auth.JWT:
            return self._proven(self._proofs, facts, found, identity, now_ns)
        return identity

    def _proven(
        self, proofs: Proofs, facts: RequestFacts, found: Found, identity: Identity, now_ns: int
    ) -> Identity | Refusal:
        """Return the identity whose token's key the request proves to hold. Last of all: what holds is spent."""
        key, text, by_scheme = identity.proven_key, found[1], found[3]
        if not key and not by_scheme:
            return identity
        error = "invalid_token"
        if not key:
            detail = "the token came as `DPoP` and is bound to no key"
        elif not by_scheme:
            detail = "the token is bound to a key and came without the `DPoP` scheme"
        else:
            error = "invalid_dpop_proof"
            detail = proofs.problem(facts, text, key, now_ns)
        challenge = f'{CHALLENGE}, error="{error}"'
        who = claimed(identity.name)
        return Refusal(Reason.TOKEN_NOT_BOUND, detail, who, challenge=challenge) if detail else identity

    def authenticate_token(self, token: str, state: State, now_ns: int) -> Identity | Refusal:
        """Verify a bare JWT as a caller's is, but without a connection (`approve --as`)."""
        if self.jwt is None and self.asked is None:
            return Refusal(Reason.INVALID_TOKEN, "no issuer of tokens is configured")
        identity = self._principal(("jwt", token, None, False), _NO_CERTIFICATE, now_ns)
        if isinstance(identity, Refusal):
            return identity
        if identity.proven_key:
            detail = "the token is bound to a key, which cannot be proven here"
            return Refusal(Reason.TOKEN_NOT_BOUND, detail, claimed(identity.name))
        revoked = _revocation(identity, _NO_CERTIFICATE, state)
        return identity if revoked is None else revoked

    def _find(self, facts: RequestFacts) -> Found | Refusal | None:
        """Return the one token or key among the headers."""
        if not self._reads_authorization:
            return None
        headers = facts.headers
        values = headers.get(AUTHORIZATION)
        bearer = self._bearer(values) if values is not None else None
        if self.api_keys is None or isinstance(bearer, Refusal):
            return bearer
        keys = headers.get(self.api_keys.header)
        if keys is None:
            return bearer
        if len(keys) > 1 or "," in keys[0]:
            return Refusal(Reason.AMBIGUOUS_CREDENTIALS, "more than one API key in its header")
        if bearer is not None:
            both = "an API key beside a token" if bearer[0] == "jwt" else "an API key in two places"
            return Refusal(Reason.AMBIGUOUS_CREDENTIALS, both)
        return "key", keys[0], None, False

    def _find_elsewhere(self, facts: RequestFacts, found: Found | None) -> Found | Refusal | None:
        """Return the one token or key, one in a place of its own included."""
        for place in self._own_places:
            token = place.read(facts)
            if isinstance(token, Refusal):
                return token
            if token is not None and found is not None:
                both = "an API key beside a token" if found[0] == "key" else "a token in two places"
                return Refusal(Reason.AMBIGUOUS_CREDENTIALS, both)
            if token is not None:
                found = "jwt", token, place, False
        return found

    def _misplaced(self, found: Found, identity: Identity) -> Refusal | None:
        """Refuse a good token that stands where another issuer's are read: whoever could put it there is not known."""
        if self._places[identity.issuer] == found[2]:
            return None
        return Refusal(Reason.INVALID_TOKEN, "tokens of its issuer are read from another place", claimed(identity.name))

    def _bearer(self, values: tuple[str, ...]) -> Found | Refusal | None:
        if len(values) != 1 or "," in values[0]:
            if not self._reads_bearer and not any(PREFIX in value for value in values):
                return None
            return Refusal(Reason.AMBIGUOUS_CREDENTIALS, "more than one value in `authorization`")
        scheme, _, token = values[0].partition(" ")
        bearer = scheme.lower() == "bearer"
        if bearer and self.api_keys is not None and token.lstrip(" ").startswith(PREFIX):
            return "key", token.lstrip(" "), None, False
        if not self._reads_bearer:
            return None
        proves = self._proofs is not None and scheme.lower() == SCHEME
        if not bearer and not proves:
            return Refusal(Reason.INVALID_TOKEN, "`authorization` is of another scheme than Bearer")
        return "jwt", token.lstrip(" "), None, proves

    def _principal(self, found: Found | None, presented: Presented, now_ns: int) -> Identity | Refusal:
        """Return the principal with its roles and, beneath a token or key, its workload."""
        if found is None:
            return self._by_connection(presented)
        kind, text = found[0], found[1]
        caller = presented.caller
        if kind == "jwt":
            verified = self._token(text, caller.fingerprint if caller is not None else "", now_ns)
            if isinstance(verified, Refusal):
                return verified
            known = self._memory.get((verified, presented))
            return known if known is not None else self._complete(verified, verified.identity, presented)
        assert self.api_keys is not None  # noqa: S101
        identity = self.api_keys.authenticate(text, now_ns)
        if isinstance(identity, Refusal):
            return identity
        known = self._memory.get((identity.key_id, presented))
        return known if known is not None else self._complete(identity.key_id, identity, presented)

    def _token(self, text: str, fingerprint: str, now_ns: int) -> VerifiedToken | Refusal:
        if self.asked is not None:
            issuer = self.asked.issuer_of(text)
            if issuer is not None:
                return self.asked.authenticate(text, issuer, fingerprint, now_ns)
        if self.jwt is None:
            return Refusal(Reason.INVALID_TOKEN, "the token is of no configured issuer")
        return self.jwt.authenticate(text, fingerprint, now_ns)

    def _by_connection(self, presented: Presented) -> Identity | Refusal:
        caller = presented.caller
        if caller is not None:
            known = self._memory.get(("", presented))
            identity = Identity(caller.name, caller.bare, Auth.MTLS, expires_at=caller.expires_at)
            return known if known is not None else self._complete("", identity, presented)
        via = presented.via.name if presented.via is not None else ""
        if self.anonymous:
            return Identity(ANONYMOUS, "", Auth.ANONYMOUS, via=via)
        return Refusal(Reason.NO_CREDENTIALS, "nothing was presented")

    def _complete(self, key: VerifiedToken | str, identity: Identity, presented: Presented) -> Identity:
        caller, via = presented.caller, presented.via
        complete = replace(
            identity,
            roles=identity.roles | self.bindings.of(identity),
            workload=caller.name if caller is not None else "",
            cert_fingerprint=caller.fingerprint if caller is not None else "",
            cert_serial=caller.serial if caller is not None else "",
            cert_issuer=caller.issuer if caller is not None else "",
            via=via.name if via is not None else "",
        )
        self._memory.put((key, presented), complete, key.size if isinstance(key, VerifiedToken) else _SMALL)
        return complete


def _revocation(identity: Identity, presented: Presented, state: State) -> Refusal | None:
    """Return the refusal where a revocation hits the principal or any certificate presented with it.

    A token whose issuer does not say when it was issued may be older than whatever a revocation names.
    """
    issued_at = 0 if identity.issued_at is None and identity.auth is Auth.JWT else identity.issued_at
    found = state.revocation_of(
        subject_id=identity.id,
        issuer=identity.issuer,
        issued_at=issued_at,
        token_id=identity.token_id,
        cert_fingerprint=identity.cert_fingerprint,
        cert_serial=identity.cert_serial,
        cert_issuer=identity.cert_issuer,
        key_id=identity.key_id,
    )
    if found is None and identity.workload and identity.workload != identity.id:
        found = _certificate_revocation(presented.caller, state)
    if found is None and presented.via is not None:
        found = _certificate_revocation(presented.via, state)
    return None if found is None else Refusal(Reason.REVOKED, found, claimed(identity.name))


def _certificate_revocation(certificate: Certificate | None, state: State) -> str | None:
    if certificate is None:
        return None
    return state.revocation_of(
        subject_id=certificate.name,
        issuer="",
        issued_at=None,
        token_id="",
        cert_fingerprint=certificate.fingerprint,
        cert_serial=certificate.serial,
        cert_issuer=certificate.issuer,
        key_id="",
    )
