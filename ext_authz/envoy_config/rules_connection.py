"""Rules about what reaches the check (EA040 to EA056, EA066, EA069): addresses, paths, hosts, headers, time.

Law: what is checked is what the upstream will see. Non-goal: routes.
"""

from collections.abc import Iterator
from typing import Final

from ext_authz.documents import Node
from ext_authz.envoy_config.rules import Bootstrap, Finding, Manager
from ext_authz.envoy_config.tree import config, extension, get, items, mark, number, seconds, text, truth, walk

_EARLY: Final = ".early_header_mutation.header_mutation.v3.HeaderMutation"
_GUARDS: Final = (
    "strip_dotdot_segments_with_parameters", "strip_path_parameters_per_segment", "http_reject_path_with_fragment",
    "re2_use_latin1_mode", "rbac_respect_ignore_path_parameters", "http_pause_generic_upgrade_request_body",
)  # fmt: skip
_LENIENT: Final = (
    ("http_protocol_options", "accept_http_10"),
    ("http_protocol_options", "allow_custom_methods"),
    ("http_protocol_options", "allow_chunked_length"),
    ("http_protocol_options", "override_stream_error_on_invalid_http_message"),
    ("http2_protocol_options", "override_stream_error_on_invalid_http_message"),
)


def manager(bootstrap: Bootstrap, found: Manager) -> Iterator[Finding]:
    """Judge one connection manager."""
    made = found.config
    yield from _certificate_header(made)
    yield from _path(made)
    yield from _trust(bootstrap, made)
    yield from _parsing(made)
    yield from _bounds(made)
    if found.upgrades():
        place = (
            mark(made, "upgrade_configs")
            if get(made, "upgrade_configs") is not None
            else mark(made, "http2_protocol_options")
        )
        yield Finding("EA053", place, "one check covers a whole tunnel; bound it, and name it in a route", warning=True)
    yield from _log(made)


def process(bootstrap: Bootstrap) -> Iterator[Finding]:
    """Judge what holds for the whole process."""
    for layer in items(get(bootstrap.root, "layered_runtime", "layers")):
        for each in walk(get(layer, "static_layer")):
            for key, value in each:
                if key.text.rpartition(".")[2] in _GUARDS and truth(value) is not True:
                    yield Finding(
                        "EA046", key.mark, "takes back the fix of a path or parser CVE; remove it", warning=True
                    )
    if get(bootstrap.root, "overload_manager") is None:
        place = bootstrap.root.mark if bootstrap.root is not None else mark(None)
        yield Finding("EA056", place, "no `overload_manager`: connections are not bounded", warning=True)


def _certificate_header(made: Node) -> Iterator[Finding]:
    mode = text(get(made, "forward_client_cert_details"))
    place = mark(made, "forward_client_cert_details")
    if mode in ("FORWARD_ONLY", "1", "ALWAYS_FORWARD_ONLY", "4"):
        yield Finding("EA040", place, "a caller's own x-forwarded-client-cert is passed on; use SANITIZE_SET")
    elif mode in ("APPEND_FORWARD", "2") and not number(get(made, "xff_num_trusted_hops")):
        yield Finding("EA041", place, "only the last element is ours; name the trusted hops", warning=True)
    ours = mode in ("SANITIZE_SET", "3", "APPEND_FORWARD", "2")
    if ours and truth(get(made, "set_current_client_cert_details", "uri")) is not True:
        place = mark(made, "set_current_client_cert_details")
        yield Finding(
            "EA042", place, "x-forwarded-client-cert would not hold the SPIFFE ID; set `uri: true`", warning=True
        )


def _path(made: Node) -> Iterator[Finding]:
    if truth(get(made, "normalize_path")) is not True:
        yield Finding(
            "EA043", mark(made, "normalize_path"), "`/public/../admin` arrives as it is; set `normalize_path: true`"
        )
    if truth(get(made, "merge_slashes")) is not True:
        yield Finding(
            "EA044", mark(made, "merge_slashes"), "`//admin` arrives as it is; set `merge_slashes: true`", warning=True
        )
    action = "path_with_escaped_slashes_action"
    if text(get(made, action)) not in ("REJECT_REQUEST", "2", "UNESCAPE_AND_REDIRECT", "3"):
        yield Finding("EA045", mark(made, action), "`%2F` is a slash to some upstreams; use REJECT_REQUEST")
    options = get(made, "path_normalization_options")
    if options is not None:
        yield Finding(
            "EA046",
            mark(made, "path_normalization_options"),
            "the checked path may differ from the forwarded one",
            warning=True,
        )


