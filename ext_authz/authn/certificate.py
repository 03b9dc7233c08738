"""Client certificates as values: one parsed certificate, its one typed name, what revocations call it.

Law: a certificate has exactly one name, by the rule Envoy follows (first URI SAN,
else first DNS SAN, else subject); a name that could be read two ways is refused.
Non-goal: trust (trust.py) and where certificates come from (mtls.py).
"""

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ext_authz.authn import spiffe
from ext_authz.authn.names import dns_name
from ext_authz.distinguished import MAX_SUBJECT, MAX_WRITTEN, canonical, rendered

MAX_PEM: Final = 64 * 1024
NS: Final = 1_000_000_000
FOREVER: Final = 2**62
KINDS: Final = ("spiffe", "dns", "x509")

_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SERIAL = re.compile(r"(?:0[xX])?((?:[0-9A-Fa-f]{1,2}(?::[0-9A-Fa-f]{2})*)|[0-9A-Fa-f]{1,40})\Z")

UNREADABLE: Final = (
    ValueError,
    TypeError,
    OverflowError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What `cryptography` raises over malformed certificates."""


class CertificateError(ValueError):
    """The certificate cannot be believed; the message is for the audit trail."""


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """A certificate that may be believed in [`from_ns`, `until_ns`) and while its CRLs are fresh.

    `name` is typed, `bare` without its type. `fingerprint` is SHA-256 hex,
    `serial` lower-case hex, `issuer` RFC 4514; "" where only a name is known.
    `expires_at` is the leaf's own end in Unix seconds. `revoked` says which CRL
    lists it.
    """

    name: str
    bare: str
    fingerprint: str = ""
    serial: str = ""
    issuer: str = ""
    expires_at: int | None = None
    from_ns: int = 0
    until_ns: int = FOREVER
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """What a parsed certificate calls itself."""

    uris: tuple[str, ...]
    dns: tuple[str, ...]
    subject: str


def parse_pem(encoded: str) -> x509.Certificate:
    """Parse the URL-encoded PEM of exactly one certificate, as Envoy sends it; raises CertificateError."""
    if len(encoded) > MAX_PEM:
        raise CertificateError(f"the certificate is larger than {MAX_PEM} bytes")
    if _PERCENT.search(encoded):
        raise CertificateError("the certificate is not URL-encoded PEM")
    try:
        found = x509.load_pem_x509_certificates(unquote_to_bytes(encoded))
        # Unused bits of the signature's bit string would be a second spelling, with a fingerprint of its own.
        exact = all(each.public_bytes(Encoding.DER).endswith(b"\0" + each.signature) for each in found)
    except UNREADABLE:
        raise CertificateError("the certificate is not PEM") from None
    if len(found) != 1:
        raise CertificateError("more than one certificate where one is expected")
    if not exact:
        raise CertificateError("the certificate's signature is not canonical DER")
    return found[0]


def names_of(certificate: x509.Certificate) -> Names:
    """Return the names in a certificate; raises CertificateError when its extensions cannot be read."""
    try:
        subject = rendered(certificate.subject)
        extensions = certificate.extensions
    except UNREADABLE:
        raise CertificateError("the certificate's extensions cannot be read") from None
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is not None and constraints.ca:
        raise CertificateError("a CA certificate is nobody's client certificate")
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Names((), (), subject)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return Names(tuple(uris), tuple(names.get_values_for_type(x509.DNSName)), subject)


def typed_name(names: Names, trust_domains: Container[str], kinds: Container[str]) -> tuple[str, str]:
    """Return the (typed, bare) name; raises CertificateError.

    A URI SAN must be the only one and the SPIFFE ID of a trust domain of ours
    (X509-SVID 2: exactly one URI SAN).
    """
    if names.uris:
        if len(names.uris) > 1:
            raise CertificateError("more than one URI SAN")
        return _spiffe_name(names.uris[0], trust_domains, kinds)
    if names.dns:
        return _dns_name(names.dns[0], kinds)
    if not names.subject:
        raise CertificateError("the certificate names nobody")
    return _x509_name(names.subject, kinds)


def name_of_principal(principal: str, trust_domains: Container[str], kinds: Container[str]) -> tuple[str, str]:
    """Return the (typed, bare) name of `source.principal`, which does not say its kind; raises CertificateError."""
    if "://" in principal:
        return _spiffe_name(principal, trust_domains, kinds)
    if "=" in principal:
        return _x509_name(canonical_dn(principal), kinds)
    return _dns_name(principal, kinds)


def _spiffe_name(uri: str, trust_domains: Container[str], kinds: Container[str]) -> tuple[str, str]:
    wrong = spiffe.problem(uri, trust_domains)
    if wrong:
        raise CertificateError(f"the URI SAN {wrong}")
    _permit("spiffe", kinds)
    return uri, uri


def _dns_name(text: str, kinds: Container[str]) -> tuple[str, str]:
    host = dns_name(text)
    if host is None:
        raise CertificateError("the DNS SAN is not a host's name")
    _permit("dns", kinds)
    return f"dns:{host}", host


def _x509_name(subject: str, kinds: Container[str]) -> tuple[str, str]:
    if len(subject) > MAX_SUBJECT or not subject.isprintable():
        raise CertificateError("the subject is too long or holds a control character")
    _permit("x509", kinds)
    return f"x509:{subject}", subject


def _permit(kind: str, kinds: Container[str]) -> None:
    if kind not in kinds:
        raise CertificateError(f"the certificate's name is of kind {kind}, which `identity.mtls.names` does not list")


def canonical_dn(text: str) -> str:
    """Return a distinguished name in the one spelling used here (RFC 4514); raises CertificateError."""
    if len(text) > MAX_WRITTEN:
        raise CertificateError("the subject is too long")
    try:
        return canonical(text)
    except ValueError:
        raise CertificateError("the subject is not a distinguished name") from None


def canonical_serial(text: str) -> str:
    """Return a serial number as compared here: lower-case hex without colons, `0x` or leading zeros.

    Raises CertificateError where `text` is no hexadecimal number (as `openssl x509 -serial` prints it).
    """
    found = _SERIAL.match(text)
    if found is None:
        raise CertificateError("a serial number is hexadecimal, such as `0a:1b:2c` or `0A1B2C`")
    return f"{int(found[1].replace(':', ''), 16):x}"


def describe(certificate: x509.Certificate, name: str, bare: str) -> Certificate:
    """Return the value of a parsed certificate under its name, valid between its own dates; raises CertificateError."""
    try:
        ends = int(certificate.not_valid_after_utc.timestamp())
        return Certificate(
            name=name,
            bare=bare,
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            serial=f"{certificate.serial_number:x}",
            issuer=rendered(certificate.issuer),
            expires_at=ends,
            from_ns=int(certificate.not_valid_before_utc.timestamp()) * NS,
            until_ns=(ends + 1) * NS,
        )
    except UNREADABLE:
        raise CertificateError("the certificate's issuer or dates cannot be read") from None
