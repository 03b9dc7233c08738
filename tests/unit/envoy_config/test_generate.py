"""The generated bootstrap: up to date in the repository, quoted throughout, refused where it could not be safe."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.demo import envoy
from ext_authz.demo.pki import Authority
from ext_authz.documents import load
from ext_authz.envoy_config.generate import generate
from ext_authz.envoy_config.lint import lint_text
from ext_authz.envoy_config.settings import (
    DATA_LAKE,
    MODEL_SERVER,
    Address,
    ClientTls,
    EnvoySettings,
    Listener,
    SettingsError,
)
from ext_authz.envoy_config.tree import get, items, text

ROOT = Path(__file__).parents[3]


def test_the_bootstrap_in_the_repository_is_what_the_defaults_give():
    assert (ROOT / "envoy" / "envoy.yaml").read_text() == generate(), "write generate() into envoy/envoy.yaml"


def test_the_same_settings_give_the_same_bytes():
    assert generate() == generate(EnvoySettings())


def routes_of(settings: EnvoySettings, host: str):
    root = load(generate(settings), "e.yaml")
    (listener,) = items(get(root, "static_resources", "listeners"))
    (chain,) = items(get(listener, "filter_chains"))
    manager = get(items(get(chain, "filters"))[0], "typed_config")
    hosts = items(get(manager, "route_config", "virtual_hosts"))
    return items(next(get(each, "routes") for each in hosts if host in [text(d) for d in items(get(each, "domains"))]))


def buffered(route) -> bool:
    return get(route, "typed_per_filter_config") is None


def test_only_routes_whose_meaning_is_in_the_body_are_buffered():
    found = [
        (text(get(each, "match", "path")) or text(get(each, "match", "prefix")), buffered(each))
        for each in routes_of(EnvoySettings(), "models.internal")
    ]
    assert found == [
        ("/inference.GRPCInferenceService/ModelStreamInfer", False),
        ("/inference.GRPCInferenceService/", True),
        ("/inference.model_repository.ModelRepositoryService/", True),
        ("/v2/repository/", True),
        ("/", False),
        ("/", False),
    ]


def test_the_filter_of_listings_sees_answers_after_the_check_and_is_no_unsafe_setting():
    written = generate(EnvoySettings(listings_filter="/etc/envoy/listings.lua"))
    assert written.index("- name: envoy.filters.http.lua") < written.index("- name: envoy.filters.http.ext_authz")
    assert lint_text(written, "e.yaml") == ()
    assert "filters.http.lua" not in generate()


def test_unknown_hosts_are_asked_about_and_get_404():
    (route,) = routes_of(EnvoySettings(), "*")
    assert text(get(route, "direct_response", "status")) == "404"
    assert text(get(route, "match", "prefix")) == "/"


def test_every_worker_is_an_endpoint():
    settings = EnvoySettings(authz=("unix:/run/a/0.sock", "unix:/run/a/1.sock"))
    root = load(generate(settings), "e.yaml")
    cluster = items(get(root, "static_resources", "clusters"))[0]
    paths = [
        text(get(each, "endpoint", "address", "pipe", "path"))
        for group in items(get(cluster, "load_assignment", "endpoints"))
        for each in items(get(group, "lb_endpoints"))
    ]
    assert paths == ["/run/a/0.sock", "/run/a/1.sock"]
    assert text(get(cluster, "lb_policy")) == "LEAST_REQUEST"


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40).filter(
        lambda t: len(t.encode()) < 90
    )
)
def test_no_value_can_change_the_structure(value):
    settings = EnvoySettings(
        certificate=value, access_log=value, authz=(f"unix:{value}",), admin=f"unix:{value}", client_crl=value
    )
    root = load(generate(settings), "e.yaml")
    cluster = items(get(root, "static_resources", "clusters"))[0]
    endpoint = items(get(items(get(cluster, "load_assignment", "endpoints"))[0], "lb_endpoints"))[0]
    assert text(get(endpoint, "endpoint", "address", "pipe", "path")) == value
    assert text(get(root, "admin", "address", "pipe", "path")) == value
    assert [each.code for each in lint_text(generate(settings), "e.yaml")] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"listeners": ()}, "at least one listener"),
        ({"authz": ()}, "at least one sidecar"),
        ({"listeners": (Listener(), Listener())}, "used twice"),
        ({"listeners": (Listener(name="a b"),)}, "is not a name"),
        ({"listeners": (Listener(address="edge:443"),)}, "needs an IP address"),
        ({"trust_domains": ()}, "at least one trust domain"),
        ({"trust_domains": ("ml.example/",)}, "is not a trust domain"),
        ({"trusted_hops": -1}, "trusted hops"),
        ({"max_request_bytes": 0}, "max_request_bytes"),
        ({"authz_timeout": "250ms"}, "is not a duration"),
        ({"authz_timeout": "0s"}, "would mean no bound"),
        ({"max_stream_duration": "0.0s"}, "would mean no bound"),
        ({"admin": "127.0.0.1:9901"}, "controls Envoy"),
        ({"authz": ("10.0.0.9:9191",)}, "needs authz_tls"),
        ({"authz": ("authz.internal:9191",)}, "needs authz_tls"),
        ({"authz": ("unix:" + "a" * 108,)}, "1 to 107 bytes"),
        ({"authz": ("nonsense",)}, "is not `unix:/path` or `host:port`"),
        ({"authz": ("127.0.0.1:99999",)}, "is not `unix:/path` or `host:port`"),
        ({"upstreams": (replace(DATA_LAKE, hosts=("LAKE",)),)}, "is not a host"),
        ({"upstreams": (replace(DATA_LAKE, hosts=("*",)),)}, "is not a host"),
        ({"upstreams": (replace(DATA_LAKE, hosts=()),)}, "has no host"),
        ({"upstreams": (replace(DATA_LAKE, http=()),)}, "has no endpoint"),
        ({"upstreams": (DATA_LAKE, replace(DATA_LAKE, name="lake2"))}, "belongs to two upstreams"),
        ({"upstreams": (replace(MODEL_SERVER, grpc=()),)}, "no grpc endpoint"),
        ({"upstreams": (replace(MODEL_SERVER, body_paths=("v2/",)),)}, "is not a path"),
        ({"upstreams": (replace(MODEL_SERVER, timeout="1m"),)}, "is not a duration"),
    ],
)
def test_what_could_not_be_safe_is_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        EnvoySettings(**settings)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        EnvoySettings(authz=("x",), trust_domains=(), trusted_hops=99)
    assert len(str(caught.value).splitlines()) == 3


def test_sockets_and_names_cannot_share_a_cluster():
    settings = EnvoySettings(
        authz=("unix:/run/0.sock", "authz.internal:9191"), authz_tls=ClientTls("ca", "crt", "key", "authz.internal")
    )
    with pytest.raises(SettingsError, match="cannot mix"):
        generate(settings)


@pytest.mark.parametrize(
    ("written", "local"),
    [
        ("unix:/a", True),
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("10.0.0.1:1", False),
        ("a:1", False),
    ],
)
def test_an_address_knows_whether_it_is_local(written, local):
    assert Address.parse(written).local is local


VARIANTS = {
    "defaults": {},
    "two workers, two listeners": {
        "authz": ("unix:/run/a/0.sock", "unix:/run/a/1.sock"),
        "listeners": (Listener(), Listener("tokens", "[::1]:8444", require_client_certificate=False)),
        "trusted_hops": 2,
    },
    "forged headers kept": {"unsafe_keep_forged_headers": True, "hide_cookies": False},
    "gRPC alone": {"upstreams": (replace(MODEL_SERVER, http=(), body_paths=()),)},
    "no upstream": {"upstreams": ()},
    "two trust domains": {"trust_domains": ("a.example", "b.example")},
}


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*VARIANTS, "TLS"])
def test_envoy_accepts_it(name, tmp_path):
    authority = Authority(tmp_path)
    server, client = authority.server("server"), authority.client("client", "spiffe://ml.example/ns/mesh/sa/envoy")
    settings = VARIANTS.get(name, {})
    if name == "TLS":
        tls = ClientTls(
            str(authority.certificate), str(client.certificate), str(client.private_key), "spiffe://ml.example/authz"
        )
        named = replace(tls, server_name="lake.internal")
        settings = {
            "authz": ("authz.internal:9191",),
            "authz_tls": tls,
            "upstreams": (replace(DATA_LAKE, tls=named, http2=True),),
        }
    made = EnvoySettings(
        certificate=str(server.certificate),
        private_key=str(server.private_key),
        client_ca=str(authority.certificate),
        **settings,
    )
    file = tmp_path / "envoy.yaml"
    file.write_text(generate(made))
    done = subprocess.run(
        [envoy.find(), "--mode", "validate", "-c", file], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()
    expected = {"EA048", "EA051"} if made.unsafe_keep_forged_headers else set()
    assert {each.code for each in lint_text(file.read_text(), "envoy.yaml")} == expected
