"""Where Envoy connects to: the sidecar's workers and the upstreams.

Law: the sidecar is reached over a Unix socket, loopback or mutual TLS, never
otherwise. Non-goal: service discovery beyond DNS.
"""

from textwrap import indent
from typing import Final

from ext_authz.envoy_config.settings import Address, ClientTls, EnvoySettings, SettingsError, Upstream, quote

_TYPE: Final = "type.googleapis.com/envoy.extensions"
_HTTP2: Final = f"""\
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": {_TYPE}.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {{ http2_protocol_options: {{}} }}
"""


def authz_cluster(settings: EnvoySettings) -> str:
    """Write the sidecar's: one endpoint per worker, health checked, panic routing off."""
    endpoints = [Address.parse(each) for each in settings.authz]
    policy = "  lb_policy: LEAST_REQUEST\n" if len(endpoints) > 1 else ""
    text = f"""\
- name: authz
  type: {_discovery("authz", endpoints)}
  connect_timeout: 0.25s
{policy}\
  common_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}  # no healthy worker: deny at once
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": {_TYPE}.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config:
        http2_protocol_options:
          max_concurrent_streams: 1000
          connection_keepalive: {{ interval: 30s, timeout: 5s }}  # finds a wedged worker
  circuit_breakers:
    thresholds:
    - {{ max_connections: 1024, max_pending_requests: 4096, max_requests: 4096, max_retries: 64 }}
  health_checks:
  - timeout: 1s
    interval: 2s
    no_traffic_interval: 2s  # the default minute would keep a late sidecar out
    unhealthy_interval: 0.5s
    unhealthy_threshold: 2
    healthy_threshold: 1
    grpc_health_check: {{ service_name: "" }}
"""
    return indent(text + _tls(settings.authz_tls) + _endpoints("authz", endpoints), "  ")


def upstream_clusters(upstream: Upstream) -> str:
    """Write one cluster for HTTP endpoints and one, suffixed `_grpc`, for gRPC endpoints."""
    made = ""
    if upstream.http:
        made += _upstream(upstream.name, upstream.http, upstream.tls, http2=upstream.http2)
    if upstream.grpc:
        made += _upstream(f"{upstream.name}_grpc", upstream.grpc, upstream.tls, http2=True)
    return indent(made, "  ")


def _upstream(name: str, texts: tuple[str, ...], tls: ClientTls | None, *, http2: bool) -> str:
    endpoints = [Address.parse(each) for each in texts]
    head = f"- name: {quote(name)}\n  type: {_discovery(name, endpoints)}\n  connect_timeout: 1s\n"
    return head + (_HTTP2 if http2 else "") + _tls(tls) + _endpoints(name, endpoints)


def _discovery(name: str, endpoints: list[Address]) -> str:
    """Return STATIC for sockets and addresses, STRICT_DNS for names. Raises SettingsError on a mix with sockets."""
    named = [each for each in endpoints if not each.path and each.ip is None]
    if not named:
        return "STATIC"
    if any(each.path for each in endpoints):
        raise SettingsError(f"cluster `{name}`: Envoy cannot mix Unix sockets and host names in one cluster")
    return "STRICT_DNS"


def _tls(tls: ClientTls | None) -> str:
    if tls is None:
        return ""
    kind = "URI" if "://" in tls.server_name else "DNS"
    sni = "" if kind == "URI" else f"\n      sni: {quote(tls.server_name)}"
    return f"""\
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": {_TYPE}.transport_sockets.tls.v3.UpstreamTlsContext{sni}
      common_tls_context:
        tls_params: {{ tls_minimum_protocol_version: TLSv1_2 }}
        tls_certificates:
        - certificate_chain: {{ filename: {quote(tls.certificate)} }}
          private_key: {{ filename: {quote(tls.private_key)} }}
        validation_context:
          trusted_ca: {{ filename: {quote(tls.ca)} }}
          match_typed_subject_alt_names: [{{ san_type: {kind}, matcher: {{ exact: {quote(tls.server_name)} }} }}]
"""


def _endpoints(name: str, endpoints: list[Address]) -> str:
    lines = "".join(f"      - endpoint: {{ address: {_address(each)} }}\n" for each in endpoints)
    return f"  load_assignment:\n    cluster_name: {quote(name)}\n    endpoints:\n    - lb_endpoints:\n{lines}"


def _address(address: Address) -> str:
    if address.path:
        return f"{{ pipe: {{ path: {quote(address.path)} }} }}"
    return f"{{ socket_address: {{ address: {quote(address.host)}, port_value: {address.port} }} }}"
