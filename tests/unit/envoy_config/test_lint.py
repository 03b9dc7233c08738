"""Each rule finds the one weakness it is about, and the generated configuration has none."""

from pathlib import Path

import pytest

from ext_authz.documents import DocumentError
from ext_authz.envoy_config.generate import generate
from ext_authz.envoy_config.lint import lint_text
from ext_authz.envoy_config.rules import Facts
from ext_authz.envoy_config.settings import EnvoySettings, Listener

GOOD = generate()
LUA = """\
          - name: lua
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua }
"""
ROUTER = "          - name: envoy.filters.http.router\n"
LAST = "                direct_response: { status: 404 }\n"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
SWITCHED_OFF = f"""\
              - match: {{ prefix: "/public" }}
                route: {{ cluster: lake }}
                typed_per_filter_config:
                  envoy.filters.http.ext_authz: {{ "@type": {PER_ROUTE}, disabled: true }}
"""
GENERIC_OFF = SWITCHED_OFF.replace(PER_ROUTE, "type.googleapis.com/envoy.config.route.v3.FilterConfig")
LAKE = '              domains: ["lake.internal"]\n              routes:\n'
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
HTTP2 = "        explicit_http_config:\n          http2_protocol_options:\n            max_concurrent_streams: 1000\n"
KEEPALIVE = "            connection_keepalive: { interval: 30s, timeout: 5s }  # finds a wedged worker\n"
SOCKET = '        - endpoint: { address: { pipe: { path: "/run/ext-authz/0.sock" } } }\n'
TCP = '        - endpoint: { address: { socket_address: { address: "10.0.0.9", port_value: 9191 } } }\n'


def without(text: str, beginning: str) -> str:
    """Drop the lines of a key and everything indented beneath it."""
    lines, depth = [], None
    for line in text.splitlines(keepends=True):
        indent = len(line) - len(line.lstrip())
        if depth is not None and (indent > depth or (indent == depth and line.lstrip().startswith("- "))):
            continue
        depth = indent if line.lstrip().startswith(beginning) else None
        if depth is None:
            lines.append(line)
    return "".join(lines)


def swap(old: str, new: str, text: str = GOOD) -> str:
    assert old in text, old
    return text.replace(old, new)


HEALTH = without(GOOD, "health_checks:")

