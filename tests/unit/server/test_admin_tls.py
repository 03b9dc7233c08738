"""TLS of the admin listener: what it speaks, whom it believes, what a stranger can do to it, and new files while it runs."""

import contextlib
import datetime as dt
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from ext_authz.demo import pki
from ext_authz.demo.pki import Authority, Pair
from ext_authz.server import admin, admin_tls
from ext_authz.server.admin import AdminServer
from ext_authz.server.admin_pages import AdminPages, AdminReply, AdminRequest
from ext_authz.server.transport import BindError, TlsFiles

TOKEN = "correct-horse-battery-staple-and-more"
OPERATOR = "spiffe://ml.example/ns/ops/sa/operator"
METHODS = {"authorization": f"Bearer {TOKEN}"}


def config(_: AdminRequest) -> AdminReply:
    return AdminReply(b"{}")


def pages(**changes) -> AdminPages:
    defaults = {
        "ready": lambda: "",
        "metrics": lambda _: b"ext_authz_checks_total 1\n",
        "gated": {("GET", "/config"): config, ("GET", "/"): config},
        "token": lambda: TOKEN,
        "login": lambda status: AdminReply(b"login", status),
    }
    return AdminPages(**(defaults | changes))


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def serve(authority):
    running = []

    def start(listen="127.0.0.1:0", *, client_ca=None, client_names=(), pair: Pair | None = None, **changes):
        made = pair or authority.server("admin", hosts=("ops.example", "*.admin.example"))
        files = TlsFiles(made.certificate, made.private_key, client_ca, client_names)
        running.append(AdminServer(listen, pages(**changes), files))
        running[-1].start()
        return running[-1]

    yield start
    for server in running:
        server.stop()


def port_of(server: AdminServer) -> int:
    return int(server.address.rpartition(":")[2])


def context_of(authority: Authority, shown: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.certificate)
    context.check_hostname = False
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.private_key)
    return context


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()


def ask(server, context, path, method="GET", body=b"", *, host="", **headers) -> Answer:
    port = port_of(server)
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    shown["Host"] = host or f"127.0.0.1:{port}"
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    with contextlib.closing(connection):
        connection.request(method, path, body, shown)
        return Answer(connection.getresponse())


def test_it_speaks_nothing_older_or_weaker_than_it_should(serve, authority):
    server = serve()
    address = ("127.0.0.1", port_of(server))
    with socket.create_connection(address, 20) as plain, context_of(authority).wrap_socket(plain) as connection:
        assert connection.version() == "TLSv1.3"
    older = context_of(authority)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(address, 20) as plain, older.wrap_socket(plain) as connection:
        name, version, bits = connection.cipher()
        assert version == "TLSv1.2"
        assert bits >= 128
        assert name.startswith("ECDHE-")
        assert "GCM" in name or "CHACHA20" in name
    for ciphers in ("ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"):
        weak = context_of(authority)
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers(ciphers)
        with socket.create_connection(address, 20) as plain, pytest.raises(ssl.SSLError):
            weak.wrap_socket(plain)
    assert admin_tls.AdminTls(server._server.tls._files)._context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_beyond_loopback_it_answers_all_to_whoever_has_the_token(serve, authority):
    server = serve("0.0.0.0:0")
    context = context_of(authority)
    assert ask(server, context, "/config").status == 401
    assert ask(server, context, "/config", **METHODS).status == 200
    assert ask(serve("0.0.0.0:0", token=lambda: ""), context, "/config", **METHODS).status == 404


