"""Unix socket files: made with their final mode, never over a living server's."""

import contextlib
import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from ext_authz.server.transport import BindError

MODE = 0o660
MAX_PATH_BYTES = 107  # sun_path of unix(7), less the NUL


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Make sockets bound inside appear with mode 0660 at once; there is no moment at which others may connect."""
    before = os.umask(0o777 & ~MODE)
    try:
        yield
    finally:
        os.umask(before)


def prepare(address: str) -> None:
    """Take a stale socket file out of the way of `unix:/path`. Raises BindError when the path cannot be used."""
    path = Path(address.removeprefix("unix:"))
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise BindError(f"`{path}` is longer than the {MAX_PATH_BYTES} bytes a Unix socket path may have")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        if not path.exists():
            return
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise BindError(f"`{path}` exists and is not a socket")
        if _answers(path):
            raise BindError(f"`{path}` is in use by another process")
        path.unlink()
    except OSError as error:
        raise BindError(f"cannot listen on `{path}`: {error.strerror}") from None


def share(address: str, group: str) -> None:
    """Give the bound socket its mode and, where one is named, its group. Raises BindError."""
    path = Path(address.removeprefix("unix:"))
    try:
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(MODE)
    except KeyError:
        raise BindError(f"unknown `socket_group` `{group}`") from None
    except OSError as error:
        raise BindError(f"cannot set the mode or group of `{path}`: {error.strerror}") from None


def remove(address: str) -> None:
    """Remove the socket file of an address that is no longer served."""
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def probe(address: str) -> None:
    """Raise BindError when another process already listens there (SO_REUSEPORT would hide that)."""
    if address.startswith("unix:"):
        prepare(address)
        return
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, int(port)))
        except OSError as error:
            raise BindError(f"cannot listen on `{address}`: {error.strerror}") from None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        tried.settimeout(1)
        try:
            tried.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True
