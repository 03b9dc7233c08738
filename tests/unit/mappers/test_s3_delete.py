"""Deletions of several objects: every key counts, and what two XML parsers could read apart names any key."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping_support import ask, facts, table

from ext_authz.mappers.s3_delete import MAX_BYTES, MAX_KEYS, doomed

ROUTES = table(
    "routes: [{name: s3, host: s3.internal, protocol: s3}, {name: vh, host: '*.lake.internal', protocol: s3-virtual-host}]"
)
NS = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def document(*objects, ns=NS, head='<?xml version="1.0" encoding="UTF-8"?>\n', tail=""):
    return f"{head}<Delete{ns}>{''.join(f'<Object>{each}</Object>' for each in objects)}{tail}</Delete>".encode()


def key(text):
    return f"<Key>{text}</Key>"


def names(body, path="/lake?delete", host="s3.internal", **more):
    target = ask(ROUTES, facts("POST", path, host, body=body, **more))
    assert {each.action for each in target.accesses} == {"delete_data"}
    return [(each.resource.id, each.resource.version) for each in target.accesses]


EVERY = [("lake/*", "")]


def test_each_key_is_an_access():
    assert names(document(key("a"), key("b/c"))) == [("lake/a", ""), ("lake/b/c", "")]
    assert names(document(key("a")), "/?delete", "bucket.lake.internal") == [("bucket/a", "")]
    assert names(document(key("a") + "<VersionId>v1</VersionId>")) == [("lake/a", "v1")]
    assert names(document(key("a"), tail="<Quiet>true</Quiet>")) == [("lake/a", "")]
    assert names(document(key("a"), ns="", head="")) == [("lake/a", "")]
    assert names(document(key("a"), key("a"))) == [("lake/a", "")]


def test_references_are_decoded():
    assert names(document(key("a&amp;b&lt;&#228;&#xE4;"))) == [("lake/a&b<ää", "")]


def test_what_a_header_asks_for_is_asked_for_too():
    target = ask(
        ROUTES,
        facts(
            "POST",
            "/lake?delete",
            "s3.internal",
            body=document(key("a")),
            headers={"x-amz-bypass-governance-retention": "true"},
        ),
    )
    assert [(each.resource.id, each.action) for each in target.accesses] == [
        ("lake/a", "delete_data"),
        ("lake/*", "admin"),
    ]


ODD = [
    b"",
    b"nonsense",
    document(),
    document(key("")),
    document(key("a"))[:-1],
    document(key("a")) + b"<x/>",
    document(key("a")) + document(key("b")),
    b"\xef\xbb\xbf" + document(key("a")),
    document(key("a")).decode().encode("utf-16"),
    document(key("a")).replace(b"UTF-8", b"UTF-7"),
    document(key("a"), head='<!DOCTYPE Delete [<!ENTITY k "secret">]>'),
    document(key("&k;")),
    document(key("a<!-- -->b")),
    document("<!-- x -->" + key("a")),
    document(key("<![CDATA[secret]]>")),
    document("<?pi?>" + key("a")),
    document(key("a") + key("secret")),
    document("<Key lang='x'>a</Key>"),
    document("<Key >a</Key>"),
    document("<s3:Key>a</s3:Key>"),
    document("<key>a</key>"),
    document("<VersionId>1</VersionId>"),
    document(key("a") + "<Other>secret</Other>"),
    document(key("a"), ns=' xmlns="urn:other"'),
    document(key("a"), tail="<Object><Key>b"),
    document(key("a"), tail="<Quiet>maybe</Quiet>"),
    document(key("a&#0;b")),
    document(key("a&#128;b")),
    document(key("a&#xD800;b")),
    document(key("a&#x110000;b")),
    document(key("a&#xFFFE;b")),
    document(key("a\x85b")),
    document(key("a\nb")),
    document(key(" a")),
    document(key("a ")),
    document(key("../secret/k")),
    document(key("a/./b")),
    document(key("a//b")),
    document(key("a/")),
    document(key("/a")),
    document(key("a\\b")),
    document(*[key(f"k{n}") for n in range(MAX_KEYS + 1)]),
    document(key("x" * MAX_BYTES)),
    document(key("x" * 2000)),
    document(key("a") + "<VersionId>01</VersionId>"),
]  # fmt: skip


@pytest.mark.parametrize("body", ODD)
def test_what_is_not_plain_names_any_key(body):
    assert names(body) == EVERY


def test_a_body_that_is_not_whole_names_any_key():
    body = document(key("a"))
    assert names(body, partial="true") == EVERY
    assert names(body, size=len(body) + 1) == EVERY
    assert names(body, headers={"content-length": str(len(body) + 4)}) == EVERY
    assert names(body, headers={"content-encoding": "gzip"}) == EVERY
    assert names(b"", size=50) == EVERY


def test_the_keys_of_one_request_are_never_the_nexts():
    assert names(document(key("a"))) == [("lake/a", "")]
    assert names(document(key("b"))) == [("lake/b", "")]
    assert names(b"") == EVERY


pieces = st.sampled_from(
    ["<Object>", "</Object>", "<Key>", "</Key>", "a", "b", "&amp;", "&#97;", "&#x61;", "&lt;", " ", "\n", "<!-- -->", "<![CDATA[", "]]>", "<VersionId>", "</VersionId>", "<Quiet>true</Quiet>", "<Object><Key>", "</Key></Object>", "ä", "/", "<Key/>", "</Delete>", "<Delete>"]
)  # fmt: skip


@given(st.lists(pieces, max_size=12).map("".join))
def test_where_keys_are_read_a_real_parser_reads_the_same(inner):
    body = f"<Delete>{inner}</Delete>".encode()
    found = doomed(body)
    if found is None:
        return
    root = ET.fromstring(body)
    real = {(each.findtext("Key"), each.findtext("VersionId") or "") for each in root.findall("Object")}
    assert {(each.key, each.version) for each in found} == real
    assert all(len(each.findall("Key")) == 1 for each in root.findall("Object"))