def test_a_browser_is_told_to_come_back_with_tls_only_and_to_keep_the_cookie_for_it(serve, authority):
    server = serve()
    context, here = context_of(authority), f"https://127.0.0.1:{port_of(server)}"
    form = urllib.parse.urlencode({"token": TOKEN}).encode()
    answer = ask(server, context, "/login", "POST", form, origin=here, sec_fetch_site="same-origin")
    assert answer.status == 303
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert cookie.startswith(f"__Host-ext_authz_admin_{port_of(server)}=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert ask(server, context, "/config", cookie=cookie).status == 200
    planted = cookie.removeprefix("__Host-")
    assert ask(server, context, "/config", cookie=planted).status == 401, "a name that a page in the clear could set"
    in_the_clear = ask(server, context, "/login", "POST", form, origin=here.replace("https", "http"))
    assert in_the_clear.status == 403, "a form of a page that came in the clear, whoever wrote it"
    assert ask(server, context, "/livez").headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("ops.example:PORT", 200),
        ("OPS.example:PORT", 200),
        ("eu.admin.example:PORT", 200),
        ("127.0.0.1:PORT", 200),
        ("[::1]:PORT", 200),  # an address of the certificate
        ("a.b.admin.example:PORT", 421),
        ("admin.example:PORT", 421),
        ("evil.example:PORT", 421),
        ("ops.example:1", 421),
        ("ops.example", 421),
        ("127.0.0.2:PORT", 421),
    ],
)
def test_its_names_are_those_of_its_certificate(serve, authority, host, status):
    server = serve()
    answer = ask(server, context_of(authority), "/livez", host=host.replace("PORT", str(port_of(server))))
    assert answer.status == status


@pytest.mark.parametrize("sent", [b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00", b"\n", b"PRI * HTTP/2.0\r\n"])
def test_whoever_speaks_in_the_clear_is_told_so(serve, sent):
    server = serve()
    with socket.create_connection(("127.0.0.1", port_of(server)), 20) as connection:
        connection.sendall(sent)
        told = b""
        while got := connection.recv(4096):
            told += got
    assert told.startswith(b"HTTP/1.1 400 ")
    head, _, body = told.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert "https" in json.loads(body)["error"]["message"]


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize("sent", [b"", b"\x16", HELLO])
def test_strangers_who_stall_their_handshakes_keep_no_probe_waiting(serve, authority, sent):
    server = serve()
    context, stopping = context_of(authority), threading.Event()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port_of(server)), 20)) for _ in range(60)]

        def drip() -> None:
            for each in held:
                with contextlib.suppress(OSError):
                    each.sendall(sent)
            while not stopping.wait(0.05):
                for each in held if sent else ():
                    with contextlib.suppress(OSError):
                        each.sendall(b"\0")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for _ in range(3):
                assert ask(server, context, "/livez").status == 200
        finally:
            stopping.set()
            dripping.join()


def test_a_handshake_has_its_time_however_it_drips_in(serve, monkeypatch):
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 0.5)
    server = serve()
    with socket.create_connection(("127.0.0.1", port_of(server)), 20) as connection:
        connection.settimeout(0.05)
        connection.sendall(HELLO)
        began = time.monotonic()
        while time.monotonic() - began < 20:
            with contextlib.suppress(TimeoutError):
                try:
                    if not connection.recv(1):
                        break
                    connection.sendall(b"\0")
                except ConnectionError:
                    break
                continue
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"\0")
        else:
            pytest.fail("it was never cut off")