def _trust(bootstrap: Bootstrap, made: Node) -> Iterator[Finding]:
    if truth(get(made, "use_remote_address")) is not True:
        yield Finding(
            "EA049", mark(made, "use_remote_address"), "x-envoy-* and x-forwarded-for of callers are believed; set true"
        )
    ranges = items(get(made, "internal_address_config", "cidr_ranges"))
    if not ranges:
        yield Finding(
            "EA050",
            mark(made, "internal_address_config", "cidr_ranges"),
            "private addresses and loopback count as internal; name a range that nobody uses (CVE-2024-45806)",
            warning=True,
        )
    hops = bootstrap.facts.trusted_hops
    if hops is not None and (number(get(made, "xff_num_trusted_hops")) or 0) != hops:
        message = f"trusts another number of proxies than the sidecar's server.trusted_proxies ({hops})"
        yield Finding("EA041", mark(made, "xff_num_trusted_hops"), message, warning=True)
    prefixes, names = _early_removals(made)
    wanted = {"x-authz-subject", "x-envoy-auth-partial-body"} | bootstrap.facts.headers_injected
    kept = sorted(name for name in wanted if name not in names and not name.startswith(tuple(prefixes)))
    if kept:
        message = f"callers' own {', '.join(f'`{name}`' for name in kept)} are not removed early"
        yield Finding("EA051", mark(made, "early_header_mutation_extensions"), message, warning=True)


def _early_removals(made: Node) -> tuple[list[str], set[str]]:
    prefixes: list[str] = []
    names: set[str] = set()
    for each in items(get(made, "early_header_mutation_extensions")):
        if not extension(each).endswith(_EARLY):
            continue
        for mutation in items(get(config(each), "mutations")):
            names.add(text(get(mutation, "remove")).lower())
            matcher = get(mutation, "remove_on_match", "key_matcher")
            if text(get(matcher, "prefix")):
                prefixes.append(text(get(matcher, "prefix")).lower())
            names.add(text(get(matcher, "exact")).lower())
    return prefixes, names


def _parsing(made: Node) -> Iterator[Finding]:
    action = text(get(made, "common_http_protocol_options", "headers_with_underscores_action"))
    if action not in ("REJECT_REQUEST", "1", "DROP_HEADER", "2"):
        place = mark(made, "common_http_protocol_options", "headers_with_underscores_action")
        yield Finding("EA048", place, "X_User is X-User to WSGI and CGI upstreams; use REJECT_REQUEST", warning=True)
    ports = ("strip_any_host_port", "strip_matching_host_port")
    if (
        not any(truth(get(made, name)) is True for name in ports)
        or truth(get(made, "strip_trailing_host_dot")) is not True
    ):
        yield Finding(
            "EA052",
            mark(made, "strip_any_host_port"),
            "one host can be written several ways; set strip_any_host_port and strip_trailing_host_dot",
            warning=True,
        )
    for path in _LENIENT:
        if get(made, *path) is not None and truth(get(made, *path)) is not False:
            yield Finding("EA055", mark(made, *path), "makes the parser lenient; remove it", warning=True)
    if get(made, "stream_error_on_invalid_http_message") is not None:
        place = mark(made, "stream_error_on_invalid_http_message")
        yield Finding("EA055", place, "makes the parser lenient; remove it", warning=True)


def _bounds(made: Node) -> Iterator[Finding]:
    if not seconds(get(made, "request_headers_timeout")):
        yield Finding(
            "EA056", mark(made, "request_headers_timeout"), "headers may take for ever to arrive; set 10s", warning=True
        )
    if not number(get(made, "common_http_protocol_options", "max_headers_count")):
        place = mark(made, "common_http_protocol_options", "max_headers_count")
        yield Finding("EA056", place, "set `max_headers_count`", warning=True)
    if get(made, "stream_idle_timeout") is not None and not seconds(get(made, "stream_idle_timeout")):
        yield Finding("EA056", mark(made, "stream_idle_timeout"), "idle streams are kept for ever", warning=True)
    if not seconds(get(made, "common_http_protocol_options", "max_stream_duration")):
        yield Finding(
            "EA069",
            mark(made, "common_http_protocol_options", "max_stream_duration"),
            "a decision covers one request however long it runs; bound it with `max_stream_duration`",
            warning=True,
        )


def _log(made: Node) -> Iterator[Finding]:
    words = " ".join(scalar for each in items(get(made, "access_log")) for scalar in _texts(each))
    if "RESPONSE_CODE_DETAILS" not in words or "envoy.filters.http.ext_authz" not in words:
        yield Finding(
            "EA066",
            mark(made, "access_log"),
            "the access log does not show the decision (RESPONSE_CODE_DETAILS and the metadata of ext_authz)",
            warning=True,
        )


def _texts(node: Node) -> Iterator[str]:
    for each in walk(node):
        for _, value in each:
            yield text(value)
