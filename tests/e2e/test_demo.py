"""The demo: its table is right, and nothing of it outlives it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def of(directory: Path) -> list[str]:
    """Return the command lines of processes that have to do with `directory`."""
    found = []
    for task in Path("/proc").glob("[0-9]*"):
        try:
            line = (task / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            directory_of = str((task / "cwd").readlink())
        except OSError:
            continue
        if int(task.name) != os.getpid() and (str(directory) in line or directory_of.startswith(str(directory))):
            found.append(line)
    return found


def start(directory: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ext_authz", "demo", "--dir", str(directory), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def gone(directory: Path, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while left := of(directory):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_the_demo_ends_as_it_says_twice_in_the_same_place(tmp_path):
    directory = tmp_path / "demo"
    for _ in range(2):
        started = time.monotonic()
        with start(directory) as demo:
            output, _ = demo.communicate(timeout=100)
        assert demo.returncode == 0, output
        assert "✗" not in output
        assert "ended as they should" in output.splitlines()[-1]
        gone(directory)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("number", "after", "status"),
    [
        (signal.SIGINT, "Ctrl-C ends everything", 0),
        (signal.SIGTERM, "Envoy with mutual TLS", 0),
        (signal.SIGKILL, "two models trained", -signal.SIGKILL),
    ],
)
def test_nothing_outlives_a_demo_that_is_ended(number, after, status, tmp_path):
    directory = tmp_path / "demo"
    with start(directory, "--keep") as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if after in line:
                break
        assert any("envoy" in line for line in of(directory))
        demo.send_signal(number)
        demo.communicate(timeout=30)
    assert demo.returncode == status
    gone(directory)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with start(tmp_path) as demo:
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 2
    assert "not the demo's" in output
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]