def test_an_answer_is_to_be_taken_within_its_time_here_too(serve, authority, monkeypatch):
    server = serve(metrics=lambda _: b"x" * 24_000_000)
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        plain.settimeout(20)
        plain.connect(("127.0.0.1", port_of(server)))
        with context_of(authority).wrap_socket(plain) as held:
            monkeypatch.setattr(admin, "REQUEST_SECONDS", 1.0)
            held.sendall(f"GET /metrics HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
            taken = 0
            with contextlib.suppress(OSError):
                while got := len(held.recv(16384)):
                    taken += got
                    time.sleep(0.01)
    assert taken < 24_000_000


def test_a_connection_that_has_to_make_room_never_goes_on_in_the_clear(serve, authority, monkeypatch):
    """SSLSocket.shutdown forgets TLS first: what its thread sends between that and the end would be readable."""
    forgot = []
    monkeypatch.setattr(ssl.SSLSocket, "shutdown", lambda *_: forgot.append(1))
    server = serve()
    with (
        socket.create_connection(("127.0.0.1", port_of(server)), 20) as plain,
        context_of(authority).wrap_socket(plain) as client,
    ):
        assert server._server._evict()
        with contextlib.suppress(OSError):
            assert client.recv(1) == b""
    assert not forgot


def expired(authority: Authority, monkeypatch) -> Pair:
    with monkeypatch.context() as changed:
        changed.setattr(pki, "LIFETIME", dt.timedelta(minutes=-5))
        return authority.client("expired", OPERATOR)


def test_with_a_client_ca_only_its_certificates_get_more_than_the_open_paths(serve, authority, tmp_path, monkeypatch):
    server = serve(client_ca=authority.certificate)
    nobody, operator = context_of(authority), context_of(authority, authority.client("operator", OPERATOR))
    assert ask(server, nobody, "/livez").status == 200, "probes have no certificate"
    assert ask(server, nobody, "/metrics").status == 200
    assert ask(server, nobody, "/config", **METHODS).status == 404, "the token alone is not enough"
    assert ask(server, nobody, "/login", "POST", b"token=" + TOKEN.encode()).status == 404
    assert ask(server, operator, "/config").status == 401, "nor is the certificate"
    assert ask(server, operator, "/config", **METHODS).status == 200
    stranger = Authority(tmp_path / "strangers").client("operator", OPERATOR)
    for shown in (stranger, expired(authority, monkeypatch), authority.server("server")):
        with pytest.raises(OSError):
            ask(server, context_of(authority, shown), "/livez")


def test_with_client_names_only_those_certificates_do(serve, authority):
    server = serve(client_ca=authority.certificate, client_names=(OPERATOR,))
    operator, other = (
        context_of(authority, authority.client(name, f"spiffe://ml.example/ns/ops/sa/{name}"))
        for name in ("operator", "other")
    )
    assert ask(server, operator, "/config", **METHODS).status == 200
    assert ask(server, other, "/config", **METHODS).status == 404
    assert ask(server, other, "/livez").status == 200


def shown_by(server: AdminServer) -> bytes:
    return ssl.get_server_certificate(("127.0.0.1", port_of(server)), timeout=20).strip().encode()


def replace(pair: Pair, certificate: bytes | None = None, key: bytes | None = None) -> None:
    for path, data in ((pair.certificate, certificate), (pair.private_key, key)):
        if data is not None:
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.replace(path)


def test_new_files_are_served_at_once_and_broken_ones_leave_the_last_good_and_are_told_of(
    serve, authority, capfd, tmp_path
):
    pair = authority.server("admin")
    server = serve(pair=pair)
    first = pair.certificate.read_bytes().strip()
    assert shown_by(server) == first
    other = authority.server("other")
    replace(pair, certificate=other.certificate.read_bytes())  # its key is not there yet
    for _ in range(3):
        assert shown_by(server) == first
    replace(pair, key=other.private_key.read_bytes())
    assert shown_by(server) == other.certificate.read_bytes().strip()
    assert ask(server, context_of(authority), "/livez").status == 200
    replace(pair, certificate=b"nothing")
    assert shown_by(server) == other.certificate.read_bytes().strip()
    pair.certificate.unlink()
    assert shown_by(server) == other.certificate.read_bytes().strip()
    replace(pair, certificate=other.certificate.read_bytes())
    assert shown_by(server) == other.certificate.read_bytes().strip()
    told = [line for line in capfd.readouterr().err.splitlines() if "`admin.tls` cannot be used" in line]
    assert len(told) == 3, "once for each broken state"
    assert all("the last good one stays" in line for line in told)


def test_a_client_ca_that_is_taken_away_is_believed_no_longer(serve, authority, tmp_path):
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(authority.certificate.read_bytes())
    server = serve(client_ca=trusted)
    operator = context_of(authority, authority.client("operator", OPERATOR))
    assert ask(server, operator, "/config", **METHODS).status == 200
    trusted.write_bytes(Authority(tmp_path / "next").certificate.read_bytes())
    with pytest.raises(OSError):
        ask(server, operator, "/config", **METHODS)


def test_files_that_cannot_be_used_are_said_so_at_the_start(authority, tmp_path):
    good, other = authority.server("admin"), authority.server("other")
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(good.private_key.read_bytes(), None)
    best = serialization.BestAvailableEncryption(b"password")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, best))
    for certificate, private_key, client_ca in (
        (good.certificate, other.private_key, None),
        (good.certificate, locked, None),  # and nobody is asked for the password
        (Path("/nowhere"), good.private_key, None),
        (good.certificate, good.private_key, good.private_key),
    ):
        with pytest.raises(BindError, match=r"admin\.tls"):
            AdminServer("127.0.0.1:0", pages(), TlsFiles(certificate, private_key, client_ca, ()))
