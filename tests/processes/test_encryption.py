"""Encryption as processes: streams, interruptions at any moment, memory."""

import hashlib
import os
import signal
import subprocess
import sys

import pytest

NAMED = ("--data-id", "clicks", "--data-type", "dataset", "--key", "file:k")
PROGRAM = (sys.executable, "-m", "ext_authz")
MIB = 2**20
# The peak of the child alone: a forked child starts with its parent's peak, so a small parent starts it.
MEASURE = """\
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@pytest.fixture
def folder(tmp_path):
    subprocess.run([*PROGRAM, "keyring", "new", "k"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def start(folder, *arguments, **options):
    return subprocess.Popen([*PROGRAM, *arguments, *NAMED], cwd=folder, stderr=subprocess.PIPE, **options)


def test_a_stream_goes_there_and_back_through_pipes(folder):
    plain = os.urandom(3 * MIB + 1)
    there = subprocess.run(
        [*PROGRAM, "encrypt", "-", "-o", "-", *NAMED], cwd=folder, input=plain, capture_output=True, check=True
    )
    back = subprocess.run(
        [*PROGRAM, "decrypt", "-", "-o", "-", *NAMED], cwd=folder, input=there.stdout, capture_output=True, check=True
    )
    assert back.stdout == plain
    assert (there.stderr, back.stderr) == (b"", b"")


def test_of_an_altered_stream_only_what_was_authenticated_comes_out(folder):
    plain = os.urandom(3 * MIB)
    run = {"cwd": folder, "capture_output": True}
    sealed = bytearray(subprocess.run([*PROGRAM, "encrypt", "-", "-o", "-", *NAMED], input=plain, **run).stdout)
    sealed[12_288 + 2 * MIB] ^= 1
    done = subprocess.run([*PROGRAM, "decrypt", "-", "-o", "-", *NAMED], input=bytes(sealed), **run)
    assert done.returncode == 1
    assert 0 < len(done.stdout) < 2 * MIB
    assert len(done.stdout) % 65_536 == 0
    assert plain.startswith(done.stdout)
    assert done.stderr.startswith(b"stdin: was altered at or after byte ")


def test_a_reader_that_leaves_is_no_success(folder):
    reading, writing = os.pipe()
    process = start(folder, "encrypt", "/dev/zero", "-o", "-", stdout=writing)
    os.close(writing)
    os.read(reading, 100_000)
    os.close(reading)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (2, b"whoever read the output left before its end\n")


@pytest.mark.parametrize("command", ["encrypt", "decrypt"])
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda kill: kill.name)
@pytest.mark.parametrize("before", [b"old", None], ids=["over a file", "new"])
def test_an_interruption_leaves_the_old_output_or_none(folder, command, kill, before):
    plain = bytes(8 * MIB)
    given = plain
    if command == "decrypt":
        given = subprocess.run(
            [*PROGRAM, "encrypt", "-", "-o", "-", *NAMED], cwd=folder, input=plain, capture_output=True, check=True
        ).stdout
    if before is not None:
        (folder / "out").write_bytes(before)
    process = start(folder, command, "-", "-o", "out", stdin=subprocess.PIPE)
    process.stdin.write(given[: 6 * MIB])  # a pipe holds far less: it is in the middle of its work
    process.stdin.flush()
    process.send_signal(kill)
    process.communicate(timeout=60)
    assert process.returncode == (130 if kill is signal.SIGINT else -kill)
    assert sorted(os.listdir(folder)) == (["k", "out"] if before is not None else ["k"])
    if before is not None:
        assert (folder / "out").read_bytes() == before


def test_a_full_disk_leaves_the_old_output(folder):
    (folder / "out").write_bytes(b"old")
    (folder / "plain").write_bytes(bytes(4 * MIB))
    limited = "import os, resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limited += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB}, {MIB})); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", limited, *PROGRAM, "encrypt", "plain", "-o", "out", *NAMED],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "cannot write `out`: file too large\n")
    assert (folder / "out").read_bytes() == b"old"
    assert sorted(os.listdir(folder)) == ["k", "out", "plain"]


def peak(folder, *arguments):
    """The most memory that a command had resident, in MiB."""
    command = [sys.executable, "-c", MEASURE, *PROGRAM, *arguments, *NAMED]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


SIZES = [64, 1024] if os.environ.get("EXT_AUTHZ_TEST_LARGE") == "1" else [64]  # MiB


@pytest.mark.parametrize("mib", SIZES)
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_file(folder, mib):
    block = os.urandom(MIB)
    expected = hashlib.sha256()
    with (folder / "plain").open("wb") as file:
        for _ in range(mib):
            file.write(block)
            expected.update(block)
    (folder / "small").write_bytes(block)
    small = peak(folder, "encrypt", "small", "-o", "small.enc")
    there = peak(folder, "encrypt", "plain", "-o", "sealed")
    back = peak(folder, "decrypt", "sealed", "-o", "out")
    with (folder / "out").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == expected.digest()
    assert max(there, back) < 256
    assert max(there, back) < small + 8
