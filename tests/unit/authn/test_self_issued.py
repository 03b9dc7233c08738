"""Certificates whose issuer and subject are one name: roots only where they are signed with their own key."""

import pytest
from credentials import DAY, NOW_NS, Authority, authority, distinguished, moment, root
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ext_authz.authn.certificate import CertificateError
from ext_authz.authn.trust import TrustError, TrustStore


def self_issued(signer: Authority) -> Authority:
    """A certificate of a new key with the signer's name as issuer and subject, as for a change of keys (RFC 5280 6.1)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = signer.certificate.subject
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(moment() - DAY)
        .not_valid_after(moment() + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return Authority(builder.sign(signer.key, hashes.SHA256()), key)


def test_a_new_key_signed_with_the_old_one_is_believed_below_the_old_one() -> None:
    new = self_issued(root())
    TrustStore(root().pem + new.pem).verify(new.spiffe().certificate, NOW_NS)


def test_a_new_key_is_no_root_by_its_name() -> None:
    new = self_issued(root())
    with pytest.raises(TrustError, match="no self-signed root"):
        TrustStore(new.pem)


def test_a_name_borrowed_from_a_root_is_worth_nothing() -> None:
    forger = authority("Root")
    assert forger.certificate.subject == root().certificate.subject
    borrowed = self_issued(forger)
    other = authority("Other")
    store = TrustStore(other.pem + borrowed.pem)
    with pytest.raises(CertificateError, match="no chain"):
        store.verify(borrowed.spiffe().certificate, NOW_NS)


def test_a_client_may_not_constrain_names() -> None:
    constraint = x509.NameConstraints([x509.DNSName("example.com")], None)
    for critical in (True, False):
        leaf = root().leaf(dns=["a.example.com"], subject=distinguished("a"), extensions=[(constraint, critical)])
        with pytest.raises(CertificateError):
            TrustStore(root().pem).verify(leaf.certificate, NOW_NS)
