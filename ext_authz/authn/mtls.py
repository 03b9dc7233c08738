"""The client certificate of the connection Envoy terminated, or the one a trusted proxy forwards.

Law: what is remembered covers parsing and signatures; dates and CRL age are
compared on every check. A certificate presented and bad is a refusal, never
"none". Non-goal: our own revocations and what a certificate is worth (the chain).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, model_validator

from ext_authz.authn import xfcc
from ext_authz.authn.cache import Verdicts
from ext_authz.authn.certificate import (
    KINDS,
    Certificate,
    CertificateError,
    Names,
    canonical_dn,
    describe,
    name_of_principal,
    names_of,
    parse_pem,
    typed_name,
)
from ext_authz.authn.names import claimed
from ext_authz.authn.spiffe import is_trust_domain
from ext_authz.authn.trust import TrustStore
from ext_authz.model import Reason, Refusal, RequestFacts
from ext_authz.settings import FilePath, Settings, mistake, shown

_REMEMBERED: Final = 4096
_REMEMBERED_BYTES: Final = 8 * 1024 * 1024


def _trust_domain(value: object) -> str:
    if isinstance(value, str) and is_trust_domain(value):
        return str(value)
    raise mistake(f"{shown(value)} is not a trust domain such as `ml.example`")


class MtlsSettings(Settings):
    """Client certificates. Without this section a certificate is no credential."""

    trust_domains: tuple[Annotated[str, BeforeValidator(_trust_domain)], ...] = ()
    """SPIFFE IDs of these domains are believed, of others refused."""
    ca_bundle: FilePath | None = None
    """PEM with roots and intermediates, to verify `source.certificate` here; without it `source.principal` counts."""
    crl: FilePath | None = None
    """PEM or DER revocation lists of the CAs in `ca_bundle`."""
    names: tuple[Literal["spiffe", "dns", "x509"], ...] | None = None
    """Kinds of names accepted: all, but `spiffe` alone where both `trust_domains` and `ca_bundle` are set."""

    @model_validator(mode="after")
    def _holds_together(self) -> "MtlsSettings":
        if self.crl is not None and self.ca_bundle is None:
            raise mistake("`crl` needs `ca_bundle`")
        if self.names == ():
            raise mistake("`names` is empty: every certificate would be refused")
        if self.names == ("spiffe",) and not self.trust_domains:
            raise mistake("`names: [spiffe]` needs `trust_domains`")
        return self

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds accepted, the default filled in."""
        if self.names is not None:
            return frozenset(self.names)
        return frozenset({"spiffe"} if self.trust_domains and self.ca_bundle else KINDS)


@dataclass(frozen=True, slots=True, eq=False)
class Presented:
    """The caller's certificate, and the trusted proxy's that forwarded it; None where there is none."""

    caller: Certificate | None
    via: Certificate | None


_NOTHING: Final = Presented(None, None)


