"""Programs from Debian, unpacked below .venv/debian without root where the machine does not have them.

`python tests/support/debian.py NAME…` fetches them ahead of tests whose time would not suffice for it.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parents[2] / ".venv" / "debian"
DEPENDENCIES = "…"
"""Among packages: and whatever they depend on that is not installed."""
PACKAGES = {
    "h2load": ("nghttp2-client", "libev4", "libc-ares2", "libjemalloc2", "libnghttp2-14"),
    "redis-server": (
        "redis-server", "redis-tools", "libatomic1", "libhiredis0.14", "libjemalloc2", "liblua5.1-0", "liblzf1",
        "lua-bitop", "lua-cjson",
    ),
    "nats-server": ("nats-server",),
    "promtool": ("prometheus",),
    "prometheus": ("prometheus",),
    "chromium": ("chromium", "chromium-common", "fonts-dejavu-core", DEPENDENCIES),
    "softhsm2-util": ("softhsm2", "libsofthsm2", "softhsm2-common"),
    "strace": ("strace", "libunwind8"),
    "rsyslogd": ("rsyslog", "rsyslog-openssl", "libestr0", "libfastjson4", "liblognorm5"),
}  # fmt: skip
"""What to fetch for a program that is not installed."""
FONTS = """\
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{home}/usr/share/fonts</dir><cachedir>{home}/var/fonts</cachedir></fontconfig>
"""
"""Fontconfig looks for its own by absolute paths; without any font, Chromium lays out no text and takes no keys."""


class AbsentError(Exception):
    """The program is not installed and cannot be fetched; the message says why."""


@dataclass(frozen=True)
class Program:
    """A program to run: its path, and the environment it needs. `root` is where its packages were unpacked."""

    path: str
    environment: dict[str, str]
    root: Path


def find(name: str) -> Program:
    """Return the program, fetching its packages once. Raises AbsentError."""
    installed = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if installed:
        return Program(installed, dict(os.environ), Path("/"))
    path = _unpacked(name)
    if path is None:
        fetch(_whole(PACKAGES[name]))
        path = _unpacked(name)
    if path is None:
        raise AbsentError(f"the packages {' '.join(PACKAGES[name])} hold no `{name}`")
    places = [each for base in ("usr/lib", "lib") for each in (HOME / base).glob("*-linux-*")]
    places += [each / "pulseaudio" for each in places]  # found by an absolute path where it is installed
    libraries = ":".join(map(str, places))
    fonts = HOME / "fonts.conf"
    fonts.write_text(FONTS.format(home=HOME))
    return Program(str(path), {**os.environ, "LD_LIBRARY_PATH": libraries, "FONTCONFIG_FILE": str(fonts)}, HOME)


def _whole(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the packages, with what they depend on where DEPENDENCIES says so."""
    if DEPENDENCIES not in packages:
        return packages
    named = [each for each in packages if each != DEPENDENCIES]
    weak = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    command = ["apt-cache", "depends", "--recurse", *(f"--no-{each}" for each in weak), *named]
    told = subprocess.run(command, capture_output=True, text=True).stdout
    wanted = {line for line in told.splitlines() if line and line[0].isalnum()}
    installed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package}\n"], capture_output=True, text=True
    ).stdout.split()
    return tuple(sorted({*named, *wanted} - set(installed) | set(named)))


def fetch(packages: tuple[str, ...]) -> None:
    """Download and unpack Debian packages into HOME. Raises AbsentError."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise AbsentError(f"no apt-get to fetch {' '.join(packages)} with")
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / ".lock").open("w") as lock, tempfile.TemporaryDirectory() as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["apt-get", "download", *packages], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise AbsentError(f"apt-get cannot download {' '.join(packages)}: {done.stderr.strip()[-200:]}")
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(HOME)], check=True, capture_output=True)


def needed(name: str) -> Program:
    """Return the program, or skip the test where it cannot be had."""
    try:
        return find(name)
    except AbsentError as error:
        import pytest  # benchmarks use this module too, without it

        pytest.skip(str(error))


def _unpacked(name: str) -> Path | None:
    found = [HOME / folder / name for folder in ("usr/bin", "usr/sbin", "bin", "sbin")]
    found.insert(0, HOME / "usr/lib" / name / name)  # where /usr/bin has but a script that names /usr/lib
    return next((each for each in found if each.exists()), None)


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        try:
            print(find(wanted).path)  # noqa: T201
        except AbsentError as error:
            print(f"no {wanted}: {error}")  # noqa: T201  its tests say so too
