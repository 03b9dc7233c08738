"""Keys of the generator behind ROCA."""

import random
from functools import cache
from math import prod

import credentials as made
import pytest
from credentials import NOW_NS, b64, root
from cryptography.hazmat.primitives.asymmetric import rsa

from ext_authz.authn.certificate import CertificateError
from ext_authz.authn.jwks import KeySetError, from_jwks
from ext_authz.authn.trust import TrustStore
from ext_authz.authn.weak_keys import is_roca

SMALL = [n for n in range(2, 702) if all(n % divisor for divisor in range(2, n))]
PRIMORIAL = prod(SMALL)


def probably_prime(number: int, choose: random.Random) -> bool:
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(12):
        power = pow(choose.randrange(2, number - 1), odd, number)
        if power not in (1, number - 1) and not any(
            (power := power * power % number) == number - 1 for _ in range(twos - 1)
        ):
            return False
    return True


def weak_prime(choose: random.Random) -> int:
    """A prime k * M + (65537^a mod M), as the generator makes them, of 1024 bits."""
    least, most = 3 * 2**1022 // PRIMORIAL + 1, 2**1024 // PRIMORIAL - 1
    while True:
        residue = pow(65537, choose.randrange(2**62), PRIMORIAL)
        number = choose.randrange(least, most) * PRIMORIAL + residue
        if pow(2, number - 1, number) == 1 and probably_prime(number, choose):
            return number


@cache
def weak_key() -> rsa.RSAPrivateKey:
    choose = random.Random(2017)
    p, q = weak_prime(choose), weak_prime(choose)
    private = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    exponents = rsa.rsa_crt_dmp1(private, p), rsa.rsa_crt_dmq1(private, q)
    return rsa.RSAPrivateNumbers(p, q, private, *exponents, rsa.rsa_crt_iqmp(p, q), public).private_key()


def test_primes_of_that_generator_are_told_by_their_product() -> None:
    assert len(SMALL) == 126
    assert is_roca(weak_key().public_key().public_numbers().n)


def test_other_keys_are_not_taken_for_it() -> None:
    assert not is_roca(made.rsa_key().public_key().public_numbers().n)
    choose = random.Random(1)
    assert not any(is_roca(choose.getrandbits(2048) | 1) for _ in range(2000))


def test_such_a_key_in_a_key_set_is_a_mistake() -> None:
    numbers = weak_key().public_key().public_numbers()
    entry = {"kty": "RSA", "kid": "k", "n": b64(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)), "e": "AQAB"}
    with pytest.raises(KeySetError, match="ROCA"):
        from_jwks(made.jwks(entry))


def test_a_client_with_such_a_key_is_refused() -> None:
    store = TrustStore(root().pem)
    with pytest.raises(CertificateError, match="a key is weak"):
        store.verify(root().spiffe(key=weak_key()).certificate, NOW_NS)
