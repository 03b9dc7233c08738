"""Feast."""

import json

import pytest
from mapping_support import facts, field, grpc, meaning, table

ROUTES = table("routes: [{name: fs, host: h, protocol: feast}]")
SERVING = "/feast.serving.ServingService/GetOnlineFeatures"


def post(path, content):
    return facts("POST", path, body=json.dumps(content).encode(), headers={"content-type": "application/json"})


def view(action, name="v", version=""):
    return [("feature_view", name, version, action)]


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("/get-online-features", {"feature_service": "s", "entities": {}}, [("feature_service", "s", "", "read_data")]),
        ("/get-online-features", {"features": ["v:a", "v:b", "w:c"]}, view("read_data") + view("read_data", "w")),
        ("/get-online-features", {"features": ["v@v2:a"]}, view("read_data", version="v2")),
        ("/get-online-features", {"features": ["v:a"], "feature_service": "s"}, [("feature_service", "s", "", "read_data"), *view("read_data")]),
        ("/get-online-features", {"features": []}, "ambiguous_body"),
        ("/get-online-features", {"features": ["a"]}, "ambiguous_body"),
        ("/get-online-features", {"features": [":a"]}, "ambiguous_body"),
        ("/get-online-features", {"features": "v:a"}, "ambiguous_body"),
        ("/get-online-features", {"features": [f"v{n}:a" for n in range(65)]}, "ambiguous_body"),
        ("/get-online-features", {"feature_service": ""}, "ambiguous_body"),
        ("/get-online-features", {"features": ["v:a"], "Features": ["w:a"]}, "ambiguous_body"),
        ("/get-online-features", {}, "ambiguous_body"),
        ("/retrieve-online-documents", {"features": ["v:a"]}, view("read_data")),
        ("/search", {}, view("read_data", "*")),
        ("/push", {"push_source_name": "p", "df": {}}, [("data_source", "p", "", "write_data")]),
        ("/push", {"df": {}}, "ambiguous_body"),
        ("/write-to-online-store", {"feature_view_name": "v"}, view("write_data")),
        ("/materialize", {"start_ts": "x", "feature_views": ["v", "w"]}, view("write_data") + view("write_data", "w")),
        ("/materialize", {"start_ts": "x"}, view("write_data", "*")),
        ("/materialize-incremental", {"feature_views": []}, view("write_data", "*")),
        ("/materialize-incremental", {"feature_views": ["v:a"]}, "ambiguous_body"),
        ("/read-document", {"file_path": "/etc/passwd"}, [("server", "fs", "", "admin")]),
    ],
)  # fmt: skip
def test_rest(path, content, expected):
    assert meaning(ROUTES, post(path, content)) == expected


def test_the_registry_is_listed_and_read_by_name():
    assert meaning(ROUTES, facts("GET", "/feature_views")) == view("list_data", "*")
    assert meaning(ROUTES, facts("GET", "/feature_views/v")) == view("read_metadata")
    assert meaning(ROUTES, facts("GET", "/health")) == [("server", "fs", "", "health")]


@pytest.mark.parametrize(
    ("path", "message", "expected"),
    [
        (SERVING, field(1, "s"), [("feature_service", "s", "", "read_data")]),
        (SERVING, field(2, field(1, "v:a") + field(1, "w:b")), view("read_data") + view("read_data", "w")),
        (SERVING, field(1, "s") + field(2, field(1, "v:a")), "ambiguous_body"),
        (SERVING, field(2, field(1, "v:a")) + field(2, field(1, "w:a")), "ambiguous_body"),
        (SERVING, field(2, field(1, b"\xff:a")), "ambiguous_body"),
        (SERVING, field(2, b""), "ambiguous_body"),
        (SERVING, b"", "ambiguous_body"),
        ("/GrpcFeatureServer/GetOnlineFeatures", field(1, "s"), [("feature_service", "s", "", "read_data")]),
        ("/GrpcFeatureServer/Push", field(2, "p"), [("data_source", "p", "", "write_data")]),
        ("/GrpcFeatureServer/WriteToOnlineStore", field(2, "v"), view("write_data")),
        ("/feast.registry.RegistryServer/ApplyFeatureView", b"", [("server", "fs", "", "admin")]),
        ("/feast.registry.RegistryServer/ListFeatureViews", b"", [("server", "fs", "", "read_metadata")]),
    ],
)
def test_grpc(path, message, expected):
    assert meaning(ROUTES, grpc(path, message)) == expected
