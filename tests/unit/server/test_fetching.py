"""One document over HTTP, from servers that do everything wrong."""

import ssl
import time

import pytest
from key_server import BROKEN, KeyServer

from ext_authz.demo.pki import Authority
from ext_authz.server import fetching
from ext_authz.server.fetching import FetchError, fetch

PROBLEMS = {
    "500": "status 500",
    "10 MB": "more than 1048576 bytes",
    "slow": "no whole answer within",
    "endless header": "no whole answer within",
    "cut short": "ends too soon",
    "gzip": "content encoding",
    "redirect elsewhere": "another host",
    "redirect to plaintext": "another host",
    "redirect to itself": "more than 3 times",
    "not http": "BadStatusLine",
    "nothing": "RemoteDisconnected",
}


@pytest.fixture
def server():
    made = KeyServer()
    yield made
    made.close()


def test_a_good_document_comes_with_its_age(server):
    assert fetch(server.uri).body == server.document()
    assert fetch(server.uri).max_age is None
    server.max_age = 120
    assert fetch(server.uri).max_age == 120


@pytest.mark.parametrize("mode", [mode for mode in BROKEN if mode in PROBLEMS])
def test_a_bad_answer_is_one_clear_problem_in_bounded_time(server, mode):
    server.mode = mode
    began = time.monotonic()
    with pytest.raises(FetchError, match=PROBLEMS[mode]):
        fetch(server.uri, seconds=1)
    assert time.monotonic() - began < 5


def test_nobody_at_home_is_a_problem(server):
    server.close()
    with pytest.raises(FetchError, match="ConnectionRefusedError"):
        fetch(server.uri)


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1/jwks", "ftp://127.0.0.1/", "https://u@h/", "http://127.0.0.1/\r\nx: y", "x"]
)
def test_a_url_that_may_not_be_asked_is_not(url):
    with pytest.raises(FetchError):
        fetch(url)


@pytest.mark.parametrize(
    ("header", "age"),
    [("max-age=60", 60), ('public, Max-Age="5"', 5), ("no-store", 0), ("max-age=60, no-cache", 0), ("", None),
     ("max-age=x", None), ("max-age=-1", None), ("max-age=99999999999999999999", 999999999), ("s-maxage=9", None)],
)  # fmt: skip
def test_cache_control_says_how_long(header, age):
    assert fetching._max_age(header) == age


@pytest.fixture
def secure(server, tmp_path):
    authority = Authority(tmp_path)
    pair = authority.server("idp", hosts=("idp.example",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.private_key)
    server.secure(context)
    return server, ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))


def test_tls_is_verified(secure):
    server, trusting = secure
    assert fetch(server.uri, context=trusting).body == server.document()
    with pytest.raises(FetchError, match="not trusted"):
        fetch(server.uri)
    with pytest.raises(FetchError, match="not trusted"):
        fetch(server.uri.replace("127.0.0.1", "localhost"), context=trusting)
