"""Laws of the Merkle tree: beside a naive tree written from the RFC's recursive definition."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.audit.merkle import (
    EMPTY_ROOT,
    Proof,
    Range,
    consistency_parts,
    extends,
    includes,
    inclusion_parts,
    leaf_hash,
    subtrees,
)

sizes = st.integers(0, 70)


def leaves_of(size: int, salt: int = 0) -> list[bytes]:
    return [leaf_hash(b"%d/%d" % (salt, n)) for n in range(size)]


def naive_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*naive_subproof(m, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def proof_of(parts: list[tuple[int, int]], leaves: list[bytes]) -> list[bytes]:
    proof = Proof(parts)
    for index, leaf in enumerate(leaves):
        proof.add(index, leaf)
    return proof.hashes()


def tree(leaves: list[bytes], begin: int = 0) -> Range:
    made = Range(begin)
    made.extend(leaves[begin:])
    return made


@given(sizes)
def test_the_root_is_the_naive_trees(size):
    leaves = leaves_of(size)
    assert tree(leaves).root() == naive_root(leaves)
    assert (tree(leaves).root() == EMPTY_ROOT) == (size == 0)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_a_log_hashed_in_parts_has_the_root_of_the_whole(lengths):
    leaves = leaves_of(sum(lengths))
    whole, at = Range(), 0
    for length in lengths:
        part = Range(at)
        part.extend(leaves[at : at + length])
        assert len(part.nodes) == len(subtrees(at, at + length))
        whole.join(Range(part.begin, part.end, part.nodes))
        at += length
    assert whole.root() == naive_root(leaves)
    assert whole.nodes == tree(leaves).nodes


@given(sizes, sizes)
def test_a_tree_taken_up_from_its_nodes_goes_on_as_it_would_have(first, more):
    leaves = leaves_of(first + more)
    before = tree(leaves[:first])
    taken_up = Range(0, before.end, before.nodes)
    taken_up.extend(leaves[first:])
    assert taken_up.root() == naive_root(leaves)
    assert before.end == first


@given(st.data())
def test_an_inclusion_proof_is_the_naive_one_and_holds_for_that_leaf_alone(data):
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    root = naive_root(leaves)
    proof = proof_of(inclusion_parts(index, size), leaves)
    assert proof == naive_path(index, leaves)
    assert includes(leaves[index], index, size, proof, root)
    for other in range(size):
        if other != index:
            assert not includes(leaves[index], other, size, proof, root)
            assert not includes(leaves[other], index, size, proof, root)
    for wrong in (size + 1, 2 * size + 1, 0, index):
        # A proof may hold for another size too where the path has the same shape: the size is the signature's to fix.
        if includes(leaves[index], index, wrong, proof, root):
            assert len(inclusion_parts(index, wrong)) == len(proof)


@given(st.data())
def test_a_leafs_proof_needs_of_earlier_leaves_only_their_tree(data):
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    gone = data.draw(st.integers(0, index))
    leaves = leaves_of(size)
    proof = Proof(inclusion_parts(index, size), tree(leaves[:gone]))
    for at in range(gone, size):
        proof.add(at, leaves[at])
    assert proof.hashes() == naive_path(index, leaves)


@given(st.data())
def test_a_consistency_proof_is_the_naive_one_and_holds_for_those_trees_alone(data):
    new = data.draw(st.integers(1, 70))
    old = data.draw(st.integers(1, new))
    leaves, others = leaves_of(new), leaves_of(new, salt=1)
    proof = proof_of(consistency_parts(old, new), leaves)
    assert proof == naive_subproof(old, leaves, True)
    old_root, new_root = naive_root(leaves[:old]), naive_root(leaves)
    assert extends(old, old_root, new, new_root, proof)
    assert not extends(old, naive_root(others[:old]), new, new_root, proof)
    assert not extends(old, old_root, new, naive_root(others), proof)
    changed = [*leaves[: old - 1], others[old - 1], *leaves[old:]]
    assert not extends(old, old_root, new, naive_root(changed), proof_of(consistency_parts(old, new), changed))


@given(st.data())
def test_a_proof_with_one_bit_flipped_one_hash_more_or_one_less_never_holds(data):
    size = data.draw(st.integers(2, 70))
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size - 1))
    leaves = leaves_of(size)
    root = naive_root(leaves)
    inclusion = naive_path(index, leaves)
    consistency = naive_subproof(old, leaves, True)
    for proof, holds in (
        (inclusion, lambda p: includes(leaves[index], index, size, p, root)),
        (consistency, lambda p: extends(old, naive_root(leaves[:old]), size, root, p)),
    ):
        assert holds(proof)
        place = data.draw(st.integers(0, len(proof) - 1))
        bit = data.draw(st.integers(0, 255))
        flipped = bytearray(proof[place])
        flipped[bit // 8] ^= 1 << bit % 8
        assert not holds([*proof[:place], bytes(flipped), *proof[place + 1 :]])
        assert not holds(proof[:-1])
        assert not holds([*proof, proof[-1]])
        assert not holds([*proof, b""])


def test_what_cannot_be_is_refused():
    for begin, end, nodes in ((0, 3, [b"\0" * 32]), (2, 1, []), (-1, 0, []), (0, 1, [b"short"]), (0, 2**63, [])):
        with pytest.raises(ValueError):
            Range(begin, end, nodes)
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(ValueError):
            inclusion_parts(index, size)
    for old, new in ((0, 3), (4, 3)):
        with pytest.raises(ValueError):
            consistency_parts(old, new)
    with pytest.raises(ValueError, match="do not meet"):
        Range(0).join(Range(1))
    with pytest.raises(ValueError, match="no root"):
        Range(1).root()
    with pytest.raises(ValueError, match="leaves 0 to 1 are missing"):
        Proof(inclusion_parts(2, 3)).hashes()
    assert not includes(b"", 1, 1, [], b"")
    assert not extends(0, EMPTY_ROOT, 3, b"", [])
    assert not extends(1, b"a" * 32, 1, b"b" * 32, [])
    assert not extends(3, b"", 4, b"", [])
