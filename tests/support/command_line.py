"""The command line in this process: its exit status and what it wrote."""

from typing import NamedTuple

import pytest

from ext_authz.cli.app import app
from ext_authz.cli.frame import run


class Ran(NamedTuple):
    status: int
    out: str
    err: str


def ran(capfd: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run one command; what was written before is dropped."""
    capfd.readouterr()
    status = run(app, [str(each) for each in arguments])
    written = capfd.readouterr()
    return Ran(status, written.out, written.err)
