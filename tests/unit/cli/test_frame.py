"""Exit statuses and reports, whatever the command."""

import os
import subprocess
import sys

import pytest
from command_line import ran
from projects import project

from ext_authz.cli import frame
from ext_authz.cli.app import app


def walk(command, path=()):
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


def commands():
    import typer

    return [(path, each) for path, each in walk(typer.main.get_command(app)) if path]


@pytest.mark.parametrize(
    ("path", "command"), commands(), ids=lambda each: " ".join(each) if isinstance(each, tuple) else ""
)
def test_every_command_has_help_with_an_example(path, command, capfd):
    done = ran(capfd, *path, "--help")
    assert done.status == 0
    assert "Usage: ext-authz" in done.out
    assert f"Example: `ext-authz {' '.join(path)}" in (command.help or "")


def test_the_contracts_commands_are_all_there():
    there = {" ".join(path) for path, _ in commands()}
    wanted = {
        "serve", "check", "explain", "test", "replay", "approve", "approvals", "revoke", "revocations", "quarantine",
        "quarantines", "encrypt", "decrypt", "rewrap", "demo", "token issue", "apikey new", "apikey list", "apikey revoke",
        "envoy config", "envoy lint", "schema config", "schema policy", "schema test", "schema audit",
        "audit tail", "audit cat", "audit verify", "audit prove", "audit export", "audit stats", "audit verify-proof", "audit public-key", "audit shred",
    }  # fmt: skip
    assert wanted <= there


def test_an_unknown_command_is_a_usage_error_with_a_suggestion(capfd):
    done = ran(capfd, "revok")
    assert done.status == 2
    assert done.err.startswith("no such command")
    assert "revoke" in done.err
    assert "see `ext-authz --help`" in done.err


def test_an_unknown_option_is_a_usage_error(capfd):
    assert ran(capfd, "check", "--strickt").status == 2


def test_no_command_at_all_prints_help(capfd):
    done = ran(capfd)
    assert done.status == 2
    assert "Usage: ext-authz" in done.out + done.err


def test_the_version_is_printed(capfd):
    assert ran(capfd, "--version").out.startswith("ext-authz 0.")


def test_a_missing_configuration_is_one_line_without_a_traceback(tmp_path, capfd):
    for command in (["check"], ["test"], ["approvals"], ["serve"], ["envoy", "config"], ["apikey", "list"]):
        done = ran(capfd, *command, "-c", tmp_path / "none.yaml")
        assert done.status == 2
        assert done.err == f"cannot read `{tmp_path}/none.yaml`: no such file or directory\n"
        assert done.out == ""


def test_a_bug_is_one_line_and_70(tmp_path, capfd, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("ext_authz.config.load", broken)
    monkeypatch.delenv(frame.DEBUG, raising=False)
    done = ran(capfd, "approvals", "-c", project(tmp_path))
    assert done.status == 70
    assert done.err == "internal error: RuntimeError: two lines (set EXT_AUTHZ_DEBUG=1 for where it happened)\n"
    monkeypatch.setenv(frame.DEBUG, "1")
    assert "Traceback" in ran(capfd, "approvals", "-c", project(tmp_path)).err


def test_a_folder_that_this_user_may_not_look_into_is_no_bug(tmp_path, capfd, monkeypatch):
    folder = tmp_path / "run" / "audit"
    looked = os.scandir

    def refused(path="."):
        if str(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return looked(path)

    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr("os.scandir", refused)
    done = ran(capfd, "audit", "cat", "-c", project(tmp_path))
    assert (done.status, done.err) == (2, f"cannot use `{tmp_path}/run/audit`: permission denied\n")


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    script = "import sys; from ext_authz.__main__ import main; sys.argv[1:] = ['schema', 'config']; main()"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == b""


def test_python_m_works_and_starts_without_the_heavy_modules():
    script = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from ext_authz.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 0, e.code\n"
        "heavy = {'grpc', 'cryptography', 'pydantic', 'google.protobuf', 'sqlite3', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    module = subprocess.run(
        [sys.executable, "-m", "ext_authz", "--version"],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert (module.returncode, module.stdout[:9]) == (0, "ext-authz")


def test_control_characters_of_others_never_reach_the_terminal():
    assert frame.printable("a\x1b[31mb\r\n\u202ec") == "a\\x1b[31mb\\r\\n\\u202ec"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "--workers", "x"), "invalid value for `--workers`: a whole number is wanted"),
        (("replay", "--workers", "-1"), "invalid value for `--workers`: at least 0 is wanted"),
        (("test", "--min-coverage", "101"), "invalid value for `--min-coverage`: at most 100 is wanted"),
        (("test", "--min-coverage", "x"), "invalid value for `--min-coverage`: a number is wanted"),
        (("check", "--format", "xml"), "invalid value for `--format`: `xml` is not one of `text`, `json`, `github`"),
    ],
)
def test_a_bad_value_of_an_option_is_told_in_the_words_of_the_house(capfd, arguments, said):
    done = ran(capfd, *arguments)
    assert done.status == 2
    assert done.err.splitlines()[0] == said


def test_no_option_of_any_command_leaves_its_help_without_room_at_80_columns(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    for command in (("envoy", "config"), ("bundle", "build"), ("approve",), ("access",), ("replay",), ("test",)):
        shown = ran(capfd, *command, "--help").out
        boxes = shown.partition("Options")[2]
        words = [line.rstrip("│ ").rpartition("  ")[2] for line in boxes.splitlines() if line.startswith("│")]
        assert max(map(len, words)) > 18, shown
