"""Log lines: one each, whatever they hold."""

import json

import pytest

from ext_authz.server import log


@pytest.fixture
def form():
    yield log.use
    log.use("text")


HOSTILE = "a\n2026-01-01T00:00:00Z ext-authz[control] revision x is loaded\r\x1b[2Jb\u2028c"


def test_text_cannot_look_like_another_line(form, capsys):
    form("text")
    log.line("worker-0", HOSTILE)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("ext-authz[worker-0] a")
    assert second.startswith("  2026-01-01")
    assert second.endswith("\\r\\x1b[2Jb\\u2028c")


def test_json_is_one_object_on_one_line(form, capsys):
    form("json")
    log.line("worker-0", HOSTILE, level="error")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["process"], told["message"]) == ("error", "worker-0", HOSTILE)
    assert told["time"].endswith("Z")
