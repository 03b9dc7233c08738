"""The CA bundle and its revocation lists."""

from datetime import timedelta
from functools import cache
from typing import Any

import credentials as made
import pytest
from chains import SPIFFE, chain
from credentials import NOW, NOW_NS, Authority, authority, facts, from_leaf, root
from cryptography import x509

from ext_authz.authn.certificate import CertificateError, canonical_dn, canonical_serial
from ext_authz.authn.trust import TrustError, TrustStore
from ext_authz.model import Identity, Reason, Refusal
from ext_authz.state import EMPTY_STATE

NS = 1_000_000_000


@cache
def middle() -> Authority:
    return root().intermediate()


def answer(store: TrustStore, leaf: made.Leaf, now_ns: int = NOW_NS) -> Identity | Refusal:
    return chain(mtls=SPIFFE, store=store).authenticate(facts(**from_leaf(leaf)), EMPTY_STATE, now_ns)


def test_the_bundle_brings_the_intermediates_that_envoy_does_not_pass_on() -> None:
    leaf = middle().spiffe()
    assert isinstance(answer(TrustStore(root().pem + middle().pem), leaf), Identity)
    assert isinstance(answer(TrustStore(root().pem), leaf), Refusal)


def test_an_intermediate_may_not_sign_beyond_its_path_length() -> None:
    below = middle().intermediate("Below", path_length=None)
    assert isinstance(answer(TrustStore(root().pem + middle().pem + below.pem), below.spiffe()), Refusal)


def test_a_chain_may_not_be_endless() -> None:
    signers = [root()]
    for number in range(6):
        signers.append(authority(f"I{number}", signer=signers[-1]))
    store = TrustStore(b"".join(each.pem for each in signers))
    assert isinstance(answer(store, signers[3].spiffe()), Identity)
    assert isinstance(answer(store, signers[6].spiffe()), Refusal)


def test_a_client_certificate_signs_no_other() -> None:
    client = root().spiffe()
    below = Authority(client.certificate, client.key).spiffe("/ns/admin/sa/root")
    with pytest.raises(TrustError, match="is not a CA's"):
        TrustStore(root().pem + client.pem.encode())
    assert isinstance(answer(TrustStore(root().pem), below), Refusal)


def test_name_constraints_that_are_not_understood_refuse() -> None:
    constraint = x509.NameConstraints([x509.UniformResourceIdentifier("ml.example")], None)
    leaf = root().spiffe(extensions=[(constraint, True)])
    assert isinstance(answer(TrustStore(root().pem), leaf), Refusal)


def test_unknown_critical_extensions_refuse() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    assert isinstance(answer(TrustStore(root().pem), root().spiffe(extensions=[(unknown, True)])), Refusal)
    assert isinstance(answer(TrustStore(root().pem), root().spiffe(extensions=[(unknown, False)])), Identity)


def usage(**bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names})


@pytest.mark.parametrize(
    ("bits", "good"),
    [
        ({"digital_signature": True}, True),
        ({"key_encipherment": True}, False),
        ({"digital_signature": True, "key_cert_sign": True}, False),
    ],
)
def test_key_usage_is_a_clients(bits: dict[str, bool], good: bool) -> None:
    leaf = root().spiffe(extensions=[(usage(**bits), True)])
    assert isinstance(answer(TrustStore(root().pem), leaf), Identity) is good


def test_a_certificate_without_purposes_is_for_any() -> None:
    assert isinstance(answer(TrustStore(root().pem), root().spiffe(purposes=None, ca=None)), Identity)


def test_an_intermediates_end_ends_its_remembered_chains() -> None:
    short = root().intermediate(ends=made.moment(NOW + 60))
    authenticators = chain(mtls=SPIFFE, store=TrustStore(root().pem + short.pem))
    request = facts(**from_leaf(short.spiffe()))
    assert isinstance(authenticators.authenticate(request, EMPTY_STATE, NOW_NS), Identity)
    assert isinstance(authenticators.authenticate(request, EMPTY_STATE, (NOW + 61) * NS), Refusal)


def test_a_listed_certificate_is_revoked_and_others_are_not() -> None:
    revoked, good = root().spiffe(), root().spiffe()
    store = TrustStore(root().pem, root().crl([revoked]))
    found = answer(store, revoked)
    assert isinstance(found, Refusal)
    assert (found.reason, found.detail) == (Reason.REVOKED, f"the CRL lists serial {revoked.serial}")
    assert isinstance(answer(store, good), Identity)


