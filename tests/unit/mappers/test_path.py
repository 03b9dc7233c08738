"""One canonical path, or a refusal."""

import pytest

from ext_authz.mappers.path import MAX_PATH, CanonicalPath, canonicalise
from ext_authz.model import Reason, Refusal


@pytest.mark.parametrize(
    ("raw", "text", "segments"),
    [
        ("/", "/", ("",)),
        ("/v2/models/fraud", "/v2/models/fraud", ("v2", "models", "fraud")),
        ("/v2/models/fr%61ud", "/v2/models/fraud", ("v2", "models", "fraud")),
        ("/a/", "/a/", ("a", "")),
        ("/a%20b", "/a b", ("a b",)),
        ("/caf%C3%A9", "/café", ("café",)),
        ("/...", "/...", ("...",)),
        ("/.a/b.", "/.a/b.", (".a", "b.")),
        ("/{x}", "/{x}", ("{x}",)),
        ("/a:b@c", "/a:b@c", ("a:b@c",)),
    ],
)
def test_a_path_is_decoded_exactly_once(raw, text, segments):
    path = canonicalise(raw)
    assert isinstance(path, CanonicalPath)
    assert (path.text, path.segments) == (text, segments)


def test_the_query_is_split_off_at_the_first_question_mark_and_kept_verbatim():
    path = canonicalise("/a?b=/../c?d%2F")
    assert isinstance(path, CanonicalPath)
    assert (path.text, path.query) == ("/a", "b=/../c?d%2F")


@pytest.mark.parametrize("raw", ["/a%2Fb/c", "/a%2fb/c"])
def test_an_encoded_slash_is_kept_apart_from_a_plain_one(raw):
    path = canonicalise(raw)
    assert isinstance(path, CanonicalPath)
    assert path.segments == ("a/b", "c")
    assert path.text == "/a%2Fb/c"
    assert path.slashed == (0,)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "*",
        "a",
        "http://h/a",
        "?a=b",
        "//",
        "//admin",
        "/a//b",
        "/a//",
        "/.",
        "/..",
        "/./a",
        "/a/../b",
        "/a/..",
        "/a/%2e%2e/b",
        "/a/.%2E",
        "/%2e",
        "/a\\b",
        "/a%5Cb",
        "/a%5cb",
        "/a%25",
        "/a%252e%252e/b",
        "/a%3Fb",
        "/a%23b",
        "/a#b",
        "/a?b#c",
        "/a%00",
        "/a%0d%0a",
        "/a%7F",
        "/a%C2%85",
        "/a\x00b",
        "/a b",
        "/a\tb",
        "/a?b c",
        "/a?b\x01",
        "/a?\xe9",
        "/caf\xe9",
        "/a%",
        "/a%4",
        "/a%zz",
        "/a%+1",
        "/a%ff",
        "/a%c0%af",
        "/a%c0%ae%c0%ae/b",
        "/a%ed%a0%80",
        "/a;x=1",
        "/a;/b",
        "/a/..;/b",
        "/a%3Bx",
        "/%2F",
        "/%2Fa",
        "/a%2F",
        "/a%2F%2Fb",
        "/a%2F..%2Fb",
        "/a%2F.%2Fb",
        "/..%2Fa",
        "/" + "a" * MAX_PATH,
    ],
)
def test_a_path_of_several_readings_is_ambiguous(raw):
    refusal = canonicalise(raw)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.AMBIGUOUS_PATH


def test_a_refusal_does_not_repeat_what_the_caller_sent():
    refusal = canonicalise("/secret-marker/../x")
    assert isinstance(refusal, Refusal)
    assert "secret-marker" not in refusal.detail
