"""The progress bar: late, on a terminal, and nowhere else."""

import io

import pytest

from ext_authz.cli.progress import Meter


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(stream, seconds, size=100):
    now = iter([0.0, *seconds])
    with Meter("encrypting a[b]", size, stream=stream, clock=lambda: next(now)) as meter:
        for _ in seconds:
            meter.moved(10)


def test_short_work_shows_nothing():
    terminal = Terminal()
    work(terminal, [0.5, 1.0, 1.9])
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("size", [100, None])
def test_long_work_shows_what_is_done(size):
    terminal = Terminal()
    work(terminal, [1.0, 2.1, 3.0], size)
    assert "encrypting a[b]" in terminal.getvalue()


def test_what_is_no_terminal_is_left_alone():
    file = io.StringIO()
    work(file, [1.0, 5.0, 9.0])
    assert file.getvalue() == ""
