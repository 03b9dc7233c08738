"""Host patterns, path templates, names."""

import pytest

from ext_authz.mappers.path import CanonicalPath, canonicalise
from ext_authz.mappers.templates import PatternError, host_pattern, name_template, path_template


def match(template, raw):
    path = canonicalise(raw)
    assert isinstance(path, CanonicalPath)
    return path_template(template).match(path)


@pytest.mark.parametrize(
    ("template", "raw", "captured"),
    [
        ("/", "/", {}),
        ("/a/b", "/a/b", {}),
        ("/a.b", "/a.b", {}),
        ("/a/{x}", "/a/1", {"x": "1"}),
        ("/a/{x}", "/a/b%20c", {"x": "b c"}),
        ("/a/*/c", "/a/b/c", {}),
        ("/a/**", "/a", {}),
        ("/a/**", "/a/b/c", {}),
        ("/**", "/", {}),
        ("/**", "/a/b", {}),
        ("/a/**/", "/a/b/", {}),
        ("/a/**/", "/a/", {}),
        ("/{x}/{y**}", "/a/b", {"x": "a", "y": "b"}),
        ("/{x}/{y**}", "/a/b/c/d", {"x": "a", "y": "b/c/d"}),
        ("/a/", "/a/", {}),
        ("/{x}/{y**}/", "/a/b/c/", {"x": "a", "y": "b/c"}),
        ("/a b", "/a%20b", {}),
    ],
)
def test_a_template_matches_whole_segments(template, raw, captured):
    assert match(template, raw) == captured


@pytest.mark.parametrize(
    ("template", "raw"),
    [
        ("/a/b", "/a/b/"),
        ("/a/b/", "/a/b"),
        ("/a/b", "/A/b"),
        ("/a.b", "/axb"),
        ("/a/{x}", "/a"),
        ("/a/{x}", "/a/"),
        ("/a/{x}", "/a/b/c"),
        ("/a/*", "/a/b/c"),
        ("/a/**", "/a/"),
        ("/a/**", "/a/b/"),
        ("/a/**", "/ab"),
        ("/a/**", "/b"),
        ("/**", "/a/"),
        ("/a/{x**}", "/a"),
        ("/a/{x**}", "/a/"),
        ("/", "/a"),
    ],
)
def test_a_template_matches_nothing_else(template, raw):
    assert match(template, raw) is None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a", "does not start with `/`"),
        ("", "does not start with `/`"),
        ("/a/**/b", "stands last"),
        ("/a/{x**}/b", "stands last"),
        ("/{x}/{x}", "stands twice"),
        ("/{x}/{x**}", "stands twice"),
        ("/a{x}", "whole segments"),
        ("/{x}:predict", "whole segments"),
        ("/{X}", "whole segments"),
        ("/{}", "whole segments"),
        ("/a*", "whole segments"),
        ("/***", "whole segments"),
        ("/a//b", "can match no path"),
        ("//", "can match no path"),
        ("/a/../b", "can match no path"),
        ("/a%20b", "can match no path"),
        ("/a?b", "can match no path"),
        ("/a;b", "can match no path"),
        ("/a#b", "can match no path"),
        ("/a\\b", "can match no path"),
        ("/a\x01b", "can match no path"),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused(template, message):
    with pytest.raises(PatternError, match=message.replace("*", r"\*")):
        path_template(template)


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("models.internal", "models.internal", True),
        ("Models.Internal", "models.internal", True),
        ("models.internal", "xmodels.internal", False),
        ("*.models.internal", "a.models.internal", True),
        ("*.models.internal", "a.b.models.internal", True),
        ("*.models.internal", "models.internal", False),
        ("*.models.internal", ".models.internal", False),
        ("*.models.internal", "amodels.internal", False),
        ("*.models.internal", "a.models.internal.evil.example", False),
        ("models.*", "models.evil.example", True),
        ("models.*", "models.", False),
        ("a.*.b", "a.x.y.b", True),
        ("a.*.b", "a.b", False),
        ("*", "anything.at.all", True),
        ("[::1]", "[::1]", True),
        ("10.0.0.1", "10.0.0.1", True),
    ],
)
def test_a_star_in_a_host_stands_for_whole_labels(pattern, host, matches):
    assert host_pattern(pattern).matches(host) is matches


@pytest.mark.parametrize("text", ["", "a:80", "a.", ".a", "a..b", "*.*.a", "a*.b", "a b", "-a", "http://a", "[::1]:80"])
def test_a_host_that_cannot_be_one_is_refused(text):
    with pytest.raises(PatternError):
        host_pattern(text)


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("*.b", "a.b", True),
        ("*.b", "b", False),
        ("*.b", "*.a.b", True),
        ("*", "*.b", True),
        ("*.a.b", "*.b", False),
        ("a.*", "a.*.c", True),
        ("a.b", "*.b", False),
    ],
)
def test_a_host_pattern_covers_another(wide, narrow, covers):
    assert host_pattern(wide).covers(host_pattern(narrow)) is covers


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("/a/**", "/a", True),
        ("/a/**", "/a/{x}/b", True),
        ("/a/**", "/a/b/", False),
        ("/a/{x**}", "/a/{y}", True),
        ("/a/{x**}", "/a", False),
        ("/a/{x**}", "/a/**", False),
        ("/a/{x}", "/a/b", True),
        ("/a/b", "/a/{x}", False),
        ("/a/*", "/a/{x}", True),
        ("/a/*", "/a/{x**}", False),
        ("/a/*/", "/a/b/", True),
        ("/**", "/x/y", True),
        ("/**", "/**", True),
        ("/a/**", "/a/{x**}", True),
    ],
)
def test_a_path_template_covers_another(wide, narrow, covers):
    assert path_template(wide).covers(path_template(narrow)) is covers


def test_a_name_is_made_from_what_the_path_holds():
    path = path_template("/{bucket}/{key**}")
    name = name_template("lake-{bucket}/{key}", path, encoded_slash=False)
    assert name.render({"bucket": "b", "key": "x/y"}) == "lake-b/x/y"


@pytest.mark.parametrize(
    ("text", "slash"),
    [("{z}", False), ("{x}-{y}", False), ("{x}{y}", False), ("{x}/{y}", True), ("{x", False), ("x}", False)],
)
def test_a_name_that_is_unknown_or_two_resources_share_is_refused(text, slash):
    with pytest.raises(PatternError):
        name_template(text, path_template("/{x}/{y}"), encoded_slash=slash)
