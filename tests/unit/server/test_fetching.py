"""One document over HTTP, from servers that do everything wrong."""

import ssl
import time

import pytest
from bundles import BundleServer
from key_server import BROKEN, KeyServer

from ext_authz.demo.pki import Authority
from ext_authz.server import fetching
from ext_authz.server.fetching import Ask, FetchError, fetch

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
    with pytest.raises(FetchError, match=r"^connection refused$"):
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


@pytest.fixture
def bundles():
    made = BundleServer(b"one")
    yield made
    made.close()


def test_what_is_still_the_same_is_not_sent_again(bundles):
    first = fetch(bundles.url)
    assert (first.body, first.unchanged, first.etag[0]) == (b"one", False, '"')
    again = fetch(bundles.url, ask=Ask(etag=first.etag))
    assert (again.body, again.unchanged, again.etag) == (b"", True, first.etag)
    bundles.archive = b"two"
    assert fetch(bundles.url, ask=Ask(etag=first.etag)).body == b"two"


def test_limits_and_headers_are_those_that_were_asked_for(bundles):
    bundles.token, bundles.archive = "s3cret", b"x" * 100
    asked = Ask(max_bytes=100, headers={"authorization": "Bearer s3cret"})
    assert fetch(bundles.url, ask=asked).body == b"x" * 100
    with pytest.raises(FetchError, match="status 401"):
        fetch(bundles.url)
    with pytest.raises(FetchError, match="more than 99 bytes"):
        fetch(bundles.url, ask=Ask(max_bytes=99, headers=asked.headers))


@pytest.mark.parametrize("etag", ["", "bare", '"a b"', '"' + "x" * 600 + '"', '"a" "b"', "W/bare", '"a'])
def test_an_entity_tag_that_could_not_be_sent_back_is_none(etag):
    assert fetching._etag(etag) == ""


def test_not_modified_is_no_answer_to_who_did_not_ask_so(bundles, monkeypatch):
    monkeypatch.setattr(bundles, "reply", lambda _headers: (304, b"", '"1"'))
    with pytest.raises(FetchError, match="status 304"):
        fetch(bundles.url)


def test_plain_http_beyond_loopback_wants_to_be_asked_for():
    with pytest.raises(FetchError, match="neither `https` nor on loopback"):
        fetch("http://192.0.2.1/b", seconds=0.2)
    with pytest.raises(FetchError) as caught:
        fetch("http://192.0.2.1/b", seconds=0.2, ask=Ask(plaintext=True))
    assert "loopback" not in str(caught.value)
