import os
import socket
import stat

import pytest

from ext_authz.server.transport import BindError, is_local, sockets


def test_a_stale_socket_is_taken_away_and_a_living_one_is_not(tmp_path):
    path = tmp_path / "a.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with pytest.raises(BindError, match="in use"):
        sockets.prepare(f"unix:{path}")
    listener.close()
    sockets.prepare(f"unix:{path}")
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(BindError, match="not a socket"):
        sockets.prepare(f"unix:{tmp_path}/notes")
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_socket_appears_with_its_final_mode(tmp_path):
    path = tmp_path / "a.sock"
    with sockets.private_umask(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    before = os.umask(0)
    os.umask(before)
    assert before != 0o117


def test_a_path_too_long_for_the_kernel_is_said_to_be_so(tmp_path):
    with pytest.raises(BindError, match="107 bytes"):
        sockets.prepare(f"unix:{tmp_path}/{'x' * 120}")


def test_an_unknown_group_is_named(tmp_path):
    (tmp_path / "s").touch()
    with pytest.raises(BindError, match="`nobody-has-this-group`"):
        sockets.share(f"unix:{tmp_path}/s", "nobody-has-this-group")


def test_a_tcp_port_in_use_is_noticed_even_where_it_could_be_shared():
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(BindError, match="in use"):
            sockets.probe(f"127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("unix:/run/a.sock", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_local(address, local):
    assert is_local(address) is local
