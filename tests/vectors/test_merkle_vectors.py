"""The reference tree of certificate-transparency: eight leaves and the roots of its first one to eight.

The roots are published (the test data of its Python and Go code); the audit paths and consistency proofs between them
are re-derived from the RFC's definitions in tests/laws/test_merkle_laws.py and held against these roots here.
"""

import pytest

from ext_authz.audit.merkle import (
    EMPTY_ROOT,
    Proof,
    Range,
    consistency_parts,
    extends,
    includes,
    inclusion_parts,
    leaf_hash,
)

LEAVES = [
    leaf_hash(bytes.fromhex(each))
    for each in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def proof_of(parts, size):
    proof = Proof(parts)
    for index, leaf in enumerate(LEAVES[:size]):
        proof.add(index, leaf)
    return proof.hashes()


def test_the_empty_tree_has_the_hash_of_nothing():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Range().root() == EMPTY_ROOT


@pytest.mark.parametrize("size", range(1, 9))
def test_the_roots_are_the_published_ones(size):
    tree = Range()
    tree.extend(LEAVES[:size])
    assert tree.root().hex() == ROOTS[size - 1]


@pytest.mark.parametrize("size", range(1, 9))
def test_every_leaf_is_proven_to_be_in_the_published_tree(size):
    for index in range(size):
        proof = proof_of(inclusion_parts(index, size), size)
        assert includes(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize("new", range(1, 9))
def test_every_published_tree_is_proven_to_begin_with_the_smaller_ones(new):
    for old in range(1, new + 1):
        proof = proof_of(consistency_parts(old, new), new)
        assert extends(old, bytes.fromhex(ROOTS[old - 1]), new, bytes.fromhex(ROOTS[new - 1]), proof)


def test_the_published_path_of_the_sixth_leaf_is_ours():
    assert [each.hex() for each in proof_of(inclusion_parts(5, 8), 8)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
