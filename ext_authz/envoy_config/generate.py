"""Settings to the text of an Envoy bootstrap, every safeguard with its reason beside it.

Law: pure; the same settings give the same bytes, and a value reaches the text
only as a quoted scalar. Non-goal: dynamic (xDS) configuration.
"""

# ruff: noqa: E501  the text below is YAML, written as it is read
from textwrap import dedent, indent
from typing import Final

from ext_authz.envoy_config.clusters import authz_cluster, upstream_clusters
from ext_authz.envoy_config.settings import Address, EnvoySettings, Listener, Upstream, quote

HEADER: Final = """\
# Envoy 1.40 beside the ext-authz sidecar: TLS edge -> ext_authz (gRPC) -> upstreams.
# Written by `ext-authz envoy config`; `ext-authz envoy lint FILE` finds what later edits weaken.
"""
_WHOLE_LISTINGS: Final = "  # a listing is filtered whole"
_TYPE: Final = "type.googleapis.com/envoy.extensions"


def generate(settings: EnvoySettings | None = None) -> str:
    """Return the bootstrap as YAML; without settings, the documented defaults (envoy/envoy.yaml)."""
    made = settings or EnvoySettings()
    listeners = "".join(_listener(made, each) for each in made.listeners)
    clusters = authz_cluster(made) + "".join(upstream_clusters(each) for each in made.upstreams)
    return HEADER + _process(made) + "static_resources:\n  listeners:\n" + listeners + "  clusters:\n" + clusters


def _list(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(quote, values)) + "]"


def _block(text: str, depth: int) -> str:
    return indent(dedent(text), "  " * depth)


def _process(settings: EnvoySettings) -> str:
    admin = Address.parse(settings.admin)
    return _block(
        f"""\
        admin:
          address: {{ pipe: {{ path: {quote(admin.path)}, mode: 384 }} }}  # 384 is 0600; full control of Envoy: never a TCP port
        overload_manager:
          resource_monitors:
          - name: envoy.resource_monitors.global_downstream_max_connections
            typed_config:
              "@type": {_TYPE}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
              max_active_downstream_connections: 10000
        """,
        0,
    )


def _listener(settings: EnvoySettings, listener: Listener) -> str:
    address = Address.parse(listener.address)
    head = f"""\
        - name: {quote(listener.name)}
          address: {{ socket_address: {{ address: {quote(address.host)}, port_value: {address.port} }} }}
          per_connection_buffer_limit_bytes: {1048576 if settings.listings_filter else 32768}{_WHOLE_LISTINGS if settings.listings_filter else ""}
          filter_chains:
          - transport_socket_connect_timeout: 10s
        """
    return (
        _block(head, 1)
        + _block(_downstream_tls(settings, listener), 3)
        + _block("filters:\n", 3)
        + _block(_connection_manager(settings, listener), 3)
        + _block(_http_filters(settings), 5)
        + _route_config(settings)
    )


def _downstream_tls(settings: EnvoySettings, listener: Listener) -> str:
    if listener.require_client_certificate:
        required = "require_client_certificate: true  # default false: callers without one would reach the filter chain"
        common, validation = "", _validation(settings)
    else:
        # Envoy cannot make a certificate optional and match its names: either all come with one or nobody does.
        required = (
            "require_client_certificate: false  # tokens and keys alone, no principal here; ext-authz lint: allow EA030"
        )
        common, validation = "  # ext-authz lint: allow EA031", ""
    return f"""\
        transport_socket:
          name: envoy.transport_sockets.tls
          typed_config:
            "@type": {_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext
            {required}
            common_tls_context:{common}
              alpn_protocols: [h2, http/1.1]
              tls_params: {{ tls_minimum_protocol_version: TLSv1_2 }}
              tls_certificates:
              - certificate_chain: {{ filename: {quote(settings.certificate)} }}
                private_key: {{ filename: {quote(settings.private_key)} }}
{validation}        """


def _validation(settings: EnvoySettings) -> str:
    revoked = f"\n                crl: {{ filename: {quote(settings.client_crl)} }}" if settings.client_crl else ""
    prefixes = "".join(
        f"                - {{ san_type: URI, matcher: {{ prefix: {quote(f'spiffe://{domain}/')} }} }}\n"
        for domain in settings.trust_domains
    )
    return f"""\
              validation_context:  # without it no certificate is even asked for
                trusted_ca: {{ filename: {quote(settings.client_ca)} }}{revoked}
                match_typed_subject_alt_names:  # no CN or DNS fallback: a principal is a SPIFFE id of ours
{prefixes}"""


