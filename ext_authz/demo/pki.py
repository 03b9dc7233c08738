"""A throw-away certificate authority: SPIFFE certificates for callers, one for Envoy, keys for tokens.

Law: private keys are written 0600 before they have content, and everything
expires within days. Non-goal: a CA anybody should run.
"""

import base64
import datetime as dt
import ipaddress
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN: Final = "ml.example"
LIFETIME: Final = dt.timedelta(days=2)
_SKEW: Final = dt.timedelta(minutes=10)
SERVER_NAMES: Final = ("localhost", "models.internal", "*.models.internal", "lake.internal", "envoy")


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    private_key: Path


class Authority:
    """A CA whose files live in one directory: `ca.pem` (0644), and a pair for each certificate issued."""

    def __init__(self, directory: Path, name: str = "ext-authz demo CA") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.certificate = directory / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _builder(subject, subject, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.certificate.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def client(self, name: str, spiffe_id: str) -> Pair:
        """Issue a client certificate whose only name is `spiffe_id`."""
        return self._issue(name, [x509.UniformResourceIdentifier(spiffe_id)], ExtendedKeyUsageOID.CLIENT_AUTH)

    def server(self, name: str, hosts: Sequence[str] = SERVER_NAMES, spiffe_id: str = "") -> Pair:
        """Issue a server certificate for `hosts`, loopback addresses and, where given, a SPIFFE ID."""
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
        if spiffe_id:
            names.append(x509.UniformResourceIdentifier(spiffe_id))
        return self._issue(name, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def _issue(self, name: str, names: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ext-authz demo")])
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(subject, self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(authority_key, critical=False)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        pair = Pair(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        write_private(pair.private_key, pem(key))
        return pair


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to a new file that only its owner can read; an old one is replaced."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def jwks(key: ec.EllipticCurvePublicKey, key_id: str) -> str:
    """Return a key set (RFC 7517) with one P-256 signature key (RFC 7518 6.2.1)."""
    numbers = key.public_numbers()
    coordinates = {
        name: _base64url(number.to_bytes(32, "big")) for name, number in (("x", numbers.x), ("y", numbers.y))
    }
    entry = {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": key_id, **coordinates}
    return json.dumps({"keys": [entry]})


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m ext_authz.demo.pki DIRECTORY [NAME=SPIFFE-ID…]`: certificates and keys for docker-compose.yml.

    Nothing is made anew while `ca.pem` is there and younger than half its life.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        sys.stderr.write("usage: python -m ext_authz.demo.pki DIRECTORY [NAME=SPIFFE-ID…]\n")
        return 2
    directory = Path(given[0])
    wanted = dict(each.split("=", 1) for each in given[1:] if "=" in each)
    if _fresh(directory, [f"{name}.key" for name in ("server", *wanted)] + ["tokens.pem"]):
        return 0
    authority = Authority(directory)
    authority.server("server")
    for name, spiffe_id in wanted.items():
        authority.client(name, spiffe_id)
    write_private(directory / "tokens.pem", pem(ec.generate_private_key(ec.SECP256R1())))
    return 0


def _fresh(directory: Path, names: Sequence[str]) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    except (OSError, ValueError):
        return False
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    return left > LIFETIME / 2 and all((directory / name).exists() for name in names)


if __name__ == "__main__":
    raise SystemExit(main())
