"""Encrypting and decrypting in GB/s, beside the bare cipher and what `openssl speed` says, on the same core.

`python benchmarks/envelope.py [--mib 1024] [--rounds 5] [--folder DIR]`. The rounds of all rows are interleaved and
the median is printed. `memory`: the stream alone, from and to memory, per second of CPU time as `openssl speed` counts
(other load on the core would else be charged to us). `files`: from file to file with the atomic, synced output of the
command, per second of the clock (DIR's disk decides). GB are 10**9 bytes.

The ceiling is the bare cipher: one AESGCM call per 64 KiB in the library that we use. The system's openssl may be
another version: without VAES (before 3.1) it is three times slower on processors that have it, so that a share of its
figure above 100 % says nothing about us. It exits 1 where memory to memory takes less than LEAST of the bare cipher.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ext_authz.envelope.files import replacing
from ext_authz.envelope.format import DEFAULT_CHUNK, DataName
from ext_authz.envelope.keys.memory import MemoryKey
from ext_authz.envelope.stream import seal, unseal

NAME = DataName("dataset", "benchmark")
KEY = MemoryKey()
MIB = 2**20
LEAST = 0.4
"""Nobody set an aim; less than this share of the bare cipher would be our code's fault (0.66 and 0.53 were measured)."""


class Repeated:
    """`size` bytes of one block again and again."""

    def __init__(self, size):
        self.left = size
        self.block = memoryview(os.urandom(MIB))

    def readinto(self, buffer):
        count = min(len(buffer), self.left, MIB)
        buffer[:count] = self.block[:count]
        self.left -= count
        return count


class Counting:
    """Forgets what it is given."""

    def write(self, data):
        return len(data)


class Bytes:
    """A prepared envelope, read again from memory."""

    def __init__(self, data):
        self.data = memoryview(data)

    def readinto(self, buffer):
        count = min(len(buffer), len(self.data))
        buffer[:count] = self.data[:count]
        self.data = self.data[count:]
        return count


class Collecting:
    """Keeps what it is given."""

    def __init__(self):
        self.data = bytearray()

    def write(self, data):
        self.data += data
        return len(data)


def timed(work, clock):
    started = clock()
    work()
    return clock() - started


def bare(size):
    cipher, block, about = AESGCM(os.urandom(32)), os.urandom(DEFAULT_CHUNK), bytes(32)
    for number in range(size // DEFAULT_CHUNK):
        cipher.encrypt(number.to_bytes(12, "big"), block, about)


def through_files(step, source, target):
    with source.open("rb", buffering=0) as file, replacing(target) as sink:
        step(file, sink, KEY, NAME)


def openssl(core):
    """GB/s of `openssl speed` with blocks of 64 KiB, None where there is no openssl."""
    if shutil.which("openssl") is None:
        return None
    command = ["openssl", "speed", "-seconds", "1", "-bytes", "65536", "-evp", "aes-256-gcm"]
    pinned = ["taskset", "-c", str(core), *command] if shutil.which("taskset") else command
    done = subprocess.run(pinned, capture_output=True, text=True, check=True)
    return float(re.search(r"(?i)^aes-256-gcm\s+([0-9.]+)k", done.stdout, re.MULTILINE)[1]) * 1000 / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    size, small = options.mib * MIB, min(options.mib, 128) * MIB
    kept = Collecting()
    seal(Repeated(small), kept, KEY, NAME)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        plain, sealed, opened = (Path(folder) / name for name in ("plain", "sealed", "opened"))
        with plain.open("wb") as file:
            for _ in range(options.mib):
                file.write(os.urandom(MIB))
        rows = {
            "bare cipher": (size, time.process_time, lambda: bare(size)),
            "encrypt, memory": (size, time.process_time, lambda: seal(Repeated(size), Counting(), KEY, NAME)),
            "decrypt, memory": (small, time.process_time, lambda: unseal(Bytes(kept.data), Counting(), KEY, NAME)),
            "encrypt, files": (size, time.perf_counter, lambda: through_files(seal, plain, sealed)),
            "decrypt, files": (size, time.perf_counter, lambda: through_files(unseal, sealed, opened)),
        }
        rates, yardstick = {name: [] for name in rows}, []
        for _ in range(options.rounds):
            for name, (amount, clock, work) in rows.items():
                rates[name].append(amount / timed(work, clock) / 1e9)
            yardstick.append(openssl(core))
    ceiling = statistics.median(rates["bare cipher"])
    print(f"{options.mib} MiB, median of {options.rounds} interleaved rounds on core {core}, GB/s")
    print(f"library: {backend.openssl_version_text()}")
    beside = None
    if None not in yardstick:
        beside = statistics.median(yardstick)
        version = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout.split(" (")[
            0
        ]
        print(f"{'openssl speed':16} {beside:6.2f}  {version}")
    slow = []
    for name, measured in rates.items():
        middle = statistics.median(measured)
        share = f"{middle / ceiling:4.0%} of the bare cipher"
        share += f", {middle / beside:4.0%} of openssl speed" if beside else ""
        print(f"{name:16} {middle:6.2f}  {share}  ({min(measured):.2f} to {max(measured):.2f})")
        if name.endswith("memory") and middle < LEAST * ceiling:
            slow.append(f"{name}: {middle / ceiling:.0%} of the bare cipher, at least {LEAST:.0%} is due")
    if slow:
        sys.exit("\n".join(slow))


if __name__ == "__main__":
    main()
