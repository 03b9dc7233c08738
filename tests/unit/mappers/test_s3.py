"""S3-style object stores."""

import pytest
from mapping_support import ask, facts, meaning, table

ROUTES = table(
    """
    routes:
      - {name: s3, host: s3.internal, protocol: s3}
      - {name: vh, host: "*.s3.internal", protocol: s3-virtual-host}
    catalog:
      - {type: object, id: "lake/*", sensitivity: low}
      - {type: object, id: "lake/pii/*", sensitivity: high}
      - {type: object, id: "logs/*", sensitivity: low}
    """
)
COPY = "x-amz-copy-source"


def obj(action, name="b/k", version=""):
    return [("object", name, version, action)]


def bucket(action, name="b"):
    return [("bucket", name, "", action)]


CALLS = [
    ("GET", "", bucket("list_data")),
    ("GET", "?list-type=2&prefix=x/&continuation-token=abc", bucket("list_data")),
    ("HEAD", "", bucket("list_data")),
    ("PUT", "", bucket("admin")),
    ("DELETE", "", bucket("admin")),
    ("GET", "?versions", bucket("list_data")),
    ("GET", "?uploads", bucket("list_data")),
    ("GET", "?location", bucket("read_metadata")),
    ("GET", "?acl", bucket("admin")),
    ("GET", "?policy=", bucket("admin")),
    ("PUT", "?policy", bucket("admin")),
    ("DELETE", "?lifecycle", bucket("admin")),
    ("GET", "?versions&acl", bucket("admin")),
    ("GET", "?invented-tomorrow", bucket("admin")),
    ("POST", "?delete", obj("delete_data", "b/*")),
    ("POST", "", obj("write_data", "b/*")),
    ("GET", "/k", obj("read_data")),
    ("GET", "/a/b/c", obj("read_data", "b/a/b/c")),
    ("HEAD", "/k", obj("read_data")),
    ("GET", "/k?versionId=v1", obj("read_data", version="v1")),
    ("GET", "/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=aa", obj("read_data")),
    ("GET", "/k?x-id=GetObject", obj("read_data")),
    ("GET", "/k?partNumber=1", obj("read_data")),
    ("GET", "/k?attributes", obj("read_data")),
    ("GET", "/k?tagging", obj("admin")),
    ("GET", "/k?acl", obj("admin")),
    ("PUT", "/k", obj("write_data")),
    ("PUT", "/k?partNumber=1&uploadId=u", obj("write_data")),
    ("PUT", "/k?acl", obj("admin")),
    ("PUT", "/k?tagging", obj("admin")),
    ("PUT", "/k?ACL", obj("admin")),
    ("DELETE", "/k", obj("delete_data")),
    ("DELETE", "/k?uploadId=u", obj("delete_data")),
    ("POST", "/k?uploads", obj("write_data")),
    ("POST", "/k?uploadId=u", obj("write_data")),
    ("POST", "/k?select&select-type=2", obj("read_data")),
    ("POST", "/k?restore", obj("write_data")),
    ("POST", "/k", obj("admin")),
    ("GET", "/k?versionId=a&versionId=b", "ambiguous_body"),
    ("GET", "/k?acl;x", "ambiguous_body"),
    ("GET", "/k?acl&Acl", "ambiguous_body"),
    ("GET", "/k?a%zz", "ambiguous_body"),
    ("GET", "/k/", "no_route"),
    ("GET", "/a//b", "ambiguous_path"),
    ("GET", "/a/../b", "ambiguous_path"),
    ("GET", "/a%2Fb", "ambiguous_path"),
    ("GET", "/a%252Fb", "ambiguous_path"),
    ("OPTIONS", "/k", "no_route"),
]


@pytest.mark.parametrize(("method", "path", "expected"), CALLS)
def test_path_style(method, path, expected):
    assert meaning(ROUTES, facts(method, "/b" + path, "s3.internal")) == expected


@pytest.mark.parametrize(("method", "path", "expected"), CALLS)
def test_host_style_means_the_same(method, path, expected):
    path = path if path.startswith("/") else "/" + path
    assert meaning(ROUTES, facts(method, path, "b.s3.internal")) == expected


def test_buckets_are_listed_where_no_bucket_is_named_and_a_dotted_bucket_is_one_bucket():
    assert meaning(ROUTES, facts("GET", "/", "s3.internal")) == bucket("list_data", "*")
    assert meaning(ROUTES, facts("GET", "/b/", "s3.internal")) == bucket("list_data")
    assert meaning(ROUTES, facts("GET", "/k", "a.b.s3.internal")) == obj("read_data", "a.b/k")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("src/x", obj("read_data", "src/x")),
        ("/src/x/y", obj("read_data", "src/x/y")),
        ("src/x%20y", obj("read_data", "src/x y")),
        ("src/x?versionId=7", obj("read_data", "src/x", "7")),
    ],
)
def test_a_copy_reads_its_source(source, expected):
    request = facts("PUT", "/b/k", "s3.internal", headers={COPY: source})
    assert meaning(ROUTES, request) == obj("write_data") + expected


@pytest.mark.parametrize(
    "source",
    ["", "src", "src/", "//src/x", "src//x", "src/../x", "src/%2e%2e/x", "src%2Fx", "src/x%2Fy", "src/x+y", "src/x%",
     "src/x?versionId=7&versionId=8", "src/x?other=1", "src/%252e%252e/x", ("src/x", "src/y")],
)  # fmt: skip
def test_a_copy_source_of_several_readings_is_refused(source):
    assert meaning(ROUTES, facts("PUT", "/b/k", "s3.internal", headers={COPY: source})) == "ambiguous_body"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-acl": "public-read"},
        {"x-amz-acl": ("private", "public-read")},
        {"x-amz-grant-read": 'uri="all"'},
        {"x-amz-grant-full-control": "id=x"},
        {"x-amz-bypass-governance-retention": "true"},
    ],
)
def test_a_header_that_opens_an_object_to_others_needs_more_than_writing(headers):
    assert headers.keys() <= ROUTES.header_names
    request = facts("PUT", "/b/k", "s3.internal", headers=headers)
    assert meaning(ROUTES, request) == obj("write_data") + obj("admin")


def test_a_private_object_is_only_written():
    request = facts("PUT", "/b/k", "s3.internal", headers={"x-amz-acl": "bucket-owner-full-control"})
    assert meaning(ROUTES, request) == obj("write_data")


def test_of_all_keys_of_a_bucket_only_what_is_true_of_each_is_known():
    [access] = ask(ROUTES, facts("POST", "/lake?delete", "s3.internal")).accesses
    assert (access.resource.id, access.resource.attributes) == ("lake/*", {})
    [access] = ask(ROUTES, facts("POST", "/logs?delete", "s3.internal")).accesses
    assert (access.resource.id, access.resource.attributes) == ("logs/*", {"sensitivity": "low"})
    [access] = ask(ROUTES, facts("GET", "/lake/pii/x", "s3.internal")).accesses
    assert access.resource.attributes == {"sensitivity": "high"}


def test_the_prefix_of_a_listing_can_be_limited():
    assert ask(ROUTES, facts("GET", "/b?prefix=team-a%2F", "s3.internal")).attributes == {"prefix": "team-a/"}
    assert ask(ROUTES, facts("GET", "/b", "s3.internal")).attributes == {}, "unknown: no limit holds"
