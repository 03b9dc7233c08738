"""The progress bar: late, on a terminal, and nowhere else."""

import io
import threading

import pytest

from ext_authz.cli.progress import Meter, waiting


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


def test_work_of_unknown_size_says_what_it_is_once_it_takes_long_and_leaves_nothing_behind():
    terminal, told = Terminal(), threading.Event()
    terminal.flush = told.set
    with waiting("looking", stream=terminal, patience=0.001):
        assert told.wait(30)
        assert terminal.getvalue() == "looking …"
    assert terminal.getvalue() == "looking …\r\x1b[2K"


def test_work_that_is_done_soon_or_that_nobody_watches_says_nothing():
    terminal, file = Terminal(), io.StringIO()
    with waiting("looking", stream=terminal, patience=600), waiting("looking", stream=file, patience=0):
        pass
    assert (terminal.getvalue(), file.getvalue()) == ("", "")