class MtlsAuthenticator:
    """Reads and verifies the caller's certificate; immutable but for its memory of verified ones."""

    def __init__(
        self, settings: MtlsSettings, store: TrustStore | None = None, trusted_peers: Iterable[str] = ()
    ) -> None:
        """`store` is the opened `ca_bundle`; `trusted_peers` the SPIFFE IDs of `server.trusted_proxies`.

        Raises ValueError when the settings name a bundle and none is given, or the other way round.
        """
        if (settings.ca_bundle is None) != (store is None):
            raise ValueError("`ca_bundle` and the trust store go together")
        self.settings = settings
        self._store = store
        self._domains = frozenset(settings.trust_domains)
        self._kinds = settings.kinds
        self._peers = frozenset(trusted_peers)
        self.header_names: frozenset[str] = frozenset({xfcc.HEADER} if self._peers else ())
        self._direct_memory: Verdicts[tuple[str, str], Presented] = Verdicts(_REMEMBERED, _REMEMBERED_BYTES)
        self._forwarded_memory: Verdicts[tuple[Certificate, bytes], Presented] = Verdicts(
            _REMEMBERED, _REMEMBERED_BYTES
        )

    def authenticate(self, facts: RequestFacts, now_ns: int) -> Presented | Refusal:
        """Return what was presented, both None when nothing was; a Refusal when it is bad."""
        principal, encoded = facts.source_principal, facts.source_certificate
        if not principal and not encoded:
            return _NOTHING
        direct = self._direct(principal, encoded, now_ns)
        if not self._peers or isinstance(direct, Refusal):
            return direct
        peer = direct.caller
        if peer is None or peer.name not in self._peers:
            return direct
        return self._forwarded(peer, facts.headers.get(xfcc.HEADER), now_ns)

    def _direct(self, principal: str, encoded: str, now_ns: int) -> Presented | Refusal:
        key = (principal, encoded)
        known = self._direct_memory.get(key)
        if known is not None and _holds(known.caller, now_ns):
            return known
        try:
            certificate = self._connection(principal, encoded, now_ns)
        except CertificateError as error:
            return Refusal(Reason.INVALID_CERTIFICATE, str(error), claimed(principal))
        if certificate.revoked:
            return Refusal(Reason.REVOKED, certificate.revoked, claimed(certificate.bare))
        presented = Presented(certificate, None)
        self._direct_memory.put(key, presented, len(principal) + len(encoded))
        return presented

    def _forwarded(self, peer: Certificate, values: tuple[str, ...] | None, now_ns: int) -> Presented | Refusal:
        text = ",".join(values) if values is not None else ""
        key = (peer, hashlib.sha256(text.encode("utf-8", "replace")).digest() if values is not None else b"")
        known = self._forwarded_memory.get(key)
        if known is not None and (known.caller is None or _holds(known.caller, now_ns)):
            return known
        evidence = ""
        try:
            element = self._caller_element(peer, xfcc.parse(text)) if values is not None else None
            certificate = None
            if element is not None:
                evidence = (*element.uri, *element.dns, element.subject)[0]
                certificate = self._described(element, now_ns)
            if certificate is not None and certificate.name == peer.name:
                certificate = None
        except (CertificateError, xfcc.XfccError) as error:
            return Refusal(Reason.INVALID_CERTIFICATE, f"{xfcc.HEADER}: {error}", claimed(evidence))
        if certificate is not None and certificate.revoked:
            return Refusal(Reason.REVOKED, f"{xfcc.HEADER}: {certificate.revoked}", claimed(certificate.bare))
        presented = Presented(certificate, peer)
        self._forwarded_memory.put(key, presented, len(text))
        return presented

    def _connection(self, principal: str, encoded: str, now_ns: int) -> Certificate:
        if not principal:
            raise CertificateError("a certificate without a principal")
        if not encoded:
            if self._store is not None:
                raise CertificateError("a principal without its certificate (Envoy's `include_peer_certificate`)")
            name, bare = name_of_principal(principal, self._domains, self._kinds)
            return Certificate(name, bare)
        certificate, names = self._verified(encoded, now_ns)
        if not _agrees(principal, names):
            raise CertificateError("principal and certificate disagree")
        return certificate

    def _verified(self, encoded: str, now_ns: int) -> tuple[Certificate, Names]:
        """Parse, name, date and (under `ca_bundle`) verify a certificate."""
        parsed = parse_pem(encoded)
        names = names_of(parsed)
        name, bare = typed_name(names, self._domains, self._kinds)
        certificate = describe(parsed, name, bare)
        if not _holds(certificate, now_ns):
            raise CertificateError(
                "the certificate has expired" if now_ns >= certificate.until_ns else "the certificate is not valid yet"
            )
        if self._store is None:
            return certificate, names
        from_ns, until_ns, revoked = self._store.verify(parsed, now_ns)
        return replace(certificate, from_ns=from_ns, until_ns=until_ns, revoked=revoked), names

    def _caller_element(self, peer: Certificate, elements: tuple[xfcc.Element, ...]) -> xfcc.Element | None:
        """Return the caller's element; None when the proxy speaks of itself only, so its caller had no certificate."""
        if len(elements) > 1:
            own = elements[1]
            if own.uri != (peer.name,):
                raise CertificateError("the second element is not the direct peer")
            if own.hash and peer.fingerprint and own.hash != peer.fingerprint:
                raise CertificateError("the second element's `Hash` is not the direct peer's")
        first = elements[0]
        if not (first.uri or first.dns or first.subject or first.cert):
            raise CertificateError("the caller's element names nobody")
        # Taking the proxy for the caller would lend its identity to everyone behind it.
        return None if first.uri == (peer.name,) else first

    def _described(self, element: xfcc.Element, now_ns: int) -> Certificate:
        if element.cert:
            certificate, names = self._verified(element.cert, now_ns)
            if element.hash and element.hash != certificate.fingerprint:
                raise CertificateError("`Hash` and `Cert` disagree")
            if (element.uri and element.uri != names.uris) or (element.dns and element.dns != names.dns):
                raise CertificateError("the names and `Cert` disagree")
            if element.subject and canonical_dn(element.subject) != names.subject:
                raise CertificateError("`Subject` and `Cert` disagree")
            return certificate
        if self._store is not None:
            raise CertificateError("the caller's element has no `Cert`, which `ca_bundle` needs")
        named = element.uri or element.dns
        subject = canonical_dn(element.subject) if element.subject and not named else ""
        name, bare = typed_name(Names(element.uri, element.dns, subject), self._domains, self._kinds)
        issuer = canonical_dn(element.issuer) if element.issuer else ""
        return Certificate(name, bare, fingerprint=element.hash, issuer=issuer)


def _holds(certificate: Certificate | None, now_ns: int) -> bool:
    return certificate is not None and certificate.from_ns <= now_ns < certificate.until_ns


def _agrees(principal: str, names: Names) -> bool:
    """Whether Envoy's principal is this certificate's: its first URI SAN, else first DNS SAN, else its subject."""
    if names.uris:
        return principal == names.uris[0]
    if names.dns:
        return principal == names.dns[0]
    return canonical_dn(principal) == names.subject
