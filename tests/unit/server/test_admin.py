"""The admin listener: who may see what, and how little a stranger can do to it."""

import contextlib
import json
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPResponse

import pytest

from ext_authz.server import admin, admin_sockets
from ext_authz.server.admin import AdminServer
from ext_authz.server.admin_pages import AdminPages, AdminReply, AdminRequest
from ext_authz.server.transport import BindError

TOKEN = "correct-horse-battery-staple"


class Answer:
    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


def echo(request: AdminRequest) -> AdminReply:
    told = {"method": request.method, "query": request.query, "body": request.body.decode()}
    return AdminReply(json.dumps(told).encode(), headers=(("content-security-policy", "default-src 'self'"),))


def broken(_: AdminRequest) -> AdminReply:
    raise RuntimeError("a bug")


def pages(**changes) -> AdminPages:
    defaults = {
        "ready": lambda: "",
        "metrics": lambda _: b"ext_authz_checks_total 1\n",
        "gated": {("GET", "/config"): echo, ("POST", "/explain"): echo, ("GET", "/broken"): broken},
        "token": lambda: TOKEN,
    }
    return AdminPages(**(defaults | changes))


@pytest.fixture
def serve() -> Iterator[Callable[..., AdminServer]]:
    running: list[AdminServer] = []

    def start(listen: str = "127.0.0.1:0", **changes) -> AdminServer:
        server = AdminServer(listen, pages(**changes))
        running.append(server)
        server.start()
        return server

    yield start
    for server in running:
        server.stop()


def connect(server: AdminServer) -> socket.socket:
    if server.address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(20)
        connection.connect(server.address.removeprefix("unix:"))
        return connection
    host, _, port = server.address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
    return socket.create_connection((host, int(port)), 20)


def send(server: AdminServer, data: bytes, method: str = "GET") -> Answer:
    with connect(server) as connection:
        connection.sendall(data)
        response = HTTPResponse(connection, method=method)
        response.begin()
        try:
            return Answer(response)
        finally:
            response.close()


def ask(
    server: AdminServer, path: str, method: str = "GET", *, host: str | None = None, body: bytes = b"", **headers: str
) -> Answer:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {server.address if host is None else host}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return send(server, "\r\n".join([*lines, "", ""]).encode("latin-1") + body, method)


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_the_open_pages_answer_everybody(serve):
    server = serve(jwks=lambda: b'{"keys":[1]}')
    assert ask(server, "/livez").body == b"ok\n"
    assert ask(server, "/readyz").status == 200
    metrics = ask(server, "/metrics?x=1")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert metrics.body == b"ext_authz_checks_total 1\n"
    assert metrics.headers["vary"] == "accept"
    other = ask(
        serve(metrics=lambda openmetrics: b"%d" % openmetrics), "/metrics", accept="application/openmetrics-text"
    )
    assert other.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert other.body == b"1"
    assert json.loads(ask(server, "/.well-known/jwks.json").body) == {"keys": [1]}


def test_not_ready_says_why(serve):
    server = serve(ready=lambda: "no worker has loaded policies")
    answer = ask(server, "/readyz")
    assert (answer.status, answer.body) == (503, b"not ready: no worker has loaded policies\n")
    assert ask(server, "/livez").status == 200


def test_head_has_no_body(serve):
    answer = ask(serve(), "/livez", "HEAD")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "3")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_open_pages_are_read_only(serve, method):
    answer = ask(serve(), "/metrics", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/livez/", "//livez", "/LIVEZ", "/livez%00", "/../livez", "*", "livez", "/config/"]
)
def test_anything_else_is_404_with_and_without_a_credential(serve, path):
    server = serve()
    assert ask(server, path).status == 404
    assert ask(server, path, **bearer()).status == 404


def test_gated_pages_need_the_token(serve):
    server = serve()
    answer = ask(server, "/config")
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert json.loads(ask(server, "/config?a=1", **bearer()).body) == {"method": "GET", "query": "a=1", "body": ""}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        "Bearer \xff",
        "Bearer " * 9,
    ],
)
def test_a_wrong_token_is_401(serve, value):
    assert ask(serve(), "/config", authorization=value).status == 401


def test_two_authorization_headers_are_none(serve):
    server = serve()
    line = f"Authorization: Bearer {TOKEN}\r\n"
    data = f"GET /config HTTP/1.1\r\nHost: {server.address}\r\n{line}{line}\r\n".encode()
    assert send(server, data).status == 401


def test_without_a_token_configured_gated_pages_do_not_exist(serve):
    server = serve(token=lambda: "")
    for value in ("", "Bearer ", f"Bearer {TOKEN}"):
        assert ask(server, "/config", authorization=value).status == 404
    assert ask(server, "/explain", "POST", body=b"{}").status == 404
    assert ask(server, "/metrics").status == 200


