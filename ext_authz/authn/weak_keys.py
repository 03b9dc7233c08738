"""RSA keys that look strong and are not: those of the generator behind ROCA (CVE-2017-15361).

Law: a modulus is told by its residues alone, so that no factoring is tried.
Method: Nemec, Sys, Svenda, Klinec, Matyas, "The Return of Coppersmith's Attack" (CCS 2017), section 2.
Non-goal: sizes, exponents and curves (jwks.py, trust.py).
"""

from typing import Final

_GENERATOR: Final = 65537
# A prime of that generator is 65537^a modulo the product of the first primes, 126 of them (to 701) for moduli from
# 1984 bits on, and so is the product of two. Shorter keys are refused for their length.
_LAST: Final = 701


def _powers(prime: int) -> frozenset[int]:
    found = {1}
    power = _GENERATOR % prime
    while power not in found:
        found.add(power)
        power = power * _GENERATOR % prime
    return frozenset(found)


# Where 65537 generates every residue the prime tells nothing.
_RESIDUES: Final = tuple(
    (prime, powers)
    for prime in range(3, _LAST + 1, 2)
    if all(prime % divisor for divisor in range(3, int(prime**0.5) + 1, 2))
    and len(powers := _powers(prime)) < prime - 1
)


def is_roca(modulus: int) -> bool:
    """Whether an RSA modulus of at least 1984 bits is of the ROCA generator's form; by chance 1 in 2^160 is."""
    return all(modulus % prime in powers for prime, powers in _RESIDUES)