# rule, the weakened configuration, a piece of the message
CASES = [
    ("EA000", "clusters: []\n", "no `static_resources`"),
    ("EA000", swap("route_config:\n", "rds: { route_config_name: r }\n          ignored:\n"), "routes come from elsewhere"),
    ("EA001", swap("filters.http.ext_authz.v3.ExtAuthz\n", "filters.http.buffer.v3.Buffer\n"), "asks nobody"),
    ("EA002", swap("failure_mode_allow: false", "failure_mode_allow: true"), "outage"),
    ("EA002", swap("failure_mode_allow: false", "failureModeAllow: yes"), "outage"),
    ("EA002", swap("failure_mode_allow: false", "failure_mode_allow: { value: on }"), "outage"),
    ("EA003", without(GOOD, "grpc_service:"), "aborts"),
    ("EA004", swap("cluster_name: authz, max", "cluster_name: auhtz, max"), "no cluster `auhtz`"),
    ("EA005", swap(HTTP2 + KEEPALIVE, "        use_downstream_protocol_config: {}\n"), "HTTP/2"),
    ("EA006", swap("timeout: 0.25s\n                retry", "timeout: 0s\n                retry"), "timeout"),
    ("EA006", swap("timeout: 0.25s\n                retry", "timeout: 5s\n                retry"), "timeout"),
    ("EA006", swap("timeout: 0.25s\n                retry", "retry"), "timeout"),
    ("EA068", swap("max_interval: 0.25s", "max_interval: 0.02s"), "ends after this (0.02s)"),
    ("EA068", swap(", max_interval: 0.25s", ""), "ends after this (0.05s)"),
    ("EA007", swap("transport_api_version: V3", "transport_api_version: AUTO"), "V3"),
    ("EA007", without(GOOD, "transport_api_version:"), "V3"),
    ("EA008", swap("code: ServiceUnavailable", "code: OK"), "success"),
    ("EA008", swap("code: ServiceUnavailable", "code: 204"), "success"),
    ("EA009", swap("validate_mutations: true", "validate_mutations: false"), "validate_mutations"),
    ("EA009", without(GOOD, "validate_mutations:"), "validate_mutations"),
    ("EA010", without(GOOD, "decoder_header_mutation_rules:"), "framing"),
    ("EA010", swap("|content-length|", "|"), "disallow_expression for content-length"),
    ("EA010", swap("disallow_system: { value: true }", "disallow_system: { value: false }"), "disallow_system"),
    ("EA010", swap("allow_envoy: { value: false }", "allow_envoy: true"), "allow_envoy"),
    ("EA011", swap("clear_route_cache: false", "clear_route_cache: true"), "route could change"),
    ("EA012", swap(ROUTER, LUA + ROUTER), "`lua` can change the request"),
    ("EA012", swap(ROUTER, LUA.replace("lua", "acme") + ROUTER), "not known to leave"),
    ("EA013", swap('domains: ["*"]', 'domains: ["other.internal"]'), "no virtual host"),
    ("EA013", swap('- match: { prefix: "/" }\n' + LAST, '- match: { prefix: "/x" }\n' + LAST), "last route"),
    ("EA013", swap('- match: { prefix: "/" }\n' + LAST, '- match: { prefix: "/", headers: [{ name: a }] }\n' + LAST), "last route"),
    ("EA014", swap(LAKE, LAKE + SWITCHED_OFF), "switched off"),
    ("EA014", swap(LAKE, LAKE + GENERIC_OFF), "switched off"),
    ("EA014", swap(LAKE, LAKE + SWITCHED_OFF.replace("disabled: true", "disabled: yes")), "switched off"),
    ("EA015", swap("normalize_path: true", "normalize_path: false", swap(LAKE, LAKE + SWITCHED_OFF)), "normalize_path is off"),
    ("EA016", swap(LAKE, LAKE + SWITCHED_OFF.replace("envoy.filters.http.ext_authz:", "ext_authz:")), "no HTTP filter is called `ext_authz`"),
    ("EA017", swap("- name: envoy.filters.http.ext_authz  #", "- disabled: true\n            name: envoy.filters.http.ext_authz  #"), "only routes"),
    ("EA018", swap("clear_route_cache: false", "filter_enabled: { default_value: { numerator: 99 } }"), "a share"),
    ("EA018", swap("clear_route_cache: false", "filter_enabled: { default_value: { numerator: 100, denominator: MILLION } }"), "a share"),
    ("EA018", swap("clear_route_cache: false", "filter_enabled_metadata: { filter: x }"), "this metadata"),
    ("EA019", swap("clear_route_cache: false", "shadow_mode: true"), "never denies"),
    ("EA020", swap("encode_raw_headers: true", "encode_raw_headers: false"), "duplicate headers"),
    ("EA021", swap("allow_partial_message: false", "allow_partial_message: true"), "half a body"),
    ("EA021", swap("pack_as_bytes: true", "pack_as_bytes: false"), "damaged"),
    ("EA021", swap("max_request_bytes: 1048576", "max_request_bytes: 99999999"), "buffers more"),
    ("EA022", swap("codec_type: AUTO", "upgrade_configs: [{ upgrade_type: websocket }]"), "skips body buffering"),
    ("EA030", swap("require_client_certificate: true", "require_client_certificate: false"), "without a certificate"),
    ("EA030", without(GOOD, "require_client_certificate:"), "without a certificate"),
    ("EA031", without(GOOD, "validation_context:"), "no client certificate is even asked for"),
    ("EA031", without(GOOD, "trusted_ca:"), "any certificate would do"),
    ("EA032", swap("trusted_ca:", "trust_chain_verification: ACCEPT_UNTRUSTED\n              trusted_ca:"), "forged"),
    ("EA033", without(GOOD, "match_typed_subject_alt_names:"), "any certificate of the CA"),
    ("EA033", swap('prefix: "spiffe://ml.example/"', 'prefix: "spiffe://ml.example"'), "other trust domains"),
    ("EA034", without(GOOD, "transport_socket:"), "no TLS"),
    ("EA034", swap("tls_minimum_protocol_version: TLSv1_2", "tls_minimum_protocol_version: TLSv1_0"), "TLSv1_2"),
    ("EA035", swap("trusted_ca:", "allow_expired_certificate: true\n              trusted_ca:"), "expired"),
    ("EA035", swap("trusted_ca:", "match_subject_alt_names: [{ exact: a }]\n              trusted_ca:"), "deprecated"),
    ("EA040", swap("forward_client_cert_details: SANITIZE_SET", "forward_client_cert_details: FORWARD_ONLY"), "passed on"),
    ("EA040", swap("forward_client_cert_details: SANITIZE_SET", "forward_client_cert_details: 4"), "passed on"),
    ("EA041", swap("forward_client_cert_details: SANITIZE_SET", "forward_client_cert_details: APPEND_FORWARD"), "last element"),
    ("EA042", swap("{ uri: true,", "{ uri: false,"), "SPIFFE ID"),
    ("EA043", without(GOOD, "normalize_path:"), "normalize_path"),
    ("EA044", swap("merge_slashes: true", "merge_slashes: false"), "//admin"),
    ("EA045", swap("path_with_escaped_slashes_action: REJECT_REQUEST", "path_with_escaped_slashes_action: KEEP_UNCHANGED"), "%2F"),
    ("EA045", without(GOOD, "path_with_escaped_slashes_action:"), "%2F"),
    ("EA045", swap("path_with_escaped_slashes_action: REJECT_REQUEST", "path_with_escaped_slashes_action: 4"), "%2F"),
    ("EA046", GOOD + "layered_runtime: { layers: [{ name: s, static_layer: { envoy.reloadable_features.re2_use_latin1_mode: false } }] }\n", "CVE"),
    ("EA046", GOOD + "layered_runtime: { layers: [{ name: s, static_layer: { envoy: { http_reject_path_with_fragment: false } } }] }\n", "CVE"),
    ("EA047", swap("ignore_path_parameters_in_path_matching: false", "ignore_path_parameters_in_path_matching: true"), "another path"),
    ("EA048", swap("headers_with_underscores_action: REJECT_REQUEST", "headers_with_underscores_action: ALLOW"), "X_User"),
    ("EA049", swap("use_remote_address: true", "use_remote_address: false"), "believed"),
    ("EA050", without(GOOD, "internal_address_config:"), "loopback"),
    ("EA050", swap("cidr_ranges: [{ address_prefix: 203.0.113.0, prefix_len: 32 }]", "cidr_ranges: []"), "loopback"),
    ("EA051", without(GOOD, "early_header_mutation_extensions:"), "x-authz-subject"),
    ("EA051", swap('prefix: "x-authz-"', 'prefix: "x-auth-"'), "x-authz-subject"),
    ("EA052", swap("strip_trailing_host_dot: true", "strip_trailing_host_dot: false"), "one host"),
    ("EA053", swap("codec_type: AUTO", "upgrade_configs: [{ upgrade_type: CONNECT }]"), "tunnel"),
    ("EA053", swap(LAKE, LAKE + "              - { match: { connect_matcher: {} }, route: { cluster: lake } }\n"), "tunnel"),
    ("EA054", swap('route: { cluster: "lake",', 'route: { internal_redirect_policy: {}, cluster: "lake",'), "redirect"),
    ("EA054", swap('route: { cluster: "lake",', 'route: { request_mirror_policies: [{ cluster: x }], cluster: "lake",'), "mirrored"),
    ("EA055", swap("codec_type: AUTO", "http_protocol_options: { accept_http_10: true }"), "lenient"),
    ("EA055", swap("codec_type: AUTO", "stream_error_on_invalid_http_message: true"), "lenient"),
    ("EA056", without(GOOD, "request_headers_timeout:"), "for ever"),
    ("EA056", without(GOOD, "overload_manager:"), "overload_manager"),
    ("EA056", without(GOOD, "max_headers_count:"), "max_headers_count"),
    ("EA056", swap("stream_idle_timeout: 120s", "stream_idle_timeout: 0s"), "idle"),
    ("EA060", swap(SOCKET, SOCKET + SOCKET.replace("0.sock", "1.sock"), HEALTH), "dead worker"),
    ("EA061", without(GOOD, "circuit_breakers:"), "1024"),
    ("EA063", swap(SOCKET, TCP), "without TLS"),
    ("EA063", swap(SOCKET, ""), "without TLS"),
    ("EA063", swap("envoy_grpc: { cluster_name: authz, max_receive_message_length: 1048576 }", "google_grpc: { target_uri: 'authz.internal:9191' }"), "without TLS"),
    ("EA064", swap(KEEPALIVE, ""), "wedged"),
    ("EA064", swap("connect_timeout: 0.25s", "connect_timeout: 5s"), "connect_timeout"),
    ("EA065", swap('pipe: { path: "/run/envoy/admin.sock", mode: 384 }', "socket_address: { address: 0.0.0.0, port_value: 9901 }"), "admin port"),
    ("EA065", swap("mode: 384", "mode: 438"), "admin socket"),
    ("EA066", without(GOOD, "access_log:"), "access log"),
    ("EA067", swap(LAKE, LAKE + SWITCHED_OFF.replace("disabled: true", "check_settings: { grpc_service: { envoy_grpc: { cluster_name: x } } }")), "another service"),
    ("EA069", without(GOOD, "max_stream_duration:"), "max_stream_duration"),
]  # fmt: skip