def _connection_manager(settings: EnvoySettings, listener: Listener) -> str:
    underscores = "ALLOW" if settings.unsafe_keep_forged_headers else "REJECT_REQUEST"
    return f"""\
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": {_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: {quote(listener.name)}
            codec_type: AUTO
            use_remote_address: true  # x-envoy-* from outside is stripped, x-forwarded-for is extended
            xff_num_trusted_hops: {settings.trusted_hops}  # agrees with the sidecar's server.trusted_proxies
            # An empty list would keep loopback "internal" (CVE-2024-45806); a range that nobody uses trusts nobody.
            internal_address_config: {{ unix_sockets: false, cidr_ranges: [{{ address_prefix: 203.0.113.0, prefix_len: 32 }}] }}
{_early_removal(settings)}\
            forward_client_cert_details: SANITIZE_SET  # the client's own x-forwarded-client-cert is dropped
            set_current_client_cert_details: {{ uri: true, dns: true, subject: true }}
            normalize_path: true
            merge_slashes: true
            path_with_escaped_slashes_action: REJECT_REQUEST  # %2F and %5C: 400
            strip_any_host_port: true
            strip_trailing_host_dot: true
            server_header_transformation: OVERWRITE
            preserve_external_request_id: false
            always_set_request_id_in_response: true  # what a caller quotes is what the audit trail holds
            request_headers_timeout: 10s
            request_timeout: {settings.request_timeout}  # to receive a request whole; bounds streams of the caller too
            stream_idle_timeout: 120s
            max_request_headers_kb: 60
            common_http_protocol_options:
              idle_timeout: 300s
              max_stream_duration: {settings.max_stream_duration}  # a decision covers one request however long it runs
              headers_with_underscores_action: {underscores}  # X_User is X-User to WSGI and CGI upstreams
              max_headers_count: 100
            http2_protocol_options:
              max_concurrent_streams: 100
              initial_stream_window_size: 65536
              initial_connection_window_size: 1048576
            access_log:
            - name: envoy.access_loggers.file
              typed_config:
                "@type": {_TYPE}.access_loggers.file.v3.FileAccessLog
                path: {quote(settings.access_log)}
                log_format:
                  json_format:
                    time: "%START_TIME%"
                    request_id: "%REQ(X-REQUEST-ID)%"
                    method: "%REQ(:METHOD)%"
                    host: "%REQ(:AUTHORITY)%"
                    path: "%PATH(NQ:PATH)%"  # without the query, which may hold a token
                    code: "%RESPONSE_CODE%"
                    details: "%RESPONSE_CODE_DETAILS%"
                    flags: "%RESPONSE_FLAGS%"
                    grpc: "%GRPC_STATUS%"
                    certificate: "%DOWNSTREAM_PEER_URI_SAN%"
                    duration_ms: "%DURATION%"
                    authz: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%"
                    authz_us: "%FILTER_STATE(envoy.filters.http.ext_authz:FIELD:latency_us)%"
        """


def _early_removal(settings: EnvoySettings) -> str:
    if settings.unsafe_keep_forged_headers:
        return ""
    return f"""\
            early_header_mutation_extensions:  # before any filter: what only the sidecar or Envoy may say
            - name: envoy.http.early_header_mutation.header_mutation
              typed_config:
                "@type": {_TYPE}.http.early_header_mutation.header_mutation.v3.HeaderMutation
                mutations:
                - {{ remove_on_match: {{ key_matcher: {{ prefix: "x-authz-", ignore_case: true }} }} }}
                - {{ remove_on_match: {{ key_matcher: {{ prefix: "x-envoy-auth-", ignore_case: true }} }} }}
                - {{ remove: "x-envoy-attempt-count" }}
                - {{ remove: "x-http-method-override" }}
                - {{ remove: "x-original-url" }}
                - {{ remove: "x-rewrite-url" }}
"""


