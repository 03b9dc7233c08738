"""Rules about the ext_authz filters themselves (EA002 to EA012 and EA017 to EA024).

Law: only an explicit safe value is safe. Non-goal: routes and listeners.
"""

import re
from collections.abc import Iterator
from typing import Final

from ext_authz.documents import Node
from ext_authz.envoy_config.rules import Bootstrap, Finding, Manager
from ext_authz.envoy_config.tree import (
    config,
    extension,
    first,
    get,
    items,
    kind,
    loopback,
    mark,
    number,
    seconds,
    text,
    truth,
)

MAX_TIMEOUT_SECONDS: Final = 1.0
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
_MIN_STATUS: Final = 400
_FULL: Final = {
    "": 100,
    "HUNDRED": 100,
    "TEN_THOUSAND": 10_000,
    "MILLION": 1_000_000,
    "0": 100,
    "1": 10_000,
    "2": 1_000_000,
}
_STATUS_BELOW_400: Final = (
    "Empty", "Continue", "SwitchingProtocols", "Processing", "EarlyHints", "OK", "Created", "Accepted",
    "NonAuthoritativeInformation", "NoContent", "ResetContent", "PartialContent", "MultiStatus", "AlreadyReported",
    "IMUsed", "MultipleChoices", "MovedPermanently", "Found", "SeeOther", "NotModified", "UseProxy",
    "TemporaryRedirect", "PermanentRedirect",
)  # fmt: skip
# What a bug in the sidecar must not be able to say to the upstream's parser.
_FRAMING: Final = ("content-length", "transfer-encoding", "connection", "x-forwarded-for")
_CHANGES_ROUTES: Final = (
    "lua", "ext_proc", "wasm", "golang", "dynamic_modules", "grpc_json_transcoder", "header_mutation", "jwt_authn",
    "set_metadata", "header_to_metadata", "json_to_metadata", "composite", "proto_message_extraction",
    "grpc_http1_bridge", "grpc_http1_reverse_bridge", "aws_request_signing", "oauth2", "credential_injector",
    "basic_auth", "ip_tagging", "custom_response", "file_system_buffer", "set_filter_state", "api_key_auth",
    "on_demand", "decompressor", "grpc_web",
)  # fmt: skip
_LEAVES_ROUTES: Final = (
    "router", "local_ratelimit", "ratelimit", "rbac", "compressor", "grpc_stats", "fault", "buffer", "bandwidth_limit",
    "adaptive_concurrency", "admission_control", "upstream_codec", "cors", "csrf", "stateful_session", "tap",
    "health_check", "gcp_authn", "rate_limit_quota", "geoip", "cache",
)  # fmt: skip
_AREA: Final = re.compile(r"\.filters\.http\.([a-z0-9_]+)\.")


def http(bootstrap: Bootstrap, manager: Manager, entry: Node) -> Iterator[Finding]:
    """Judge one HTTP ext_authz filter."""
    made = config(entry)
    yield from _failure(made)
    yield from _service(bootstrap, made)
    yield from _changes(made)
    yield from _coverage(entry, made)
    yield from _view(bootstrap, made)
    yield from _body(bootstrap, manager, made)
    yield from _after(manager, entry)


def network(bootstrap: Bootstrap, made: Node | None) -> Iterator[Finding]:
    """Judge one network ext_authz filter."""
    if truth(get(made, "failure_mode_allow")) is not False and get(made, "failure_mode_allow") is not None:
        yield Finding(
            "EA002", mark(made, "failure_mode_allow"), "an outage of the sidecar would allow connections; set false"
        )
    yield from _service(bootstrap, made)
    if _set(made, "shadow_mode"):
        yield Finding("EA019", mark(made, "shadow_mode"), "shadow mode asks and never denies; remove it")


def cluster_name(made: Node | None) -> tuple[str, bool]:
    """Return the cluster that a filter asks, and whether it asks by gRPC."""
    name = text(get(made, "grpc_service", "envoy_grpc", "cluster_name"))
    return (name, True) if name else (text(get(made, "http_service", "server_uri", "cluster")), False)


def _set(node: Node | None, name: str) -> bool:
    """Whether a flag that should be off is on, or is something that is not understood."""
    return get(node, name) is not None and truth(get(node, name)) is not False


def _failure(made: Node | None) -> Iterator[Finding]:
    if _set(made, "failure_mode_allow"):
        yield Finding(
            "EA002",
            mark(made, "failure_mode_allow"),
            "an outage of the sidecar would allow requests, and a caller can cause one (CVE-2023-27488); set false",
        )
    status = get(made, "status_on_error", "code")
    code = number(status)
    if text(status) in _STATUS_BELOW_400 or (code is not None and code < _MIN_STATUS):
        yield Finding(
            "EA008", mark(made, "status_on_error", "code"), "an outage would look like success; use ServiceUnavailable"
        )
    if _set(made, "shadow_mode"):
        yield Finding("EA019", mark(made, "shadow_mode"), "shadow mode asks and never denies; remove it")


