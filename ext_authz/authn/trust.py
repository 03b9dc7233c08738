"""The CA bundle and its CRLs: whether a client certificate chains to us, and until when that holds.

Law: chain building is `cryptography`'s (RFC 5280 6 as profiled there); added here
are the client purpose and revocation lists that must be complete and fresh.
Non-goal: names, and remembering (mtls.py).
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from ext_authz.authn.certificate import FOREVER, NS, UNREADABLE, CertificateError
from ext_authz.authn.weak_keys import is_roca

MAX_CHAIN_DEPTH: Final = 4
"""Intermediates between a client's certificate and its root."""
MAX_BUNDLE_BYTES: Final = 8 * 1024 * 1024
MAX_CRL_BYTES: Final = 64 * 1024 * 1024
_CRL_SKEW_NS: Final = 300 * NS
_MIN_RSA_BITS: Final = 2048
_PEM_CRL: Final = b"-----BEGIN X509 CRL-----"


class TrustError(ValueError):
    """The bundle or the CRL cannot be used; `mistakes` has one message per mistake."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(self.mistakes))


class Crl:
    """Revocation lists by issuer, their signatures checked against the bundle; immutable."""

    def __init__(self, data: bytes, authorities: Iterable[x509.Certificate]) -> None:
        """Read PEM (one or several) or DER; raises TrustError."""
        self._revoked: dict[bytes, set[int]] = {}
        self._windows: dict[bytes, tuple[int, int]] = {}
        known = tuple(authorities)
        lists = _load_crls(data)
        mistakes = [
            f"list {index + 1} {wrong}" for index, each in enumerate(lists) if (wrong := _crl_problem(each, known))
        ]
        if mistakes:
            raise TrustError(mistakes)
        for each in lists:
            issuer = each.issuer.public_bytes()
            begins = int(each.last_update_utc.timestamp()) * NS - _CRL_SKEW_NS
            ends = each.next_update_utc
            until = (int(ends.timestamp()) + 1) * NS if ends is not None else 0
            known_from, known_until = self._windows.get(issuer, (0, FOREVER))
            self._windows[issuer] = (max(begins, known_from), min(until, known_until))
            self._revoked.setdefault(issuer, set()).update(entry.serial_number for entry in each)

    def covers(self, issuer: x509.Name) -> bool:
        """Whether there is a list of this issuer."""
        return issuer.public_bytes() in self._windows

    def fresh(self, issuer: x509.Name) -> tuple[int, int]:
        """Return [from, until) in Unix nanoseconds in which the issuer's list may be relied on."""
        return self._windows[issuer.public_bytes()]

    def lists(self, certificate: x509.Certificate) -> bool:
        """Whether the certificate's issuer has revoked it."""
        return certificate.serial_number in self._revoked.get(certificate.issuer.public_bytes(), ())


class TrustStore:
    """Roots and intermediates of `ca_bundle`, and the CRLs; immutable."""

    def __init__(self, bundle: bytes, crl: bytes | None = None) -> None:
        """Read the PEM bundle (and CRL); raises TrustError."""
        authorities = _load_bundle(bundle)
        roots = [each for each in authorities if _is_root(each)]
        if not roots:
            raise TrustError(["holds no self-signed root certificate"])
        self._store = verification.Store(roots)
        self._intermediates = [each for each in authorities if each not in roots]
        self._crl = Crl(crl, authorities) if crl is not None else None

    def verify(self, certificate: x509.Certificate, now_ns: int) -> tuple[int, int, str]:
        """Return ([from, until) of the whole chain and its CRLs in Unix ns, the revocation that hits it or "").

        Raises CertificateError when no chain holds at `now_ns`.
        """
        policy = (
            verification.PolicyBuilder()
            .store(self._store)
            .time(datetime.fromtimestamp(now_ns // NS, UTC))
            .max_chain_depth(MAX_CHAIN_DEPTH)
            .extension_policies(ca_policy=_CA, ee_policy=_LEAF)
        )
        try:
            chain = policy.build_client_verifier().verify(certificate, self._intermediates).chain
        except verification.VerificationError as error:
            reason = str(error).removeprefix("validation failed: ").partition(" (encountered")[0]
            raise CertificateError(f"no chain to the CA bundle: {reason}") from None
        except UNREADABLE:
            raise CertificateError("the certificate cannot be verified") from None
        if not all(_strong(each) for each in chain):
            raise CertificateError(
                "no chain to the CA bundle: a key is weak (RSA below 2048 bits, ROCA, or a small curve)"
            )
        begins = max(int(each.not_valid_before_utc.timestamp()) for each in chain) * NS
        until = (min(int(each.not_valid_after_utc.timestamp()) for each in chain) + 1) * NS
        if self._crl is None:
            return begins, until, ""
        return self._revocation(self._crl, chain, now_ns, begins, until)

    @staticmethod
    def _revocation(
        crl: Crl, chain: list[x509.Certificate], now_ns: int, begins: int, until: int
    ) -> tuple[int, int, str]:
        if not crl.covers(chain[0].issuer):
            raise CertificateError("there is no CRL of the certificate's issuer")
        for each in chain[:-1]:
            if crl.lists(each):
                return begins, until, f"the CRL lists serial {each.serial_number:x}"
            if crl.covers(each.issuer):
                fresh_from, fresh_until = crl.fresh(each.issuer)
                if not fresh_from <= now_ns < fresh_until:
                    raise CertificateError("the CRL is out of date")
                begins, until = max(begins, fresh_from), min(until, fresh_until)
        return begins, until, ""


def _is_root(authority: x509.Certificate) -> bool:
    """Whether the certificate is signed with its own key; one that has its issuer's name only (RFC 5280 6.1) is not."""
    if authority.issuer != authority.subject:
        return False
    try:
        authority.verify_directly_issued_by(authority)
    except InvalidSignature:
        return False
    except UNREADABLE:  # an algorithm that is not verified any more: the operator's word for it
        return True
    return True


def _strong(certificate: x509.Certificate) -> bool:
    try:
        key = certificate.public_key()
    except UNREADABLE:
        return False
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _MIN_RSA_BITS and not is_roca(key.public_numbers().n)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))
    return isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey))