def _http_filters(settings: EnvoySettings) -> str:
    cookies = (
        "disallowed_headers: { patterns: [{ exact: cookie, ignore_case: true }] }  # no token cookie is configured"
        if settings.hide_cookies
        else "# cookie is shown to the sidecar: a token cookie is configured"
    )
    listings = ""
    if settings.listings_filter:
        listings = f"""\
        - name: envoy.filters.http.lua  # before ext_authz, so that it sees the answer after ext_authz has decided
          typed_config:
            "@type": {_TYPE}.filters.http.lua.v3.Lua
            default_source_code: {{ filename: {quote(settings.listings_filter)} }}
"""
    told = "".join(
        f"            {name}: {_list(namespaces)}  # what filters before this one found out: routes name models by it\n"
        for name, namespaces in (
            ("metadata_context_namespaces", settings.metadata_namespaces),
            ("route_metadata_context_namespaces", settings.route_metadata_namespaces),
        )
        if namespaces
    )
    return f"""\
        http_filters:
{listings}\
        - name: envoy.filters.http.ext_authz  # last before the router: nothing changes what was decided on
          typed_config:
            "@type": {_TYPE}.filters.http.ext_authz.v3.ExtAuthz
            transport_api_version: V3
            grpc_service:
              envoy_grpc: {{ cluster_name: authz, max_receive_message_length: 1048576 }}
              timeout: {settings.authz_timeout}
              retry_policy:  # a restarting worker costs a retry, not a denial; within the timeout
                retry_on: connect-failure,refused-stream,reset-before-request
                num_retries: 1
                # max_interval also ends each try (seen in 1.40): not before the check itself ends
                retry_back_off: {{ base_interval: 0.005s, max_interval: {settings.authz_timeout} }}
                retry_host_predicate:
                - name: envoy.retry_host_predicates.previous_hosts
                  typed_config: {{ "@type": {_TYPE}.retry.host.previous_hosts.v3.PreviousHostsPredicate }}
                host_selection_retry_max_attempts: 16
            failure_mode_allow: false  # an outage denies (CVE-2023-27488, CVE-2024-23324)
            status_on_error: {{ code: ServiceUnavailable }}  # the default 403 hides outages
            validate_mutations: true  # a bad header from the sidecar is a 500, never on the wire
            decoder_header_mutation_rules:  # what the sidecar may touch
              allow_all_routing: {{ value: false }}
              allow_envoy: {{ value: false }}
              disallow_system: {{ value: true }}
              disallow_is_error: {{ value: true }}
              disallow_expression: {{ regex: "(?i)^(x-forwarded-.*|x-request-id|content-length|transfer-encoding|connection|te|upgrade)$" }}
            clear_route_cache: false
            with_request_body:  # switched off on every route whose meaning is not in the body
              max_request_bytes: {settings.max_request_bytes}
              allow_partial_message: false
              pack_as_bytes: true
            include_peer_certificate: true  # the sidecar verifies it again and knows its serial and dates
            include_tls_session: true
{told}\
            encode_raw_headers: true  # duplicates and bytes as they came
            enable_dynamic_metadata_ingestion: true
            max_denied_response_body_bytes: 4096
            enforce_response_header_limits: true
            emit_filter_state_stats: true
            stat_prefix: authz
            {cookies}
        - name: envoy.filters.http.router
          typed_config:
            "@type": {_TYPE}.filters.http.router.v3.Router
            suppress_envoy_headers: true
        """


def _route_config(settings: EnvoySettings) -> str:
    head = """\
        route_config:
          name: routes
          ignore_path_parameters_in_path_matching: false
          virtual_hosts:
        """
    catch_all = f"""\
        - name: nobody  # no route would mean no check: unknown hosts are asked about too
          domains: ["*"]
          routes:
          - match: {{ prefix: "/" }}
            direct_response: {{ status: 404 }}
{_unbuffered()}\
        """
    hosts = "".join(_virtual_host(each, settings) for each in settings.upstreams)
    return _block(head, 5) + hosts + _block(catch_all, 6)


def _virtual_host(upstream: Upstream, settings: EnvoySettings) -> str:
    web = upstream.name if upstream.http else f"{upstream.name}_grpc"
    bound = f"max_stream_duration: {{ max_stream_duration: {settings.max_stream_duration}, grpc_timeout_header_max: {settings.max_stream_duration} }}"
    routes = "".join(
        _route(f"path: {quote(path)}", f"{upstream.name}_grpc", "0s", bound, body=False)
        for path in upstream.grpc_streams
    )
    routes += "".join(
        _route(f"prefix: {quote(f'/{service}/')}", f"{upstream.name}_grpc", upstream.timeout, "", body=True)
        for service in upstream.grpc_services
    )
    routes += "".join(
        _route(f"prefix: {quote(path)}", web, upstream.timeout, "", body=True) for path in upstream.body_paths
    )
    if upstream.http and upstream.grpc:
        # Health, reflection and whatever else speaks gRPC here; streams of those cannot be buffered.
        routes += _route('prefix: "/", grpc: {}', f"{upstream.name}_grpc", "0s", bound, body=False)
    routes += _route('prefix: "/"', web, upstream.timeout, "", body=False)
    head = f"""\
        - name: {quote(upstream.name)}
          domains: {_list(upstream.hosts)}
          routes:
        """
    return _block(head, 6) + routes


def _route(match: str, cluster: str, timeout: str, bound: str, *, body: bool) -> str:
    action = ", ".join(filter(None, (f"cluster: {quote(cluster)}", f"timeout: {timeout}", bound)))
    text = f"""\
        - match: {{ {match} }}
          route: {{ {action} }}
        """
    if not body:
        return _block(text, 7) + indent(dedent(_unbuffered()), "  " * 8)
    return _block(text, 7).replace("}\n", "}  # the check reads the body\n", 1)


def _unbuffered() -> str:
    return f"""\
            typed_per_filter_config:
              envoy.filters.http.ext_authz:
                "@type": {_TYPE}.filters.http.ext_authz.v3.ExtAuthzPerRoute
                check_settings: {{ disable_request_body_buffering: true }}
"""