def _service(bootstrap: Bootstrap, made: Node | None) -> Iterator[Finding]:
    service = first(get(made, "grpc_service"), get(made, "http_service"))
    if service is None:
        yield Finding(
            "EA003", mark(made), "neither `grpc_service` nor `http_service`: Envoy aborts at the first request"
        )
        return
    version = get(made, "transport_api_version")
    if version is not None and text(version) not in ("V3", "2"):
        yield Finding("EA007", mark(made, "transport_api_version"), "set `transport_api_version: V3`", warning=True)
    elif version is None and get(made, "grpc_service") is not None:
        yield Finding("EA007", mark(made), "no `transport_api_version: V3`", warning=True)
    timeout = first(get(service, "timeout"), get(service, "server_uri", "timeout"))
    length = seconds(timeout)
    if length is None or length == 0 or length > MAX_TIMEOUT_SECONDS:
        place = timeout.mark if timeout is not None else service.mark
        yield Finding(
            "EA006", place, "the check needs a timeout above 0 and up to 1s (0s waits for ever)", warning=True
        )
    yield from _tries(service, length)
    yield from _asked(bootstrap, made, service)


def _tries(service: Node, length: float | None) -> Iterator[Finding]:
    """Envoy gives each try of a gRPC service no longer than the longest pause between two (seen in 1.40)."""
    policy = get(service, "retry_policy")
    if policy is None or not length:
        return
    base = seconds(get(policy, "retry_back_off", "base_interval"))
    longest = seconds(get(policy, "retry_back_off", "max_interval"))
    each = longest or 10 * (base or 1)
    if each < length:
        yield Finding(
            "EA068",
            mark(policy, "retry_back_off", "max_interval"),
            f"each try of a check ends after this ({each:g}s), not after the check's timeout; set it to {length:g}s",
            warning=True,
        )


def _asked(bootstrap: Bootstrap, made: Node | None, service: Node) -> Iterator[Finding]:
    target = get(service, "google_grpc")
    if target is not None:
        host = text(get(target, "target_uri")).removeprefix("dns:").lstrip("/").rpartition(":")[0].strip("[]")
        local = text(get(target, "target_uri")).startswith("unix:") or loopback(host)
        if not local and get(target, "channel_credentials", "ssl_credentials") is None:
            yield Finding("EA063", mark(target, "target_uri"), "the sidecar is asked over a network without TLS")
        return
    name, grpc = cluster_name(made)
    cluster = bootstrap.cluster(name)
    if cluster is None:
        yield Finding("EA004", service.mark, f"no cluster `{name}` is defined: every request would be denied")
    elif grpc and not _http2(cluster):
        yield Finding("EA005", cluster.mark, f"cluster `{name}` does not speak HTTP/2, so every check fails")


