"""What the rules share: the finding, the bootstrap, and one HTTP connection manager in it.

Law: frozen; every rule is a function from these to findings.
Non-goal: a rule of its own.
"""

from dataclasses import dataclass
from typing import Final

from ext_authz.documents import Mark, Node
from ext_authz.envoy_config.tree import extension, get, items, text

MANAGER: Final = ".http_connection_manager.v3.HttpConnectionManager"
HTTP_AUTHZ: Final = ".filters.http.ext_authz.v3.ExtAuthz"
NETWORK_AUTHZ: Final = ".filters.network.ext_authz.v3.ExtAuthz"
PER_ROUTE: Final = ".filters.http.ext_authz.v3.ExtAuthzPerRoute"
FILTER_CONFIG: Final = "envoy.config.route.v3.FilterConfig"


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule broken at one place."""

    rule: str
    mark: Mark
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the sidecar's configuration says. None or empty: not known, not compared."""

    max_request_bytes: int | None = None
    workers: int | None = None
    sockets: frozenset[str] = frozenset()
    trusted_hops: int | None = None
    headers_read: frozenset[str] = frozenset()
    headers_injected: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The whole file."""

    root: Node | None
    facts: Facts

    def cluster(self, name: str) -> Node | None:
        """Return the static cluster of that name."""
        clusters = items(get(self.root, "static_resources", "clusters"))
        return next((each for each in clusters if text(get(each, "name")) == name), None)


@dataclass(frozen=True, slots=True)
class Manager:
    """One HTTP connection manager with the listener and filter chain it is in."""

    listener: Node
    chain: Node | None
    config: Node

    def filters(self) -> tuple[Node, ...]:
        """Return its HTTP filters in order."""
        return items(get(self.config, "http_filters"))

    def authz_filters(self) -> list[Node]:
        """Return its ext_authz filters, whatever they are called."""
        return [each for each in self.filters() if extension(each).endswith(HTTP_AUTHZ)]

    def upgrades(self) -> bool:
        """Whether requests may become tunnels here."""
        return get(self.config, "upgrade_configs") is not None or any(
            get(self.config, options, "allow_connect") is not None
            for options in ("http2_protocol_options", "http3_protocol_options")
        )