def _ca_constraints(_: object, __: object, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("not a CA")


def _ca_key_usage(_: object, __: object, extension: x509.KeyUsage | None) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("may not sign certificates")


def _leaf_key_usage(_: object, __: object, extension: x509.KeyUsage | None) -> None:
    # X509-SVID 4.3: a leaf signs handshakes, never certificates.
    if extension is not None and (extension.key_cert_sign or not extension.digital_signature):
        raise ValueError("not for signing handshakes")


def _leaf_constraints(_: object, __: object, extension: x509.BasicConstraints | None) -> None:
    if extension is not None and extension.ca:
        raise ValueError("a CA is not a client")


def _client_purpose(_: object, __: object, extension: x509.ExtendedKeyUsage | None) -> None:
    # RFC 5280 4.2.1.12: without the extension any purpose is meant.
    if extension is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in extension:
        raise ValueError("not for client authentication")


_ANY = verification.Criticality.AGNOSTIC
# Not the library's web profile: it asks for key identifiers and key usages that many private CAs leave out.
# What it checks beyond extensions (signatures, key sizes, name constraints, path lengths, unknown critical
# extensions) holds here too.
_CA = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, _ANY, _ca_constraints)
    .may_be_present(x509.KeyUsage, _ANY, _ca_key_usage)
    .may_be_present(x509.ExtendedKeyUsage, _ANY, _client_purpose)
)
_LEAF = (
    verification.ExtensionPolicy.permit_all()
    .may_be_present(x509.BasicConstraints, _ANY, _leaf_constraints)
    .may_be_present(x509.KeyUsage, _ANY, _leaf_key_usage)
    .may_be_present(x509.ExtendedKeyUsage, _ANY, _client_purpose)
    .require_not_present(x509.NameConstraints)  # RFC 5280 4.2.1.10: of CAs only
)


def _load_bundle(data: bytes) -> list[x509.Certificate]:
    if len(data) > MAX_BUNDLE_BYTES:
        raise TrustError([f"larger than {MAX_BUNDLE_BYTES} bytes"])
    try:
        found = x509.load_pem_x509_certificates(data)
    except UNREADABLE:
        raise TrustError(["is not a PEM bundle of certificates"]) from None
    mistakes = []
    for index, each in enumerate(found):
        try:
            constraints = each.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = None
        except UNREADABLE:
            mistakes.append(f"certificate {index + 1} cannot be read")
            continue
        if constraints is None or not constraints.ca:
            mistakes.append(f"certificate {index + 1} is not a CA's")
    if mistakes:
        raise TrustError(mistakes)
    return found


def _load_crls(data: bytes) -> list[x509.CertificateRevocationList]:
    if len(data) > MAX_CRL_BYTES:
        raise TrustError([f"larger than {MAX_CRL_BYTES} bytes"])
    try:
        if _PEM_CRL not in data:
            return [x509.load_der_x509_crl(data)]
        blocks = data.split(_PEM_CRL)[1:]
        return [x509.load_pem_x509_crl(_PEM_CRL + block) for block in blocks]
    except UNREADABLE:
        raise TrustError(["is not a CRL in PEM or DER"]) from None


def _crl_problem(crl: x509.CertificateRevocationList, authorities: Iterable[x509.Certificate]) -> str | None:
    try:
        if crl.next_update_utc is None:
            return "has no nextUpdate"
        # A delta, indirect or partitioned list would leave revocations out (RFC 5280 5.2); its extensions are critical.
        if any(extension.critical for extension in crl.extensions):
            return "has a critical extension, which is not supported"
        if any(extension.critical for entry in crl for extension in entry.extensions):
            return "has an entry with a critical extension, which is not supported"
    except UNREADABLE:
        return "cannot be read"
    for each in authorities:
        key = each.public_key()
        if not isinstance(
            key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
        ):
            continue
        if each.subject == crl.issuer and _may_sign_crls(each) and crl.is_signature_valid(key):
            return None
    return "is not signed by a CA of `ca_bundle`"


def _may_sign_crls(authority: x509.Certificate) -> bool:
    try:
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True
