"""Credentials for tests: authorities and SPIFFE certificates, issuers and tokens, API keys, and requests that carry them.

Tokens are made with PyJWT, another implementation than the one under test;
hand-made ones (raw_token) are for what PyJWT would not write.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import quote

import jwt as pyjwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ext_authz.model import Body, RequestFacts

NOW = 1_795_428_000
"""2026-11-23T10:00:00Z, in Unix seconds."""
NOW_NS = NOW * 1_000_000_000
TRUST_DOMAIN = "ml.example"
ISSUER = "https://idp.example"
AUDIENCE = "ml-platform"
SECRET = b"0123456789abcdef0123456789abcdef-a-shared-secret"
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
DAY = timedelta(days=1)


def moment(seconds: int = NOW) -> datetime:
    """Unix seconds as a UTC datetime."""
    return datetime.fromtimestamp(seconds, UTC)


def distinguished(common_name: str, **more: str) -> x509.Name:
    """Make a name: `O` and others first, the common name last."""
    oids = {"O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME, "C": NameOID.COUNTRY_NAME}
    attributes = [x509.NameAttribute(oids[key], value) for key, value in more.items()]
    if common_name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(attributes)


@dataclass(frozen=True)
class Leaf:
    """A client certificate and its key."""

    certificate: x509.Certificate
    key: Any = field(repr=False)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def encoded(self) -> str:
        """URL-encoded PEM, as Envoy puts it into `source.certificate` and `Cert=`."""
        return quote(self.pem, safe="")

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def thumbprint(self) -> str:
        """RFC 8705 `x5t#S256`."""
        return base64.urlsafe_b64encode(self.certificate.fingerprint(hashes.SHA256())).rstrip(b"=").decode()

    @property
    def serial(self) -> str:
        return f"{self.certificate.serial_number:x}"

    @property
    def private_pem(self) -> bytes:
        return private_pem(self.key)


@dataclass(frozen=True)
class Authority:
    """A CA that signs leaves, intermediates and revocation lists."""

    certificate: x509.Certificate
    key: Any = field(repr=False)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def leaf(
        self,
        *,
        uris: Sequence[str] = (),
        dns: Sequence[str] = (),
        subject: x509.Name | None = None,
        begins: datetime | None = None,
        ends: datetime | None = None,
        purposes: Sequence[x509.ObjectIdentifier] | None = CLIENT,
        ca: bool | None = False,
        key: Any = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> Leaf:
        key = key or ec.generate_private_key(ec.SECP256R1())
        names = [*(x509.UniformResourceIdentifier(each) for each in uris), *(x509.DNSName(each) for each in dns)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject if subject is not None else distinguished("", O="Example"))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins or moment() - DAY)
            .not_valid_after(ends or moment() + DAY)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if purposes is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return Leaf(builder.sign(self.key, hashes.SHA256()), key)

    def spiffe(self, path: str = "/ns/research/sa/trainer", domain: str = TRUST_DOMAIN, **more: Any) -> Leaf:
        """A leaf with one SPIFFE ID."""
        return self.leaf(uris=[f"spiffe://{domain}{path}"], **more)

    def intermediate(
        self, name: str = "Intermediate", path_length: int | None = 0, ends: datetime | None = None
    ) -> "Authority":
        return authority(name, signer=self, path_length=path_length, ends=ends)

    def crl(
        self,
        revoked: Sequence[Leaf] = (),
        *,
        begins: datetime | None = None,
        ends: datetime | None = None,
        key: Any = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(begins or moment() - timedelta(hours=1))
            .next_update(ends or moment() + timedelta(hours=1))
        )
        for leaf in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(leaf.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(moment() - timedelta(hours=2)).build())
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(key or self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def authority(
    name: str = "Root", signer: Authority | None = None, path_length: int | None = None, ends: datetime | None = None
) -> Authority:
    """Make a root, or with `signer` an intermediate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = distinguished(name, O="Example")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment() - 30 * DAY)
        .not_valid_after(ends or moment() + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .sign(signer.key if signer else key, hashes.SHA256())
    )
    return Authority(certificate, key)


@cache
def root() -> Authority:
    """The authority most tests trust."""
    return authority()


@cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(number: int = 0, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


@cache
def ed_key(number: int = 0) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def private_pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """The public JWK of a private key, written by PyJWT."""
    algorithms: dict[type, Any] = {
        rsa.RSAPrivateKey: pyjwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: pyjwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: pyjwt.algorithms.OKPAlgorithm,
    }
    algorithm = next(made for kind, made in algorithms.items() if isinstance(key, kind))
    made = algorithm.to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, "use": "sig", **members}


def jwks(*entries: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": list(entries)}).encode()


def claims(**more: Any) -> dict[str, Any]:
    """Claims of a good token of ISSUER at NOW; None takes a claim away."""
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice@example.com",
        "iat": NOW - 60,
        "exp": NOW + 600,
        "jti": "token-1",
        **more,
    }
    return {name: value for name, value in made.items() if value is not None}


def token(
    payload: Mapping[str, Any] | None = None,
    *,
    key: Any = None,
    algorithm: str = "RS256",
    kid: str | None = "rsa-0",
    header: Mapping[str, Any] | None = None,
) -> str:
    """Sign with PyJWT; a header value None takes it away."""
    headers = {**({} if kid is None else {"kid": kid}), **(header or {})}
    signer = rsa_key() if key is None else key
    return pyjwt.encode(dict(claims() if payload is None else payload), signer, algorithm, headers=headers)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header: bytes | Mapping[str, Any], payload: bytes | Mapping[str, Any], key: Any = None) -> str:
    """Sign any bytes as header and payload with RS256 (whatever the header says)."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signing_input = ".".join(map(b64, parts)).encode()
    algorithm = pyjwt.algorithms.RSAAlgorithm(pyjwt.algorithms.RSAAlgorithm.SHA256)
    return f"{signing_input.decode()}.{b64(algorithm.sign(signing_input, key or rsa_key()))}"


def facts(
    headers: Mapping[str, str | Sequence[str]] | None = None,
    *,
    principal: str = "",
    certificate: str = "",
    **more: Any,
) -> RequestFacts:
    """A request with these credentials."""
    folded = {
        name.lower(): (value,) if isinstance(value, str) else tuple(value) for name, value in (headers or {}).items()
    }
    values: dict[str, Any] = {
        "method": "POST",
        "path": "/v2/models/fraud/infer",
        "host": "fraud.models.internal",
        "headers": folded,
        "forged": (),
        "body": Body(b"", 0, ""),
        "source_address": "10.1.2.3",
        "source_principal": principal,
        "source_certificate": certificate,
        "time_ns": NOW_NS,
        "context_extensions": {},
        "http_protocol": "HTTP/2",
    }
    return RequestFacts(**{**values, **more})


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def from_leaf(leaf: Leaf, principal: str | None = None) -> dict[str, str]:
    """`principal` and `certificate` arguments of facts() for a leaf, as Envoy fills them."""
    if principal is None:
        try:
            names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            principal = (uris or names.get_values_for_type(x509.DNSName))[0]
        except x509.ExtensionNotFound:
            principal = leaf.certificate.subject.rfc4514_string()
    return {"principal": principal, "certificate": leaf.encoded}
