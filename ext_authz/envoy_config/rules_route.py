"""Rules about routes (EA013 to EA016, EA047, EA053, EA054, EA067): every request is asked about, none goes round.

Law: a request without a route is not checked by Envoy, so there must be none.
Non-goal: routes from RDS, which a file does not show.
"""

from collections.abc import Iterator
from typing import Final

from ext_authz.documents import MappingNode, Node
from ext_authz.envoy_config.rules import FILTER_CONFIG, PER_ROUTE, Finding, Manager
from ext_authz.envoy_config.tree import first, get, items, kind, mark, text, truth

_CONDITIONS: Final = (
    "headers", "query_parameters", "cookies", "grpc", "tls_context", "dynamic_metadata", "filter_state",
    "runtime_fraction",
)  # fmt: skip
_OPEN_MATCHES: Final = ("prefix", "safe_regex", "path_separated_prefix", "path_match_policy")


def routes(manager: Manager) -> Iterator[Finding]:
    """Judge the inline routes of one connection manager."""
    table = get(manager.config, "route_config")
    if table is None:
        source = mark(manager.config, "rds" if get(manager.config, "rds") is not None else "scoped_routes")
        yield Finding("EA000", source, "routes come from elsewhere and were not looked at", warning=True)
        return
    hosts = items(get(table, "virtual_hosts"))
    if not any(text(domain) == "*" for host in hosts for domain in items(get(host, "domains"))):
        yield Finding(
            "EA013",
            mark(table, "virtual_hosts"),
            'no virtual host has `domains: ["*"]`: without a route Envoy skips the check; add one that answers 404',
        )
    for host in hosts:
        yield from _last_route(host)
    if truth(get(table, "ignore_path_parameters_in_path_matching")) is True:
        yield Finding(
            "EA047",
            mark(table, "ignore_path_parameters_in_path_matching"),
            "the route would be chosen by another path than the one that is checked",
            warning=True,
        )
    yield from _per_filter(manager, table)
    yield from _actions(table)


def _last_route(host: Node) -> Iterator[Finding]:
    found = items(get(host, "routes"))
    match = get(found[-1], "match") if found else None
    open_end = text(get(match, "prefix")) == "/" and not any(get(match, name) is not None for name in _CONDITIONS)
    if not open_end:
        place = found[-1].mark if found else mark(host, "routes")
        yield Finding(
            "EA013",
            place,
            f'the last route of `{text(get(host, "name"))}` is not `prefix: "/"` without conditions; add one',
        )


def _per_filter(manager: Manager, table: Node) -> Iterator[Finding]:
    names = {text(get(each, "name")) for each in manager.filters()}
    guards = {text(get(each, "name")) for each in manager.authz_filters()}
    normal = truth(get(manager.config, "normalize_path")) is True
    for owner, match in _owners(table):
        settings = get(owner, "typed_per_filter_config")
        if not isinstance(settings, MappingNode):
            continue
        for key, value in settings:
            if key.text not in names:
                yield Finding("EA016", key.mark, f"no HTTP filter is called `{key.text}`, so this is ignored")
            ours = kind(value).endswith(PER_ROUTE) or (kind(value) == FILTER_CONFIG and key.text in guards)
            if not ours:
                continue
            inner = get(value, "config") if kind(value) == FILTER_CONFIG else value
            if _on(value, "disabled") or _on(inner, "disabled"):
                yield Finding(
                    "EA014",
                    key.mark,
                    "the check is switched off here; use an `unsafe_public` route of the sidecar instead",
                )
                if not normal and any(get(match, name) is not None for name in _OPEN_MATCHES):
                    yield Finding("EA015", key.mark, "and any path could be written to match it: normalize_path is off")
            override = get(inner, "check_settings")
            if get(override, "grpc_service") is not None or get(override, "http_service") is not None:
                yield Finding(
                    "EA067", key.mark, "asks another service than the filter does (CVE-2026-47205)", warning=True
                )


def _owners(table: Node) -> Iterator[tuple[Node, Node | None]]:
    """Yield everything that can carry per-filter configuration, with the route's match where there is one."""
    yield table, None
    for host in items(get(table, "virtual_hosts")):
        yield host, None
        for route in items(get(host, "routes")):
            match = get(route, "match")
            yield route, match
            for cluster in items(get(route, "route", "weighted_clusters", "clusters")):
                yield cluster, match


def _on(node: Node | None, name: str) -> bool:
    return get(node, name) is not None and truth(get(node, name)) is not False


def _actions(table: Node) -> Iterator[Finding]:
    for host in items(get(table, "virtual_hosts")):
        for route in items(get(host, "routes")):
            action = get(route, "route")
            for name, why in (
                ("internal_redirect_policy", "a redirect is followed inside Envoy and checked as another request"),
                ("request_mirror_policies", "mirrored requests are not checked on their own"),
            ):
                if get(action, name) is not None:
                    yield Finding("EA054", mark(action, name), why, warning=True)
            tunnel = first(get(action, "upgrade_configs"), get(route, "match", "connect_matcher"))
            if tunnel is not None:
                yield Finding(
                    "EA053",
                    tunnel.mark,
                    "one check covers a whole tunnel; bound it, and name it in a route",
                    warning=True,
                )