def _http2(cluster: Node) -> bool:
    if get(cluster, "http2_protocol_options") is not None:
        return True
    options = get(cluster, "typed_extension_protocol_options", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions")
    return get(options, "explicit_http_config", "http2_protocol_options") is not None


def _changes(made: Node | None) -> Iterator[Finding]:
    if truth(get(made, "validate_mutations")) is not True:
        yield Finding(
            "EA009",
            mark(made, "validate_mutations"),
            "bad headers would reach the wire; set `validate_mutations: true`",
        )
    rules = get(made, "decoder_header_mutation_rules")
    expression = text(get(rules, "disallow_expression", "regex"))
    missing = [name for name in ("disallow_system", "disallow_is_error") if truth(get(rules, name)) is not True]
    missing += [f"{name} allowed" for name in ("allow_all_routing", "allow_envoy") if _set(rules, name)]
    missing += [f"disallow_expression for {name}" for name in _FRAMING if not _matches(expression, name)]
    if missing:
        message = f"`decoder_header_mutation_rules` leave the request's framing open: {', '.join(missing)}"
        yield Finding("EA010", mark(made, "decoder_header_mutation_rules"), message, warning=True)
    if _set(made, "clear_route_cache") and get(made, "clear_route_cache_headers") is None:
        yield Finding(
            "EA011",
            mark(made, "clear_route_cache"),
            "the route could change after the decision; set false",
            warning=True,
        )


def _matches(expression: str, name: str) -> bool:
    try:
        return bool(expression) and re.fullmatch(expression, name) is not None
    except re.error:
        return False


def _coverage(entry: Node, made: Node | None) -> Iterator[Finding]:
    if _set(entry, "disabled"):
        yield Finding(
            "EA017", mark(entry, "disabled"), "only routes with configuration of their own would be checked; remove it"
        )
    if truth(get(made, "deny_at_disable", "default_value")) is True:
        return
    enabled = get(made, "filter_enabled")
    if enabled is not None:
        share = number(get(enabled, "default_value", "numerator")) or 0
        if share < _FULL.get(text(get(enabled, "default_value", "denominator")), share + 1):
            yield Finding(
                "EA018",
                mark(made, "filter_enabled"),
                "a share of requests is not checked; remove it or set deny_at_disable",
            )
    if get(made, "filter_enabled_metadata") is not None:
        yield Finding(
            "EA018",
            mark(made, "filter_enabled_metadata"),
            "requests without this metadata are not checked; set deny_at_disable",
        )


def _view(bootstrap: Bootstrap, made: Node | None) -> Iterator[Finding]:
    if truth(get(made, "encode_raw_headers")) is not True:
        yield Finding(
            "EA020",
            mark(made, "encode_raw_headers"),
            "duplicate headers would be joined and bytes replaced before the check; set `encode_raw_headers: true`",
            warning=True,
        )
    read = bootstrap.facts.headers_read
    hidden = get(made, "disallowed_headers")
    shown = get(made, "allowed_headers")
    for name in sorted(read):
        if any(_pattern(each, name) for each in items(get(hidden, "patterns"))):
            yield Finding(
                "EA023", mark(made, "disallowed_headers"), f"hides `{name}`, which the sidecar reads", warning=True
            )
        if shown is not None and not any(_pattern(each, name) for each in items(get(shown, "patterns"))):
            yield Finding(
                "EA023", mark(made, "allowed_headers"), f"hides `{name}`, which the sidecar reads", warning=True
            )
    hides_cookies = any(_pattern(each, "cookie") for each in items(get(hidden, "patterns")))
    if read and "cookie" not in read and shown is None and not hides_cookies:
        yield Finding(
            "EA024",
            mark(made, "disallowed_headers"),
            "cookies are shown to a sidecar that reads none",
            warning=True,
        )


def _pattern(matcher: Node, name: str) -> bool:
    exact, prefix = text(get(matcher, "exact")).lower(), text(get(matcher, "prefix")).lower()
    suffix, part = text(get(matcher, "suffix")).lower(), text(get(matcher, "contains")).lower()
    regex = text(get(matcher, "safe_regex", "regex"))
    return bool(
        (exact and exact == name)
        or (prefix and name.startswith(prefix))
        or (suffix and name.endswith(suffix))
        or (part and part in name)
        or (regex and _matches(regex, name))
    )


def _body(bootstrap: Bootstrap, manager: Manager, made: Node | None) -> Iterator[Finding]:
    body = get(made, "with_request_body")
    if body is None:
        return
    if _set(body, "allow_partial_message"):
        yield Finding(
            "EA021", mark(body, "allow_partial_message"), "the check would see half a body; set false", warning=True
        )
    if truth(get(body, "pack_as_bytes")) is not True:
        yield Finding(
            "EA021",
            mark(body, "pack_as_bytes"),
            "gRPC bodies would be damaged; set `pack_as_bytes: true`",
            warning=True,
        )
    size = number(get(body, "max_request_bytes"))
    expected = bootstrap.facts.max_request_bytes
    if expected is not None and size != expected:
        message = f"max_request_bytes is {size}, but the sidecar's server.max_request_bytes is {expected}"
        yield Finding("EA021", mark(body, "max_request_bytes"), message, warning=True)
    elif size is None or size > MAX_BODY_BYTES:
        yield Finding(
            "EA021",
            mark(body, "max_request_bytes"),
            f"buffers more than {MAX_BODY_BYTES} bytes a request",
            warning=True,
        )
    if manager.upgrades():
        yield Finding(
            "EA022",
            mark(manager.config, "upgrade_configs"),
            "an Upgrade header skips body buffering, so body rules see nothing",
        )


def _after(manager: Manager, entry: Node) -> Iterator[Finding]:
    filters = manager.filters()
    for each in filters[filters.index(entry) + 1 :]:
        found = _AREA.search(extension(each) + ".")
        area = found[1] if found else ""
        if extension(each).endswith(".ExtAuthz") or area in _LEAVES_ROUTES:
            continue
        name = text(get(each, "name")) or kind(get(each, "typed_config"))
        if area in _CHANGES_ROUTES:
            yield Finding(
                "EA012", each.mark, f"`{name}` can change the request after the decision; move it before ext_authz"
            )
        else:
            message = f"`{name}` runs after the decision and is not known to leave the request alone"
            yield Finding("EA012", each.mark, message, warning=True)
