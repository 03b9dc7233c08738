"""The forgeries that the public vectors are about, made anew with keys of our own: these need no checkout.

After Wycheproof's modified PKCS #1 paddings, special ECDSA values, wrong primitives and missing parts, and x509-limbo's
chains of clients. Each family begins with one that is good, so that it is the change that is refused.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence

import credentials as made
import pytest
from credentials import DAY, NOW_NS, Authority, b64, distinguished, moment, root
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

from ext_authz.authn import jwks, jws
from ext_authz.authn.certificate import CertificateError
from ext_authz.authn.trust import TrustStore

MESSAGE = b"eyJhbGciOiJSUzI1NiJ9.e30"
DIGEST = hashlib.sha256(MESSAGE).digest()
SHA256 = bytes.fromhex("0609608648016503040201")
SHA1 = bytes.fromhex("06052b0e03021a")
NULL = b"\x05\x00"
SIZE = 256


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes([tag, len(body)]) + body


def info(*, oid: bytes = SHA256, parameters: bytes = NULL, digest: bytes = DIGEST, tail: bytes = b"") -> bytes:
    return der(0x30, der(0x30, oid, parameters), der(0x04, digest), tail)


def block(content: bytes, *, kind: int = 1, fill: int = 0xFF, first: int = 0, garbage: bytes = b"") -> bytes:
    return bytes([first, kind]) + bytes([fill]) * (SIZE - 3 - len(content) - len(garbage)) + b"\0" + content + garbage


GOOD_INFO = info()
PADDINGS: dict[str, bytes] = {
    "as it should be": block(GOOD_INFO),
    "no parameters": block(info(parameters=b"")),
    "parameters that are not null": block(info(parameters=b"\x04\x00")),
    "garbage in the parameters": block(info(parameters=b"\x05\x02ab")),
    "garbage after the digest, inside": block(info(tail=b"\0" * 8)),
    "garbage after the digest, outside": block(GOOD_INFO, garbage=b"\0" * 8),
    "garbage after the digest and eight bytes of padding": b"\0\1"
    + b"\xff" * 8
    + b"\0"
    + GOOD_INFO
    + b"\xaa" * (SIZE - 11 - 51),
    "garbage after the digest and no padding": b"\0\1\0" + GOOD_INFO + b"\xaa" * (SIZE - 3 - 51),
    "another hash's name": block(info(oid=SHA1)),
    "another hash": block(info(oid=SHA1, digest=hashlib.sha1(MESSAGE).digest())),
    "half a digest": block(info(digest=DIGEST[:16])),
    "no digest": block(info(digest=b"")),
    "a bare digest": block(DIGEST),
    "a length in long form": block(b"\x30\x81" + GOOD_INFO[1:]),
    "a length with a leading zero": block(b"\x30\x82\x00" + GOOD_INFO[1:]),
    "an indefinite length": block(b"\x30\x80" + GOOD_INFO[2:] + b"\0\0"),
    "a length that is too small": block(b"\x30\x30" + GOOD_INFO[2:]),
    "a length that is too great": block(b"\x30\x32" + GOOD_INFO[2:]),
    "another tag": block(b"\x31" + GOOD_INFO[1:]),
    "a block for encryption": block(GOOD_INFO, kind=2),
    "a block of kind zero": block(GOOD_INFO, kind=0, fill=0),
    "padding of other bytes": block(GOOD_INFO, fill=0xFE),
    "another first byte": block(GOOD_INFO, first=1),
    "nothing at all": bytes(SIZE),
}


def raw(encoded: bytes) -> bytes:
    """RSA of any block, as only the owner of the key can: what a verifier finds in a forgery."""
    numbers = made.rsa_key().private_numbers()
    modulus = numbers.public_numbers.n
    return pow(int.from_bytes(encoded) % modulus, numbers.d, modulus).to_bytes(SIZE)


@pytest.mark.parametrize("name", PADDINGS)
def test_a_padding_has_one_form(name: str) -> None:
    assert len(PADDINGS[name]) == SIZE
    answer = jws.verify("RS256", made.rsa_key().public_key(), MESSAGE, raw(PADDINGS[name]))
    assert answer is (name == "as it should be")


def test_an_rsa_signature_has_one_length_and_is_below_the_modulus() -> None:
    public = made.rsa_key().public_key()
    modulus = public.public_numbers().n
    good = raw(PADDINGS["as it should be"])
    small = [number.to_bytes(SIZE) for number in (0, 1, modulus - 1, modulus)]
    greater = int.from_bytes(good) + modulus
    forged = [b"", good[:-1], b"\0" + good, good + b"\0", *small, greater.to_bytes(SIZE + 1)]
    assert jws.verify("RS256", public, MESSAGE, good)
    assert not any(jws.verify("RS256", public, MESSAGE, each) for each in forged)


def test_a_signature_is_of_the_algorithm_that_it_says() -> None:
    key = made.rsa_key()
    public = key.public_key()
    paddings = {
        "RS": lambda hash_: padding.PKCS1v15(),
        "PS": lambda hash_: padding.PSS(padding.MGF1(hash_), hash_.digest_size),
    }
    sizes = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
    for made_by, make in paddings.items():
        for bits, hash_ in sizes.items():
            signature = key.sign(MESSAGE, make(hash_), hash_)
            fits = {name for name in jws.ALGORITHMS if jws.verify(name, public, MESSAGE, signature)}
            assert fits == {made_by + bits}


@pytest.mark.parametrize("salt", [0, 20, 31, 33, 222])
def test_a_pss_salt_is_as_long_as_the_hash(salt: int) -> None:
    key = made.rsa_key()
    signature = key.sign(MESSAGE, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
    assert not jws.verify("PS256", key.public_key(), MESSAGE, signature)


ORDERS = {
    "ES256": (ec.SECP256R1, 32, 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551),
    "ES384": (
        ec.SECP384R1,
        48,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
    "ES512": (
        ec.SECP521R1,
        66,
        2**521 - 2**260 + 0xA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
    ),
}


@pytest.mark.parametrize("algorithm", ORDERS)
def test_no_ecdsa_signature_is_made_of_special_numbers(algorithm: str) -> None:
    curve, size, order = ORDERS[algorithm]
    key = made.ec_key(9, curve)
    public = key.public_key()
    good = jws.sign(algorithm, key, MESSAGE)
    assert jws.verify(algorithm, public, MESSAGE, good)
    special = (0, 1, order - 1, order, 2 ** (8 * size) - 1)
    forged = [r.to_bytes(size) + s.to_bytes(size) for r in special for s in special]
    r, s = good[:size], good[size:]
    zero = b"\0"
    forged += [
        b"", r, good[:-1], good + zero, zero + good, zero + r + zero + s, r + zero + s + zero, s + r,
        utils.encode_dss_signature(int.from_bytes(r), int.from_bytes(s)),
        bytes(size) + s, r + bytes(size),
    ]  # fmt: skip
    assert not any(jws.verify(algorithm, public, MESSAGE, each) for each in forged)


def test_an_ed25519_signature_has_one_form() -> None:
    key = made.ed_key()
    good = jws.sign("EdDSA", key, MESSAGE)
    order = 2**252 + 27742317777372353535851937790883648493
    greater = (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")
    forged = [b"", good[:32], good[:-1], good + b"\0", good[:32] + greater, bytes(64), good[:32] + bytes(32)]
    assert jws.verify("EdDSA", key.public_key(), MESSAGE, good)
    assert not any(jws.verify("EdDSA", key.public_key(), MESSAGE, each) for each in forged)


def test_a_token_without_one_of_its_parts_is_none() -> None:
    head, body, tail = made.token().split(".")
    jws.parse_compact(f"{head}.{body}.{tail}")
    for parts in (
        [], [head], [head, body], [body, tail], ["", body, tail], [head, "", tail], ["", body, ""], [head, body, tail, ""],
        [head, body, tail, tail], ["", head, body, tail], [head, body, "", tail],
    ):  # fmt: skip
        with pytest.raises(jws.JwsError):
            jws.parse_compact(".".join(parts))


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("change", ["{}=", "{}==", " {}", "{} ", "{}\n", "{}?", "{}*", "{}\0", "{}é", "{}+", "{}/"])
def test_a_part_of_a_token_has_one_spelling(part: int, change: str) -> None:
    parts = made.token().split(".")
    parts[part] = change.format(parts[part])
    with pytest.raises(jws.JwsError):
        jws.parse_compact(".".join(parts))


def test_a_mac_with_a_public_key_for_its_secret_is_refused() -> None:
    public = made.rsa_key().public_key()
    pem = made.public_pem(made.rsa_key())
    for secret in (pem, pem.strip(), public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)):
        assert not jws.verify("HS256", public, MESSAGE, hmac.digest(secret, MESSAGE, "sha256"))
    with pytest.raises(jwks.KeySetError):
        jwks.from_secret(pem)


def emails(permitted: str | None, *names: str) -> tuple[bytes, x509.Certificate]:
    """A bundle whose root permits a mailbox or domain, and a client's certificate with these addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = distinguished("Mail", O="Example")
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(moment() - DAY)
        .not_valid_after(moment() + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if permitted is not None:
        tree = x509.RFC822Name._init_without_validation(permitted)
        builder = builder.add_extension(x509.NameConstraints([tree], None), critical=True)
    authority = Authority(builder.sign(key, hashes.SHA256()), key)
    made_names = x509.SubjectAlternativeName([x509.RFC822Name._init_without_validation(each) for each in names])
    return authority.pem, authority.leaf(extensions=[(made_names, False)]).certificate


MAIL: Sequence[tuple[str | None, str, bool]] = [
    (None, "foo@example.com", True),
    ("foo@example.com", "foo@example.com", True),
    ("foo@example.com", "bar@example.com", False),
    ("example.com", "foo@example.com", True),
    ("example.com", "foo@bar.example.com", False),
    (".example.com", "foo@bar.example.com", True),
    (".example.com", "foo@example.com", False),
    ("*@example.com", "*@example.com", True),
    ("*@example.com", "foo@example.com", False),
    ("*@example.com", "*@foo.example.com", False),
    ("**@example.com", "**@example.com", True),
    ("**@example.com", "*@example.com", False),
    ("foo*bar@example.com", "foo*bar@example.com", True),
    ("a@b@example.com", "b@example.com", False),
    ("example.com", "a@b@example.com", False),
]


@pytest.mark.parametrize(("permitted", "name", "good"), MAIL)
def test_an_address_is_constrained_letter_by_letter(permitted: str | None, name: str, good: bool) -> None:
    bundle, leaf = emails(permitted, name)
    store = TrustStore(bundle)
    if good:
        assert store.verify(leaf, NOW_NS)[2] == ""
    else:
        with pytest.raises(CertificateError):
            store.verify(leaf, NOW_NS)


def _alterations() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    for offset in (-1, -40, 40, 200):
        yield f"byte {offset}", lambda data, at=offset: data[:at] + bytes([data[at] ^ 1]) + data[at:][1:]


@pytest.mark.parametrize(("name", "alter"), list(_alterations()))
def test_a_certificate_with_a_changed_byte_chains_to_nothing(name: str, alter: Callable[[bytes], bytes]) -> None:
    data = root().spiffe().certificate.public_bytes(serialization.Encoding.DER)
    store = TrustStore(root().pem)
    store.verify(x509.load_der_x509_certificate(data), NOW_NS)
    try:
        changed = x509.load_der_x509_certificate(alter(data))
    except ValueError:
        return
    with pytest.raises(CertificateError):
        store.verify(changed, NOW_NS)


def test_the_tokens_made_here_are_of_the_kind_that_is_verified() -> None:
    signing_input = MESSAGE.decode()
    parsed = jws.parse_compact(f"{signing_input}.{b64(raw(PADDINGS['as it should be']))}")
    assert jws.verify(parsed.algorithm, made.rsa_key().public_key(), parsed.signing_input, parsed.signature)
