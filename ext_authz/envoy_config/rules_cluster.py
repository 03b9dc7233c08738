"""Rules about the sidecar's cluster and the admin port (EA060 to EA065).

Law: whoever can answer in the sidecar's place, or reach the admin port, decides
everything. Non-goal: the upstreams' clusters.
"""

from collections.abc import Iterator
from typing import Final

from ext_authz.documents import Node
from ext_authz.envoy_config.rules import Bootstrap, Facts, Finding
from ext_authz.envoy_config.tree import extension, first, get, items, loopback, mark, number, seconds, text

_TLS: Final = ".transport_sockets.tls.v3.UpstreamTlsContext"
_OTHERS: Final = 0o077
_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def authz(cluster: Node, facts: Facts) -> Iterator[Finding]:
    """Judge the cluster that is asked for decisions."""
    endpoints = [
        get(each, "endpoint", "address")
        for group in items(get(cluster, "load_assignment", "endpoints"))
        for each in items(get(group, "lb_endpoints"))
    ]
    remote = [each for each in endpoints if not _local(each)]
    encrypted = extension(get(cluster, "transport_socket")).endswith(_TLS)
    if (remote or not endpoints) and not encrypted:
        place = remote[0].mark if remote and remote[0] is not None else cluster.mark
        yield Finding(
            "EA063", place, "decisions cross a network without TLS; use a Unix socket, loopback or mutual TLS"
        )
    if len(endpoints) > 1 and get(cluster, "health_checks") is None and get(cluster, "outlier_detection") is None:
        yield Finding("EA060", cluster.mark, "a dead worker would deny its share; add health_checks", warning=True)
    if facts.workers is not None and len(endpoints) < facts.workers:
        message = f"{len(endpoints)} endpoints for {facts.workers} workers: name each worker's socket"
        yield Finding("EA062", mark(cluster, "load_assignment"), message, warning=True)
    for each in endpoints:
        path = get(each, "pipe", "path")
        if facts.sockets and path is not None and text(path) not in facts.sockets:
            message = f"the sidecar listens on no socket {text(path)}: it has {', '.join(sorted(facts.sockets))}"
            yield Finding("EA062", path.mark, message, warning=True)
    thresholds = items(get(cluster, "circuit_breakers", "thresholds"))
    if not any(number(get(each, "max_requests")) for each in thresholds):
        yield Finding(
            "EA061",
            mark(cluster, "circuit_breakers"),
            "1024 checks in flight at most, then denials; set max_requests",
            warning=True,
        )
    yield from _liveness(cluster)


def _liveness(cluster: Node) -> Iterator[Finding]:
    options = get(
        cluster, "typed_extension_protocol_options", _OPTIONS, "explicit_http_config", "http2_protocol_options"
    )
    options = first(options, get(cluster, "http2_protocol_options"), cluster)
    if get(options, "connection_keepalive") is None:
        yield Finding(
            "EA064",
            options.mark if options is not None else cluster.mark,
            "no `connection_keepalive`: a wedged worker is not noticed",
            warning=True,
        )
    timeout = seconds(get(cluster, "connect_timeout"))
    if timeout is None or timeout > 1:
        yield Finding("EA064", mark(cluster, "connect_timeout"), "set `connect_timeout` to 1s or less", warning=True)


def _local(address: Node | None) -> bool:
    if get(address, "pipe") is not None:
        return True
    return loopback(text(get(address, "socket_address", "address")))


def admin(bootstrap: Bootstrap) -> Iterator[Finding]:
    """Judge the admin listener."""
    address = get(bootstrap.root, "admin", "address")
    host = text(get(address, "socket_address", "address"))
    if get(address, "socket_address") is not None:
        everywhere = not loopback(host)
        message = "the admin port controls Envoy and shows its secrets; use a Unix socket with mode 0600"
        yield Finding("EA065", mark(address, "socket_address"), message, warning=not everywhere)
    pipe = get(address, "pipe")
    if pipe is not None:
        mode = number(get(pipe, "mode"))
        if mode is None or mode & _OTHERS:
            yield Finding(
                "EA065", mark(pipe, "mode"), "the admin socket is open to others; set `mode: 384` (0600)", warning=True
            )