def test_beyond_loopback_only_the_open_pages_answer(serve):
    server = serve("0.0.0.0:0")
    port = server.address.rpartition(":")[2]
    host = f"127.0.0.1:{port}"
    assert ask(server, "/metrics", host=host).status == 200
    assert ask(server, "/config", host=host, **bearer()).status == 404


def test_a_unix_socket_is_a_credential_and_its_owners_alone(serve, tmp_path):
    server = serve(f"unix:{tmp_path}/admin.sock", token=lambda: "")
    assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o600
    assert ask(server, "/config", host="localhost").status == 200
    assert ask(server, "/nothing", host="localhost").status == 404
    server.stop()
    assert not (tmp_path / "admin.sock").exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "admin.sock").write_text("precious")
    with pytest.raises(BindError):
        AdminServer(f"unix:{tmp_path}/admin.sock", pages())
    assert (tmp_path / "admin.sock").read_text() == "precious"


def test_a_port_in_use_is_said_so(serve):
    address = serve().address
    with pytest.raises(BindError, match=address):
        AdminServer(address, pages())


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "localhost",
        "127.0.0.1:1",
        "127.0.0.2:{port}",
        "localhost.evil.example:{port}",
        "user@127.0.0.1:{port}",
        "[::1]:{port}",
        "0.0.0.0:{port}",
        ":{port}",
    ],
)
def test_a_host_that_is_not_this_listeners_is_421_for_every_page(serve, host):
    server = serve()
    host = host.replace("{port}", server.address.rpartition(":")[2])
    for path in ("/livez", "/metrics", "/config", "/nothing"):
        assert ask(server, path, host=host, **bearer()).status == 421


def test_localhost_is_a_loopback_listeners_name(serve):
    server = serve()
    port = server.address.rpartition(":")[2]
    assert ask(server, "/livez", host=f"LocalHost:{port}").status == 200


def test_no_host_or_two_is_421(serve):
    server = serve()
    assert send(server, b"GET /livez HTTP/1.0\r\n\r\n").status == 421
    line = f"Host: {server.address}\r\n"
    assert send(server, f"GET /livez HTTP/1.1\r\n{line}{line}\r\n".encode()).status == 421


def test_ipv6_listeners_know_their_name(serve):
    try:
        server = serve("[::1]:0")
    except BindError:
        pytest.skip("no IPv6 here")
    assert server.address.startswith("[::1]:")
    assert ask(server, "/livez").status == 200
    assert ask(server, "/config", **bearer()).status == 200


def test_a_post_brings_its_body_and_other_methods_are_405(serve):
    server = serve()
    answer = ask(server, "/explain", "POST", body=b'{"a":1}', **bearer())
    assert json.loads(answer.body)["body"] == '{"a":1}'
    refused = ask(server, "/explain", **bearer())
    assert (refused.status, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("Content-Length: 99999999999", 413),
        ("Content-Length: 9" + "9" * 5000, 413),
        ("Content-Length: -1", 400),
        ("Content-Length: 1e3", 400),
        ("Content-Length: \xb2", 400),
        ("Content-Length: 2\r\nContent-Length: 3", 400),
        ("Transfer-Encoding: chunked", 411),
    ],
)
def test_bodies_are_bounded_and_plainly_framed(serve, lines, status):
    server = serve()
    head = f"POST /explain HTTP/1.1\r\nHost: {server.address}\r\nAuthorization: Bearer {TOKEN}\r\n{lines}\r\n\r\n"
    assert send(server, head.encode("latin-1") + b"{}").status == status


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(200)) + b"\r\n",
        b"GET /livez HTTP/1.1\r\nx: " + b"v" * 100_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_in_our_own_words(serve, data):
    server = serve()
    with connect(server) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert b"ext-authz" in answer or answer.startswith(b"{")
    assert b"Python" not in answer
    assert ask(server, "/livez").status == 200


def test_a_pages_bug_is_that_pages_answer(serve, capfd):
    server = serve()
    answer = ask(server, "/broken", **bearer())
    assert answer.status == 500
    assert b"bug" not in answer.body
    assert "RuntimeError: a bug" in capfd.readouterr().err
    assert ask(server, "/livez").status == 200


def test_safe_headers_are_on_every_answer_and_a_page_may_loosen_its_own(serve):
    server = serve()
    for path in ("/livez", "/nothing", "/config"):
        headers = ask(server, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["server"] == "ext-authz"
        assert headers["connection"] == "close"
    assert ask(server, "/config", **bearer()).headers["content-security-policy"] == "default-src 'self'"


def test_a_request_that_drips_in_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 0.3)
    server = serve()
    with connect(server) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        started = time.monotonic()
        assert connection.recv(1) == b""
        assert time.monotonic() - started < 10


def test_a_body_that_never_comes_is_408(serve, monkeypatch):
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 0.3)
    server = serve()
    head = f"POST /explain HTTP/1.1\r\nHost: {server.address}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\n"
    assert send(server, head.encode()).status == 408