ERRORS = {f"EA{n:03}" for n in (1, 2, 3, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 22, 30, 31, 32, 40, 43, 45, 49, 63)}


def test_the_generated_configuration_has_no_finding():
    assert lint_text(GOOD, "envoy.yaml") == ()


def test_the_file_in_the_repository_has_no_finding():
    path = Path(__file__).parents[3] / "envoy" / "envoy.yaml"
    assert lint_text(path.read_text(), str(path)) == ()


@pytest.mark.parametrize(("rule", "text", "message"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_a_weakened_configuration_is_found_out(rule, text, message):
    found = [each for each in lint_text(text, "envoy.yaml") if each.code == rule]
    assert any(message in each.message for each in found), [each.render() for each in lint_text(text, "envoy.yaml")]
    for each in found:
        assert each.mark is not None
        assert each.mark.file == "envoy.yaml"
        assert rule not in ERRORS or not each.warning


def test_every_error_rule_of_the_table_has_a_case():
    assert {rule for rule, _, _ in CASES} >= ERRORS | {"EA012", "EA065"}


def test_the_place_is_the_line_of_the_setting():
    text = swap("failure_mode_allow: false", "failure_mode_allow: true")
    (found,) = lint_text(text, "envoy.yaml")
    assert found.mark is not None
    line = text.splitlines()[found.mark.line - 1]
    assert line[found.mark.column - 1 :].startswith("failure_mode_allow: true")


def test_a_second_listener_without_the_filter_is_not_covered_by_the_first():
    text = generate(EnvoySettings(listeners=(Listener(), Listener("second", "127.0.0.1:8444"))))
    head, _, tail = text.rpartition("filters.http.ext_authz.v3.ExtAuthz\n")
    weakened = head + "filters.http.buffer.v3.Buffer\n" + tail
    assert "EA001" in {each.code for each in lint_text(weakened, "e.yaml")}


def test_a_filter_under_another_name_is_still_judged():
    text = swap("envoy.filters.http.ext_authz", "guard", swap("failure_mode_allow: false", "failure_mode_allow: true"))
    codes = {each.code for each in lint_text(text, "e.yaml")}
    assert "EA002" in codes
    assert "EA001" not in codes


def test_a_typed_struct_hides_nothing():
    old = f'"@type": {TLS}\n          require_client_certificate: true  # default false: callers without one would reach the filter chain'
    assert "EA030" in {
        each.code
        for each in lint_text(
            swap(
                old,
                f'"@type": type.googleapis.com/xds.type.v3.TypedStruct\n          type_url: {TLS}\n          value: {{}}\n          ignored: true',
            ),
            "e.yaml",
        )
    }


def test_a_network_filter_that_fails_open_is_found():
    tcp = """\
static_resources:
  listeners:
  - filter_chains:
    - filters:
      - name: guard
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz
          failure_mode_allow: true
"""
    assert {"EA002", "EA003"} <= {each.code for each in lint_text(tcp, "e.yaml")}


def test_a_line_is_let_off_only_for_the_rule_that_it_names():
    text = swap(
        "failure_mode_allow: false  #", "failure_mode_allow: true  # ext-authz lint: allow EA002\n              #"
    )
    assert lint_text(text, "e.yaml") == ()
    other = text.replace("allow EA002", "allow EA003")
    assert [each.code for each in lint_text(other, "e.yaml")] == ["EA002"]


def test_a_let_off_two_lines_away_does_not_count():
    text = swap("failure_mode_allow: false", "failure_mode_allow: true")
    text = swap("transport_api_version: V3", "transport_api_version: V3  # ext-authz lint: allow EA002", text)
    assert [each.code for each in lint_text(text, "e.yaml")] == ["EA002"]


def test_the_listener_for_tokens_says_why_it_asks_for_no_certificate():
    text = generate(
        EnvoySettings(listeners=(Listener(), Listener("tokens", "127.0.0.1:8444", require_client_certificate=False)))
    )
    assert lint_text(text, "e.yaml") == ()
    assert "EA030" in {each.code for each in lint_text(text.replace("ext-authz lint", ""), "e.yaml")}


def test_what_the_sidecar_says_is_compared():
    facts = Facts(
        max_request_bytes=4096,
        workers=2,
        trusted_hops=1,
        headers_read=frozenset({"cookie"}),
        headers_injected=frozenset({"x-team"}),
    )
    codes = {each.code for each in lint_text(GOOD, "e.yaml", facts)}
    assert codes == {"EA021", "EA023", "EA041", "EA051", "EA062"}


def test_cookies_shown_for_nothing_are_mentioned():
    text = generate(EnvoySettings(hide_cookies=False))
    facts = Facts(headers_read=frozenset({"authorization"}))
    assert {each.code for each in lint_text(text, "e.yaml", facts)} == {"EA024"}
    assert lint_text(text, "e.yaml", Facts(headers_read=frozenset({"cookie"}))) == ()


@pytest.mark.parametrize(
    "text", ["", "[]", "a: [1", "static_resources: 7", "static_resources: {listeners: {a: 1}}", "null"]
)
def test_odd_files_are_answered_without_a_crash(text):
    try:
        found = lint_text(text, "e.yaml")
    except DocumentError:
        return
    assert all(each.code in {"EA000", "EA056"} for each in found)
