"""How many distinct things, in 256 bytes, mergeable: HyperLogLog.

Law: hashes are keyed, so nobody can choose inputs that collide. Source:
Flajolet, Fusy, Gandouet, Meunier, "HyperLogLog" (AofA 2007), with linear
counting for small sets. Non-goal: removing.
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

REGISTERS: Final = 256
"""Standard error 1.04 / 16 = 6.5 %; counts below about 600 come from linear counting and err less."""
_ALPHA: Final = 0.7213 / (1 + 1.079 / REGISTERS)
_BITS: Final = 56
_WORDS: Final = struct.Struct(f">{REGISTERS}H")
_LOWEST_DRAW: Final = 43
_RANKS: Final = bytes(range(_BITS + 2))
_STEP: Final = 0x9E3779B97F4A7C15
_MASK: Final = 2**64 - 1
_SHARE: Final = tuple(2.0**-rank for rank in range(_BITS + 2))
_LINEAR: Final = (0, *(round(REGISTERS * math.log(REGISTERS / empty)) for empty in range(1, REGISTERS + 1)))
"""The estimate by linear counting, by the number of empty registers."""


def digest(value: str, key: bytes) -> int:
    """Return a keyed 64-bit hash. `key` is up to 64 bytes and secret: who knows it can make collisions."""
    hasher = _keyed(key).copy()
    hasher.update(value.encode("utf-8", "surrogatepass"))
    return int.from_bytes(hasher.digest())


@lru_cache(maxsize=8)
def _keyed(key: bytes) -> "hashlib.blake2b":
    # A copy of it costs half of what taking the key in anew does.
    return hashlib.blake2b(digest_size=8, key=key)


def registers_of(packed: object) -> bytes:
    """Return the registers that `Distinct.pack` wrote; raises ValueError."""
    if not isinstance(packed, str) or len(packed) != 2 * REGISTERS:
        raise ValueError("not the registers of a sketch")
    registers = bytes.fromhex(packed)
    if len(registers) != REGISTERS or registers.translate(None, _RANKS):
        raise ValueError("not the registers of a sketch")
    return registers


def merged(sketches: Sequence[bytes]) -> "Distinct":
    """Return the sketch of all sets together, of their registers: many cost little more than one."""
    return Distinct(bytes(map(max, *sketches)) if len(sketches) > 1 else b"".join(sketches))


def registers_of_many(hashed: int, count: int) -> bytes:
    """Return registers as if `count` things had been added, the same ones for the same hash, at one cost for any count.

    Exact, but for the rounding of _draws, for a Poisson number of things: those in one register that rank above r are
    Poisson with count / 256 / 2**r.
    """
    drawn = _WORDS.unpack(hashlib.shake_128(hashed.to_bytes(8)).digest(2 * REGISTERS))
    return bytes(map(_draws().__getitem__, drawn)).translate(_ranks(round(48 * math.log2(count / REGISTERS))))


@lru_cache(maxsize=1)
def _draws() -> bytes:
    """Return for each 16-bit word, as a uniform number, the binary logarithm of 1 / Exp(1) in twelfths, from 0 on."""
    return bytes([math.floor(-12 * math.log2(-math.log((word + 0.5) / 65536))) + _LOWEST_DRAW for word in range(65536)])


@lru_cache(maxsize=1024)
def _ranks(share: int) -> bytes:
    """Return the rank for each of _draws, where things are 2**(share / 48) to a register."""
    exact = [(share + 0.5) / 48 + (draw - _LOWEST_DRAW + 0.5) / 12 for draw in range(256)]
    return bytes([min(max(math.ceil(each), 0), _BITS + 1) for each in exact])


def several(hashed: int, count: int) -> list[int]:
    """Return `count` hashes made of one: the inputs of a batch. Source: the finalizer of SplitMix64."""
    made = []
    for _ in range(count):
        made.append(hashed)
        hashed = (hashed + _STEP) * 0xBF58476D1CE4E5B9 & _MASK
        hashed ^= hashed >> 31
    return made


class Distinct:
    """A set of which only the size can be asked, ± 6.5 % (one standard deviation)."""

    __slots__ = ("_empty", "_registers", "_sum")

    def __init__(self, registers: bytes = b"") -> None:
        """Take the registers of `pack`, or none; raises ValueError when there are not 256 of at most 57."""
        if not registers:
            self._registers = bytearray(REGISTERS)
            self._empty, self._sum = REGISTERS, float(REGISTERS)
            return
        if len(registers) != REGISTERS or max(registers) > _BITS + 1:
            raise ValueError("not the registers of a sketch")
        self._registers = bytearray(registers)
        self._recount()

    def _recount(self) -> None:
        self._empty = self._registers.count(0)
        self._sum = math.fsum(map(_SHARE.__getitem__, self._registers))

    def add(self, hashed: int) -> bool:
        """Add a thing by its 64-bit hash; returns whether that changed anything."""
        place = hashed & (REGISTERS - 1)
        rank = _BITS + 1 - (hashed >> 8).bit_length()
        was = self._registers[place]
        if rank <= was:
            return False
        self._registers[place] = rank
        self._empty -= was == 0
        self._sum += _SHARE[rank] - _SHARE[was]
        return True

    def merge(self, other: "Distinct") -> None:
        """Become the sketch of both sets together."""
        self.merge_registers(other.registers)

    def merge_registers(self, registers: bytes) -> None:
        """Take in a set by its registers."""
        both = bytearray(map(max, self._registers, registers))
        if both != self._registers:
            self._registers = both
            self._recount()

    @property
    def registers(self) -> bytes:
        """The registers, REGISTERS bytes."""
        return bytes(self._registers)

    def __len__(self) -> int:
        """Return the estimate."""
        estimate = _ALPHA * REGISTERS * REGISTERS / self._sum
        if estimate <= 2.5 * REGISTERS and self._empty:
            return _LINEAR[self._empty]
        return round(estimate)

    def pack(self) -> str:
        """Return it as text."""
        return self._registers.hex()

    @classmethod
    def unpack(cls, packed: object) -> "Distinct":
        """Return what `pack` wrote; raises ValueError."""
        if not isinstance(packed, str):
            raise ValueError("not the registers of a sketch")  # noqa: TRY004  one kind of error for a damaged state
        return cls(bytes.fromhex(packed))