def test_connections_over_the_limit_are_closed_and_slots_come_back(serve, monkeypatch):
    monkeypatch.setattr(admin_sockets, "MAX_CONNECTIONS", 2)
    entered, release = threading.Semaphore(0), threading.Event()

    def slow(_: AdminRequest) -> AdminReply:
        entered.release()
        release.wait(20)
        return AdminReply(b"{}")

    server = serve(gated={("GET", "/config"): slow})
    answers: list[int] = []
    holders = [
        threading.Thread(target=lambda: answers.append(ask(server, "/config", **bearer()).status)) for _ in range(2)
    ]
    for holder in holders:
        holder.start()
        assert entered.acquire(timeout=20)
    with connect(server) as connection, contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    release.set()
    for holder in holders:
        holder.join(20)
    assert answers == [200, 200]
    deadline = time.monotonic() + 20
    while True:  # a slot is free once its thread has let go of the connection
        try:
            assert ask(server, "/livez").status == 200
            break
        except OSError:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("sent", [b"G", b"GET /livez HTTP/1.1\r\nHost: ADDRESS\r\n\r\n"])
def test_connections_that_are_only_held_open_keep_no_probe_waiting(serve, sent):
    address = serve().address
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(40)]
        stopping = threading.Event()

        def drip() -> None:
            for each in held:
                with contextlib.suppress(OSError):
                    each.sendall(sent.replace(b"ADDRESS", address.encode()))
            while not stopping.wait(0.05):
                for each in held:
                    with contextlib.suppress(OSError):
                        each.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            time.sleep(0.5)
            for _ in range(3):
                with socket.create_connection((host, int(port)), timeout=3) as probe:
                    probe.sendall(f"GET /livez HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
                    assert probe.recv(100).startswith(b"HTTP/1.1 200 ")
        finally:
            stopping.set()
            dripping.join()


def login_page(status: int) -> AdminReply:
    return AdminReply(b"login", status)


def test_bodies_that_drip_in_keep_no_probe_waiting(serve):
    """Strangers may send the login form: 32 of them that never end it must not fail the sidecar's probes."""
    server = serve(login=login_page)
    head = f"POST /login HTTP/1.1\r\nHost: {server.address}\r\nContent-Length: 9000\r\n\r\ntoken=".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect(server)).sendall(head)
        time.sleep(0.5)
        for _ in range(3):
            assert ask(server, "/livez").status == 200


def test_answers_that_nobody_takes_keep_no_probe_waiting(serve):
    server = serve(metrics=lambda _: b"x" * 8_000_000)
    host, _, port = server.address.rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            held.connect((host, int(port)))
            held.sendall(f"GET /metrics HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
        time.sleep(0.5)
        for _ in range(3):
            assert ask(server, "/livez").status == 200


def test_an_answer_is_to_be_taken_within_its_time_however_it_is_nibbled_at(serve, monkeypatch):
    monkeypatch.setattr(admin, "REQUEST_SECONDS", 0.5)
    server = serve(metrics=lambda _: b"x" * 24_000_000)
    host, _, port = server.address.rpartition(":")
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        held.connect((host, int(port)))
        held.settimeout(20)
        held.sendall(f"GET /metrics HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while got := len(held.recv(65536)):
                taken += got
                time.sleep(0.01)
    assert taken < 24_000_000


def test_a_head_is_bounded_as_a_whole(serve):
    server = serve()
    lines = "".join(f"x{number}: {'a' * 8000}\r\n" for number in range(20))
    with connect(server) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(f"GET /livez HTTP/1.1\r\nHost: {server.address}\r\n{lines}\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


def test_a_cookie_of_quotes_within_quotes_costs_nothing(serve):
    """http.cookies takes seconds for this one (CVE-2024-7592), before anybody showed a credential."""
    server = serve(login=login_page)
    name = f"ext_authz_admin_{server.address.rpartition(':')[2]}"
    before = time.process_time()
    quotes = chr(92) + '"'
    assert ask(server, "/config", cookie=f'{name}="{quotes * 30_000}"').status == 401
    assert time.process_time() - before < 1


def test_cookies_of_our_name_that_others_set_sign_nobody_out(serve):
    """Cookies know no ports: whatever else runs on this machine can set one of our name, before ours or behind it."""
    server = serve(login=login_page)
    name = f"ext_authz_admin_{server.address.rpartition(':')[2]}"
    made = ask(server, "/login", "POST", body=f"token={TOKEN}".encode())
    value = made.headers["set-cookie"].partition(";")[0].partition("=")[2]
    for sent in (
        f"{name}={value}",
        f"other=1; {name}={value}",
        f"{name}=x; {name}={value}",
        f"{name}={value};{name}=x",
    ):
        assert ask(server, "/config", cookie=sent).status == 200
    assert ask(server, "/config", cookie=f"{name}=x; {name}=").status == 401
    assert ask(server, "/config", cookie=f"x{name}={value}").status == 401