def test_an_intermediate_that_is_listed_takes_its_leaves_with_it() -> None:
    listed = made.Leaf(middle().certificate, None)
    store = TrustStore(root().pem + middle().pem, root().crl([listed]) + middle().crl())
    found = answer(store, middle().spiffe())
    assert isinstance(found, Refusal)
    assert found.reason is Reason.REVOKED


def test_a_list_of_another_issuer_is_not_enough() -> None:
    store = TrustStore(root().pem + middle().pem, root().crl())
    found = answer(store, middle().spiffe())
    assert isinstance(found, Refusal)
    assert "no CRL" in found.detail


def test_the_age_of_a_list_is_looked_at_on_every_check() -> None:
    authenticators = chain(mtls=SPIFFE, store=TrustStore(root().pem, root().crl()))
    request = facts(**from_leaf(root().spiffe()))
    assert isinstance(authenticators.authenticate(request, EMPTY_STATE, NOW_NS), Identity)
    for seconds in (NOW + 3601, NOW - 3600 - 301):
        found = authenticators.authenticate(request, EMPTY_STATE, seconds * NS)
        assert isinstance(found, Refusal)
        assert (found.reason, found.detail) == (Reason.INVALID_CERTIFICATE, "the CRL is out of date")


def test_the_same_serial_of_another_issuer_is_not_revoked() -> None:
    revoked = root().spiffe()
    store = TrustStore(root().pem + middle().pem, root().crl() + middle().crl([revoked]))
    assert isinstance(answer(store, revoked), Identity)


@pytest.mark.parametrize(
    ("crl", "message"),
    [
        (lambda: b"hello", "is not a CRL"),
        (lambda: authority("Other").crl(), "not signed by a CA"),
        (lambda: root().crl(key=made.ec_key(5)), "not signed by a CA"),
        (lambda: root().crl(extensions=[(x509.DeltaCRLIndicator(1), True)]), "critical extension"),
        (lambda: root().crl() + root().crl(key=made.ec_key(5)), "list 2"),
    ],
)
def test_a_list_that_cannot_be_relied_on_is_a_mistake(crl: Any, message: str) -> None:
    with pytest.raises(TrustError, match=message):
        TrustStore(root().pem, crl())


def test_a_list_in_der_is_read_too() -> None:
    der = x509.load_pem_x509_crl(root().crl()).public_bytes(made.serialization.Encoding.DER)
    assert isinstance(answer(TrustStore(root().pem, der), root().spiffe()), Identity)


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        (lambda: b"", "not a PEM"),
        (lambda: b"hello", "not a PEM"),
        (lambda: middle().pem, "no self-signed"),
        (lambda: root().pem + root().spiffe().pem.encode(), "certificate 2 is not a CA's"),
    ],
)
def test_a_bundle_that_cannot_be_relied_on_is_a_mistake(bundle: Any, message: str) -> None:
    with pytest.raises(TrustError, match=message):
        TrustStore(bundle())


def test_a_new_root_of_the_same_name_takes_over() -> None:
    new = authority("Root")
    store = TrustStore(root().pem + new.pem, root().crl() + new.crl())
    assert isinstance(answer(store, root().spiffe()), Identity)
    assert isinstance(answer(store, new.spiffe()), Identity)


def test_serials_and_names_are_compared_in_one_spelling() -> None:
    assert canonical_serial("0A:1B:2C") == canonical_serial("0x0a1b2c") == canonical_serial("A1B2C") == "a1b2c"
    assert canonical_dn("CN=a,O=b") == "CN=a,O=b"
    assert canonical_dn("emailAddress=a@b,street=x") == "emailAddress=a@b,STREET=x"
    for text in ("", "x", "-1", "1 2"):
        with pytest.raises(CertificateError):
            canonical_serial(text)


def test_an_expired_leaf_is_told_from_an_untrusted_one() -> None:
    leaf = root().spiffe(begins=made.moment() - timedelta(days=3), ends=made.moment() - timedelta(days=2))
    found = answer(TrustStore(root().pem), leaf)
    assert isinstance(found, Refusal)
    assert found.detail == "the certificate has expired"


def test_a_second_spelling_of_a_certificate_is_refused() -> None:
    """One that differs only in the unused bits of its signature would have a fingerprint that nobody revoked."""
    leaf = next(each for each in iter(root().spiffe, None) if each.certificate.signature[-1] & 1 == 0)
    der = bytearray(leaf.certificate.public_bytes(made.serialization.Encoding.DER))
    der[-len(leaf.certificate.signature) - 1] = 1
    bent = x509.load_der_x509_certificate(bytes(der))
    assert bent.signature == leaf.certificate.signature
    found = answer(TrustStore(root().pem), made.Leaf(bent, None))
    assert isinstance(found, Refusal)
    assert "canonical DER" in found.detail
