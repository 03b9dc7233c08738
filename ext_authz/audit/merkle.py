"""Merkle trees of RFC 6962 (RFC 9162 section 2.1) over SHA-256, without keeping the leaves.

Law: pure arithmetic and hashing; a proof that verifies means what the RFC says it means, whoever made it.
Non-goal: storage, and signatures (checkpoint.py).
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
MAX_SIZE: Final = 2**63 - 1

_sha256 = hashlib.sha256
_LEAF: Final = _sha256(b"\0")


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one leaf: SHA-256(0x00 || data)."""
    # Copied, which is cheaper than to begin again and to put the byte before the data.
    made = _LEAF.copy()
    made.update(data)
    return made.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right)."""
    return _sha256(b"\1" + left + right).digest()


class Range:
    """The leaves from `begin` up to `end` of some tree, as the fewest perfect subtrees that cover them.

    At most 2 log2(n) hashes. One that begins at 0 is a whole tree and has a root; any other can be joined to what
    stands on its left, so that parts of a log can be hashed apart from each other.
    """

    __slots__ = ("_nodes", "begin", "end")

    def __init__(self, begin: int = 0, end: int | None = None, nodes: Sequence[bytes] = ()) -> None:
        """Take up a range where `nodes` left it; raises ValueError where they are not what it has."""
        self.begin = begin
        self.end = begin if end is None else end
        if not 0 <= self.begin <= self.end <= MAX_SIZE:
            raise ValueError("not a range of leaves")
        if len(nodes) != len(subtrees(self.begin, self.end)) or any(len(each) != HASH_BYTES for each in nodes):
            raise ValueError("not the hashes that the range has")
        self._nodes = list(nodes)

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The subtrees' roots from left to right, as `subtrees` orders them."""
        return tuple(self._nodes)

    def copy(self) -> "Range":
        """Return one that goes its own way."""
        return Range(self.begin, self.end, self._nodes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf, given as its hash."""
        self._push(leaf, self.end, 0)
        self.end += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves, given as their hashes."""
        nodes, begin, end, sha = self._nodes, self.begin, self.end, _sha256
        for leaf in leaves:
            # As `_push`; this loop is most of what verifying costs.
            node, index, level = leaf, end, 0
            while index & 1 and (index - 1) << level >= begin:
                node = sha(b"\1" + nodes.pop() + node).digest()
                index >>= 1
                level += 1
            nodes.append(node)
            end += 1
        self.end = end

    def join(self, right: "Range") -> None:
        """Add the range that begins where this one ends. Raises ValueError where it does not."""
        if right.begin != self.end:
            raise ValueError("the ranges do not meet")
        for (start, level), node in zip(subtrees(right.begin, right.end), right.nodes, strict=True):
            self._push(node, start >> level, level)
        self.end = right.end

    def root(self) -> bytes:
        """Return the root of the tree of `end` leaves. Raises ValueError for a range that begins later than at 0."""
        if self.begin:
            raise ValueError("a part of a tree has no root")
        if not self._nodes:
            return EMPTY_ROOT
        root = self._nodes[-1]
        for node in reversed(self._nodes[:-1]):
            root = node_hash(node, root)
        return root

    def _push(self, node: bytes, index: int, level: int) -> None:
        """Add the subtree `index` of those 2**level leaves wide; a right one completes its parent."""
        nodes, begin, sha = self._nodes, self.begin, _sha256
        while index & 1 and (index - 1) << level >= begin:
            node = sha(b"\1" + nodes.pop() + node).digest()
            index >>= 1
            level += 1
        nodes.append(node)


def subtrees(begin: int, end: int) -> list[tuple[int, int]]:
    """Return the fewest perfect, aligned subtrees that cover the leaves: (first leaf, level), left to right."""
    found = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        if begin:
            level = min(level, (begin & -begin).bit_length() - 1)
        found.append((begin, level))
        begin += 1 << level
    return found


def inclusion_parts(index: int, size: int) -> list[tuple[int, int]]:
    """Return whose roots prove that leaf `index` is in a tree of `size`: leaf ranges, the leaf's sibling first.

    RFC 9162 2.1.3.1. Raises ValueError where the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError("the tree has no such leaf")
    parts = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            parts.append((middle, end))
            end = middle
        else:
            parts.append((begin, middle))
            begin = middle
    return parts[::-1]


def consistency_parts(old: int, new: int) -> list[tuple[int, int]]:
    """Return whose roots prove that a tree of `new` leaves begins with one of `old`: leaf ranges, in the proof's order.

    RFC 9162 2.1.4.1. Raises ValueError unless 0 < old <= new.
    """
    if not 0 < old <= new:
        raise ValueError("the old tree is empty, or larger than the new one")
    parts = []
    begin, end, whole = 0, new, True
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            parts.append((middle, end))
            end = middle
        else:
            parts.append((begin, middle))
            begin, whole = middle, False
    if not whole:
        parts.append((begin, end))
    return parts[::-1]


class Proof:
    """Collects the roots of disjoint leaf ranges while the leaves pass by once, in order.

    `before` is the tree of the leaves that will not pass by any more; none of the parts may split its subtrees, which
    those of an inclusion proof for a later leaf never do.
    """

    def __init__(self, parts: Sequence[tuple[int, int]], before: Range | None = None) -> None:
        known = before or Range()
        self._parts = [(begin, end, _begun(known, begin, end)) for begin, end in parts]
        self._waiting = sorted(self._parts, key=lambda part: part[0], reverse=True)

    def add(self, index: int, leaf: bytes) -> None:
        """Take the leaf `index`, given as its hash; it matters only where a part holds it."""
        while self._waiting and self._waiting[-1][1] <= index:
            self._waiting.pop()
        if self._waiting and self._waiting[-1][0] <= index:
            self._waiting[-1][2].append(leaf)

    def hashes(self) -> list[bytes]:
        """Return the proof. Raises ValueError where leaves were missing."""
        for begin, end, tree in self._parts:
            if tree.end != end - begin:
                raise ValueError(f"the leaves {begin + tree.end} to {end - 1} are missing")
        return [tree.root() for _, _, tree in self._parts]


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows the leaf (its hash) to be number `index` of the tree (RFC 9162 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, computed = index, size - 1, leaf
    for each in proof:
        if last == 0 or len(each) != HASH_BYTES:
            return False
        if at & 1 or at == last:
            computed = node_hash(each, computed)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, each)
        at >>= 1
        last >>= 1
    return last == 0 and computed == root


def extends(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows the tree of `new` leaves to begin with the one of `old` (RFC 9162 2.1.4.2)."""
    if not 0 < old <= new or any(len(each) != HASH_BYTES for each in proof):
        return False
    if old == new:
        return not proof and old_root == new_root
    # A perfect old tree is itself the first hash, and is left out of the proof.
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at >>= 1
        last >>= 1
    first = second = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first = node_hash(each, first)
            second = node_hash(each, second)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            second = node_hash(second, each)
        at >>= 1
        last >>= 1
    return last == 0 and first == old_root and second == new_root


def _begun(known: Range, begin: int, end: int) -> Range:
    """Return the leaves from `begin` up to `end` as a tree of their own, as far as `known` has them."""
    if begin >= known.end:
        return Range()
    inside = [
        node
        for (start, level), node in zip(subtrees(0, known.end), known.nodes, strict=True)
        if begin <= start and start + (1 << level) <= end
    ]
    return Range(0, min(end, known.end) - begin, inside)


def _split(size: int) -> int:
    """Return the largest power of two below `size`, which is over 1."""
    return 1 << (size - 1).bit_length() - 1
