"""What a sidecar's configuration says about the Envoy in front of it.

Law: everything the two must agree on is taken from one place. Non-goal:
Envoy's own files and upstreams, which the sidecar cannot know.
"""

from collections.abc import Collection
from typing import Final

from ext_authz.config import Settings
from ext_authz.envoy_config.rules import Facts
from ext_authz.envoy_config.settings import Address, ClientTls, EnvoySettings

COOKIE: Final = "cookie"
SERVICE: Final = "ext-authz"
"""Stands for the sidecar's host where it listens on every address."""
_FILES: Final = "/etc/envoy/certs"


def envoy_settings(
    settings: Settings, header_names: Collection[str] = (), *, trusted_hops: int | None = None
) -> EnvoySettings:
    """Return what `generate` makes a configuration from, for this sidecar.

    `header_names` are the request headers that its snapshot reads.
    `trusted_hops`, where it is not given, is 1 if `server.trusted_proxies`
    holds a network and 0 if not. Raises SettingsError.
    """
    server, mtls = settings.server, settings.identity.mtls
    networks = any(not isinstance(each, str) for each in server.trusted_proxies)
    addresses = tuple(map(_reachable, server.addresses()))
    remote = next((Address.parse(each) for each in addresses if not Address.parse(each).local), None)
    defaults = EnvoySettings()
    return EnvoySettings(
        authz=addresses,
        authz_tls=None if server.tls is None and remote is None else _tls(remote),
        trust_domains=tuple(mtls.trust_domains) if mtls is not None else defaults.trust_domains,
        trusted_hops=int(networks) if trusted_hops is None else trusted_hops,
        max_request_bytes=server.max_request_bytes,
        hide_cookies=COOKIE not in header_names,
    )


def facts(
    settings: Settings,
    header_names: Collection[str] = (),
    injected: Collection[str] = (),
    *,
    trusted_hops: int | None = None,
) -> Facts:
    """Return what `lint_text` compares with; arguments as above, `injected` the names an answer may set."""
    server = settings.server
    return Facts(
        max_request_bytes=server.max_request_bytes,
        workers=len(server.addresses()),
        trusted_hops=trusted_hops,
        headers_read=frozenset(header_names),
        headers_injected=frozenset(injected),
    )


def _reachable(address: str) -> str:
    """Return where Envoy connects to: nobody connects to the unspecified address."""
    parsed = Address.parse(address)
    return f"{SERVICE}:{parsed.port}" if parsed.ip is not None and parsed.ip.is_unspecified else address


def _tls(remote: Address | None) -> ClientTls:
    name = remote.host if remote is not None else "localhost"
    return ClientTls(f"{_FILES}/authz-ca.pem", f"{_FILES}/envoy.pem", f"{_FILES}/envoy.key", name)
