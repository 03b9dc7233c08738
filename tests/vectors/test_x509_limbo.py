"""x509-limbo's chains, through the trust store and the authenticator of client certificates.

Known to hold for the cases of commit 8a2e6f41023b1716dc16fe63335e4bb972e4c3f6 of github.com/C2SP/x509-limbo.
Most of its leaves are servers'. Their chains are tried too, with the purpose asked for exchanged: all else is the same code.
A case that is answered otherwise than it says must be named here, with the reason.
"""

from collections.abc import Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from credentials import NOW_NS, facts
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID
from public_vectors import limbo

from ext_authz.authn import trust
from ext_authz.authn.certificate import CertificateError, parse_pem
from ext_authz.authn.mtls import MtlsAuthenticator, MtlsSettings
from ext_authz.authn.trust import TrustError, TrustStore
from ext_authz.model import Refusal

NS = 1_000_000_000
# Its cases have serial numbers that are not positive, at which the library warns.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

LEFT_OUT = {"bettertls::": "names of servers under name constraints, and path building over certificates of a server"}
"""Prefixes of cases that are not tried."""

LOOSER: Mapping[str, frozenset[str]] = {
    "a client is asked for no server's name; what names a client may have is `identity.mtls.names`": frozenset({
        "webpki::cn::ipv4-hex-mismatch", "webpki::cn::ipv4-leading-zeros-mismatch", "webpki::cn::ipv6-uppercase-mismatch",
        "webpki::cn::ipv6-uncompressed-mismatch", "webpki::cn::ipv6-non-rfc5952-mismatch", "webpki::cn::punycode-not-in-san",
        "webpki::cn::utf8-vs-punycode-mismatch", "webpki::cn::not-in-san", "webpki::cn::case-mismatch",
        "webpki::san::mismatch-domain-san", "webpki::san::mismatch-subdomain-san", "webpki::san::mismatch-subdomain-apex-san",
        "webpki::san::mismatch-apex-subdomain-san", "webpki::san::public-suffix-wildcard-san",
        "webpki::san::public-suffix-multi-label-wildcard-san", "webpki::san::public-suffix-private-namespace-wildcard-san",
        "webpki::san::wildcard-embedded-leftmost-san", "webpki::san::wildcard-not-in-leftmost-san",
        "webpki::san::wildcard-match-across-labels-san", "webpki::san::wildcard-embedded-ulabel-san",
        "webpki::san::unicode-emoji-san", "webpki::san::no-san", "webpki::san::san-wildcard-only",
        "webpki::san::san-wildcard-only-tld", "rfc5280::san::underscore-dns", "rfc5280::san::ip-in-dns",
    }),
    "the number of intermediates is fixed at four": frozenset({
        "pathlen::max-chain-depth-0-exhausted", "pathlen::max-chain-depth-1-exhausted",
    }),
    "key identifiers only help to find a path; private CAs leave them out": frozenset({
        "rfc5280::aki::critical-aki", "rfc5280::aki::leaf-missing-aki", "rfc5280::aki::intermediate-missing-aki",
        "rfc5280::ski::critical-ski", "rfc5280::ski::root-missing-ski", "rfc5280::ski::intermediate-missing-ski",
        "webpki::aki::root-with-aki-missing-keyidentifier", "webpki::aki::root-with-aki-all-fields",
        "webpki::aki::root-with-aki-ski-mismatch",
    }),
    "an extension is obeyed whether or not it is marked critical as the profile asks of its issuer": frozenset({
        "rfc5280::nc::permitted-dns-match-noncritical", "rfc5280::root-non-critical-basic-constraints",
        "rfc5280::san::noncritical-with-empty-subject", "webpki::san::san-critical-with-nonempty-subject",
    }),
    "certificate policies and where to ask about revocation are not read": frozenset({
        "rfc5280::pc::ica-noncritical-pc", "rfc5280::ee-critical-aia-invalid", "webpki::malformed-aia",
    }),
    "rules of public web authorities for servers' purposes and keys": frozenset({
        "webpki::eku::ee-anyeku", "webpki::eku::ee-critical-eku", "webpki::eku::ee-without-eku", "webpki::eku::root-has-eku",
        "webpki::forbidden-rsa-not-divisible-by-8-in-root", "webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf",
    }),
    "a form that the issuer should not write and that changes nothing: no CRL number, serial number zero": frozenset({
        "crl::crlnumber-missing", "rfc5280::serial::zero",
    }),
}  # fmt: skip
"""Invalid by the case, accepted here: why, and which."""

