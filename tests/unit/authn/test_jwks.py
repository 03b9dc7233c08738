"""Key sets: what comes in and what does not."""

from typing import Any

import credentials as made
import jwt as pyjwt
import pytest
from credentials import ec_key, ed_key, jwk, jwks, rsa_key
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ext_authz.authn.jwks import KeySetError, from_jwks, from_secret, thumbprint, to_jwk


def test_every_kind_of_key_is_read_with_the_algorithms_it_is_for() -> None:
    found = from_jwks(
        jwks(
            jwk(rsa_key(), kid="a"), jwk(ec_key(), kid="b"), jwk(ec_key(0, ec.SECP384R1), kid="c"),
            jwk(ec_key(0, ec.SECP521R1), kid="d"), jwk(ed_key(), kid="e"), jwk(rsa_key(1), kid="f", alg="PS256"),
        )
    )  # fmt: skip
    assert [sorted(key.algorithms) for key in found.keys] == [
        ["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"], ["ES256"], ["ES384"], ["ES512"], ["EdDSA"], ["PS256"],
    ]  # fmt: skip
    assert found.ignored == ()
    assert len(found.thumbprints) == 6


def test_the_digest_changes_with_any_key_and_only_then() -> None:
    one = jwks(jwk(rsa_key(), kid="a"))
    assert from_jwks(one).digest == from_jwks(one.replace(b'": "', b'":"')).digest
    assert from_jwks(one).digest != from_jwks(jwks(jwk(rsa_key(), kid="b"))).digest
    assert from_jwks(one).digest != from_jwks(jwks(jwk(rsa_key(1), kid="a"))).digest
    assert from_jwks(one).digest != from_jwks(jwks(jwk(rsa_key(), kid="a", alg="RS256"))).digest


def test_keys_for_other_purposes_are_passed_over() -> None:
    found = from_jwks(
        jwks(
            jwk(rsa_key(), kid="a"), jwk(rsa_key(1), use="enc"), jwk(rsa_key(1), key_ops=["encrypt"]), {"kty": "AKP"},
            jwk(rsa_key(1), alg="RSA-OAEP"), {"kty": "EC", "crv": "secp256k1"}, {"kty": "OKP", "crv": "X25519"},
        )
    )  # fmt: skip
    assert [key.kid for key in found.keys] == ["a"]
    assert len(found.ignored) == 6


def private_jwk() -> dict[str, Any]:
    return pyjwt.algorithms.RSAAlgorithm.to_jwk(rsa_key(), as_dict=True)


WEAK = rsa.generate_private_key(65537, 1024)
BAD = {
    "symmetric": (lambda: {"kty": "oct", "k": "c2VjcmV0"}, "symmetric"),
    "private": (private_jwk, "private key"),
    "weak": (lambda: jwk(WEAK), "2048"),
    "tiny exponent": (lambda: {**jwk(rsa_key()), "e": "Aw"}, "exponent"),
    "huge exponent": (lambda: {**jwk(rsa_key()), "e": made.b64(b"\x01" * 40)}, "exponent"),
    "even exponent": (lambda: {**jwk(rsa_key()), "e": made.b64((2**17).to_bytes(3, "big"))}, "exponent"),
    "no modulus": (lambda: {"kty": "RSA", "e": "AQAB"}, "`n` is missing"),
    "padded modulus": (lambda: {**jwk(rsa_key()), "n": "AA=="}, "base64url"),
    "off the curve": (lambda: {**jwk(ec_key()), "y": made.b64(b"\x01" * 32)}, "not on its curve"),
    "short coordinate": (lambda: {**jwk(ec_key()), "x": made.b64(b"\x01" * 31)}, "32 bytes"),
    "short point": (lambda: {**jwk(ed_key()), "x": made.b64(b"\x01" * 31)}, "Ed25519"),
    "kid of a number": (lambda: {**jwk(ed_key()), "kid": 1}, "`kid`"),
    "text": (lambda: "key", "not an object"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_key_is_a_mistake_even_among_good_ones(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(KeySetError, match=f"key 1: .*{message}"):
        from_jwks(jwks(jwk(ed_key(), kid="a"), make()))


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"", "strict JSON"), (b"[]", "not a JSON object"), (b"{}", "no list"), (b'{"keys":{}}', "no list"), (b'{"keys":[]}', "no key"),
     (b'{"keys":[],"keys":[]}', "repeats"), (b'{"keys":[' + b",".join([b"{}"] * 200) + b"]}", "more than"), (b" " * (2**20 + 1), "larger than")],
)  # fmt: skip
def test_what_is_no_key_set_is_a_mistake(text: bytes, message: str) -> None:
    with pytest.raises(KeySetError, match=message):
        from_jwks(text)


def test_two_keys_of_one_name_are_a_mistake_and_all_mistakes_are_told() -> None:
    with pytest.raises(KeySetError) as raised:
        from_jwks(jwks(jwk(rsa_key(), kid="a"), jwk(rsa_key(1), kid="a"), {"kty": "oct"}))
    assert len(raised.value.mistakes) == 2


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (b"short", "shorter than 32"),
        (b"x" * 31 + b"\n", "shorter"),
        (b"-----BEGIN PUBLIC KEY-----" + b"x" * 40, "key file"),
        (b'{"keys": [' + b"x" * 40, "key file"),
    ],
)
def test_a_secret_that_is_none_is_a_mistake(secret: bytes, message: str) -> None:
    with pytest.raises(KeySetError, match=message):
        from_secret(secret)


def test_a_secret_is_for_the_algorithms_it_is_long_enough_for() -> None:
    assert [sorted(from_secret(b"x" * size + b"\r\n").keys[0].algorithms) for size in (32, 48, 64)] == [
        ["HS256"], ["HS256", "HS384"], ["HS256", "HS384", "HS512"],
    ]  # fmt: skip


def test_the_thumbprint_is_rfc_7638s_example() -> None:
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs"
        "tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn"
        "1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    assert thumbprint({"n": n, "kty": "RSA", "e": "AQAB"}) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_a_public_key_is_written_as_another_implementation_writes_it() -> None:
    for key in (rsa_key(), ec_key(), ed_key()):
        written = jwk(key)
        assert to_jwk(key.public_key()) == {name: written[name] for name in to_jwk(key.public_key())}
