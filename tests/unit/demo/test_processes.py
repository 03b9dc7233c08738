"""Children end with the one that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ext_authz.demo.processes import Processes, StartError, free_ports

PYTHON = sys.executable


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_output_goes_to_the_log_and_readiness_is_waited_for(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("echo", [PYTHON, "-c", "import time; print('up', flush=True); time.sleep(60)"])
        child.wait_until(lambda: "up" in child.tail(), 10)
    assert child.process.returncode == -signal.SIGTERM
    assert (tmp_path / "echo.log").read_text() == "up\n"


def test_a_process_that_ends_early_is_told_with_its_last_words(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("sad", [PYTHON, "-c", "import sys; sys.exit('no luck')"])
        with pytest.raises(StartError, match="sad ended with status 1 before it was ready\nno luck"):
            child.wait_until(lambda: False, 10)


def test_one_that_is_never_ready_is_given_up(tmp_path):
    def not_yet() -> bool:
        raise ConnectionRefusedError

    with Processes(tmp_path) as processes:
        child = processes.start("slow", [PYTHON, "-c", "import time; time.sleep(60)"])
        with pytest.raises(StartError, match="slow was not ready within 0 s"):
            child.wait_until(not_yet, 0.2)


def test_one_that_ignores_the_polite_signal_and_its_children_are_killed(tmp_path):
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with Processes(tmp_path) as processes:
        child = processes.start("stubborn", [PYTHON, "-c", code])
        child.wait_until(lambda: child.tail() != "", 10)
        grandchild = int(child.tail())
        assert child.stop(timeout=0.2) == -signal.SIGKILL
        wait_gone(grandchild)


def test_a_stopped_process_is_ended_too(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("frozen", [PYTHON, "-c", "import time; print(1, flush=True); time.sleep(60)"])
        child.wait_until(lambda: child.tail() != "", 10)
        child.signal(signal.SIGSTOP)
    assert child.process.returncode == -signal.SIGTERM


def test_children_of_a_killed_parent_end(tmp_path):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from ext_authz.demo.processes import Processes\n"
        f"processes = Processes(Path({str(tmp_path)!r}))\n"
        "child = processes.start('orphan', ['/bin/sleep', '60'])\n"
        "time.sleep(0.5)\n"
        "print(child.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        assert alive(orphan)
        os.kill(parent.pid, signal.SIGKILL)
        wait_gone(orphan)


def test_an_interruption_while_ending_leaves_none_behind(tmp_path):
    processes = Processes(tmp_path)
    children = [processes.start(f"c{n}", ["/bin/sleep", "60"]) for n in range(3)]
    stop = type(children[1]).stop

    def interrupted(self, timeout: float = 5.0) -> int:
        if self is children[1]:
            raise KeyboardInterrupt
        return stop(self, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(children[1]), "stop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            processes.stop()
    for child in children:
        assert child.process.wait(10) < 0


def test_free_ports_are_all_different():
    assert len(set(free_ports(5))) == 5