STRICTER: Mapping[str, frozenset[str]] = {
    "a bundle needs a self-signed root: an intermediate alone is not trusted": frozenset({
        "cve::cve-2024-0567", "rfc5280::root-and-intermediate-swapped",
    }),
    "a CA is nobody's client": frozenset({"pathlen::validation-ignores-pathlen-in-leaf", "rfc5280::ca-as-leaf"}),
    "a self-issued intermediate counts towards the path length": frozenset({"pathlen::self-issued-certs-pathlen"}),
    "constraints on distinguished names are not understood, so they refuse": frozenset({"rfc5280::nc::permitted-dn-match"}),
}  # fmt: skip
"""Valid by the case, refused here on purpose: why, and which."""


def named(reasons: Mapping[str, frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*reasons.values())


def self_signed(pem: str) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def moment(case: Mapping[str, Any]) -> int:
    time = case["validation_time"]
    return int(datetime.fromisoformat(time).timestamp()) * NS if time else NOW_NS


def store_of(case: Mapping[str, Any]) -> TrustStore:
    """The store of an operator who trusts what the case trusts: Envoy passes no intermediates on, the bundle has them.

    Roots that the case does not trust stay out of it.
    """
    bundle = [*case["trusted_certs"], *(pem for pem in case["untrusted_intermediates"] if not self_signed(pem))]
    return TrustStore("".join(bundle).encode(), "".join(case["crls"]).encode() or None)


def accepted(case: Mapping[str, Any]) -> bool:
    try:
        store = store_of(case)
        certificate = parse_pem(case["peer_certificate"].replace("+", "%2B"))
        return not store.verify(certificate, moment(case))[2]
    except (TrustError, CertificateError):
        return False


@pytest.fixture
def cases() -> dict[str, dict[str, dict[str, Any]]]:
    """CLIENT and SERVER cases by id."""
    found = {id_: case for id_, case in limbo().items() if not id_.startswith(tuple(LEFT_OUT))}
    return {
        kind: {id_: case for id_, case in found.items() if case["validation_kind"] == kind}
        for kind in ("CLIENT", "SERVER")
    }


def otherwise(cases: Mapping[str, Mapping[str, Any]], expected: str) -> set[str]:
    """The cases of an expected result that are answered otherwise."""
    asked = {id_: case for id_, case in cases.items() if case["expected_result"] == expected}
    return {id_ for id_, case in asked.items() if accepted(case) != (expected == "SUCCESS")}


def test_chains_of_clients_are_answered_as_the_cases_say(cases: dict[str, dict[str, dict[str, Any]]]) -> None:
    assert cases["CLIENT"]
    assert otherwise(cases["CLIENT"], "SUCCESS") == set()
    assert otherwise(cases["CLIENT"], "FAILURE") == set()


def test_chains_of_servers_are_answered_as_the_cases_say_but_for_those_named_here(
    cases: dict[str, dict[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    purpose = SimpleNamespace(CLIENT_AUTH=ExtendedKeyUsageOID.SERVER_AUTH)
    monkeypatch.setattr(trust, "ExtendedKeyUsageOID", purpose)
    assert otherwise(cases["SERVER"], "FAILURE") == named(LOOSER)
    assert otherwise(cases["SERVER"], "SUCCESS") == named(STRICTER)


def test_a_servers_certificate_is_nobodys_client(cases: dict[str, dict[str, dict[str, Any]]]) -> None:
    taken = {id_ for id_, case in cases["SERVER"].items() if accepted(case)}
    for id_ in taken:
        leaf = x509.load_pem_x509_certificate(cases["SERVER"][id_]["peer_certificate"].encode())
        try:
            purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            continue
        assert ExtendedKeyUsageOID.CLIENT_AUTH in purposes, id_


def test_the_authenticator_accepts_nothing_that_the_store_refuses(cases: dict[str, dict[str, dict[str, Any]]]) -> None:
    settings = MtlsSettings.model_validate({"ca_bundle": "unread", "names": ["dns", "x509"]})
    for case in (*cases["CLIENT"].values(), *cases["SERVER"].values()):
        try:
            authenticator = MtlsAuthenticator(settings, store_of(case))
        except TrustError:
            continue
        encoded = case["peer_certificate"].replace("+", "%2B")
        for principal in ("example.com", "CN=example.com", "CN=x509-limbo-ee"):
            answer = authenticator.authenticate(facts(principal=principal, certificate=encoded), moment(case))
            assert isinstance(answer, Refusal) or accepted(case), case["id"]
