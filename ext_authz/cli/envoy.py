"""`envoy config` and `envoy lint`: Envoy's side, from what the sidecar's own configuration says.

Law: what is printed is safe or nothing is printed; lint reads no more than the file and the configuration.
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ext_authz.cli.frame import DEFAULT_CONFIG, DOES_NOT_HOLD, DONE, CommandError, ConfigOption, say

if TYPE_CHECKING:
    from ext_authz.config import Settings
    from ext_authz.envoy_config.rules import Facts
    from ext_authz.envoy_config.settings import ClientTls, Upstream
    from ext_authz.mappers.adapter import Adapter

OPEN_INFERENCE = "open-inference"
OBJECT_STORES = ("s3", "s3-virtual-host")

app = typer.Typer(
    help="Envoy's side: print a safe configuration, find unsafe settings in one.\n\n"
    "Example: `ext-authz envoy lint /etc/envoy/envoy.yaml`",
    no_args_is_help=True,
)

Hops = Annotated[
    int, typer.Option("--trusted-hops", min=0, metavar="N", help="Proxies in front whose x-forwarded-for counts.")
]


@app.command("config")
def config_(
    config: ConfigOption = DEFAULT_CONFIG,
    listen: Annotated[str, typer.Option("--listen", metavar="ADDR", help="Where Envoy listens.")] = "127.0.0.1:8443",
    certificate: Annotated[
        str, typer.Option("--certificate", metavar="PEM", help="Envoy's certificate.")
    ] = "/etc/envoy/certs/server.pem",
    private_key: Annotated[
        str, typer.Option("--private-key", metavar="PEM", help="Its key.")
    ] = "/etc/envoy/certs/server.key",
    client_ca: Annotated[
        str, typer.Option("--client-ca", metavar="PEM", help="CA of client certificates.")
    ] = "/etc/envoy/certs/ca.pem",
    no_client_certificate: Annotated[
        bool,
        typer.Option(
            "--no-client-certificate",
            help="No caller shows a certificate; without, all do (Envoy cannot match an optional one's name).",
        ),
    ] = False,
    require_client_certificate: Annotated[
        # The default, for who wants to say it; beside its opposite in one option the help has no room for words.
        bool, typer.Option("--require-client-certificate", hidden=True)
    ] = False,
    upstream: Annotated[
        list[str] | None,
        typer.Option("--upstream", metavar="HOST=ADDR", help="A host and its HTTP endpoint; repeatable."),
    ] = None,
    grpc: Annotated[
        list[str] | None, typer.Option("--grpc", metavar="HOST=ADDR", help="The host's gRPC endpoint; repeatable.")
    ] = None,
    trusted_hops: Hops = 0,
    authz_tls: Annotated[
        str,
        typer.Option(
            "--authz-tls", metavar="FILES", help="CA,CERT,KEY,NAME: how Envoy proves itself to a sidecar with TLS."
        ),
    ] = "",
    access_log: Annotated[
        str, typer.Option("--access-log", metavar="FILE", help="Envoy's access log.")
    ] = "/dev/stdout",
    filter_listings: Annotated[
        str, typer.Option("--filter-listings", metavar="LUA", help="Where Envoy finds `envoy/listings.lua`.")
    ] = "",
) -> None:
    """Print a safe Envoy configuration for this sidecar.

    Example: `ext-authz envoy config --upstream models.internal=127.0.0.1:8080 > envoy.yaml`
    """
    from ext_authz import wiring
    from ext_authz.envoy_config.generate import generate
    from ext_authz.envoy_config.settings import EnvoySettings, Listener, SettingsError
    from ext_authz.model import SourceKind

    if no_client_certificate and require_client_certificate:
        raise CommandError("`--require-client-certificate` and `--no-client-certificate` exclude each other")
    inputs, snapshot = wiring.load(config, os.environ)
    settings = inputs.settings
    if settings.server.tls is not None and not authz_tls:
        raise CommandError(
            "`server.tls` is configured: say how Envoy proves itself with `--authz-tls CA,CERT,KEY,NAME`"
        )
    options: dict[str, Any] = {"hide_cookies": "cookie" not in snapshot.header_names}
    if settings.identity.mtls is not None and settings.identity.mtls.trust_domains:
        options["trust_domains"] = settings.identity.mtls.trust_domains
    adapters: dict[str, list[Adapter]] = {}
    for entry in snapshot.routes.entries:
        # Where Envoy's metadata tells the model, the check needs no body.
        if entry.adapter is not None and entry.host is not None and entry.named_by is None:
            adapters.setdefault(entry.host.text, []).append(entry.adapter)
    for kind, option in (
        (SourceKind.METADATA, "metadata_namespaces"),
        (SourceKind.ROUTE_METADATA, "route_metadata_namespaces"),
    ):
        options[option] = tuple(sorted({each.namespace for each in snapshot.routes.sources if each.kind is kind}))
    upstreams = _upstreams(upstream or [], grpc or [], adapters)
    if upstreams:
        options["upstreams"] = upstreams
    try:
        made = EnvoySettings(
            listeners=(Listener(address=listen, require_client_certificate=not no_client_certificate),),
            authz=tuple(_absolute(address) for address in settings.server.addresses()),
            authz_tls=_client_tls(authz_tls) if authz_tls else None,
            certificate=certificate,
            private_key=private_key,
            client_ca=client_ca,
            trusted_hops=trusted_hops,
            max_request_bytes=settings.server.max_request_bytes,
            access_log=access_log,
            listings_filter=filter_listings,
            **options,
        )
    except SettingsError as error:
        raise CommandError(str(error)) from None
    typer.echo(generate(made), nl=False)


def _absolute(address: str) -> str:
    """Envoy does not start in our folder."""
    return f"unix:{Path(address.removeprefix('unix:')).absolute()}" if address.startswith("unix:") else address


def _client_tls(text: str) -> "ClientTls":
    from ext_authz.envoy_config.settings import ClientTls

    parts = text.split(",")
    if len(parts) != 4 or not all(parts):  # noqa: PLR2004  the four of the metavar
        raise CommandError(f"--authz-tls: `{text}` is not CA,CERT,KEY,NAME")
    return ClientTls(*parts)


def _upstreams(
    http: Sequence[str], grpc: Sequence[str], adapters: "Mapping[str, Sequence[Adapter]]"
) -> "tuple[Upstream, ...]":
    """Return one upstream per host, its bodies buffered where one of our routes reads them."""
    from ext_authz.envoy_config.settings import Upstream

    endpoints: dict[str, tuple[list[str], list[str]]] = {}
    for place, texts in enumerate((http, grpc)):
        for text in texts:
            host, equals, address = text.partition("=")
            if not (host and equals and address):
                raise CommandError(f"`{text}` is not HOST=ADDR, such as `models.internal=127.0.0.1:8080`")
            endpoints.setdefault(host, ([], []))[place].append(address)
    made: list[Upstream] = []
    for number, (host, (plain, framed)) in enumerate(endpoints.items()):
        paths, services, streams = _buffered(adapters.get(host, ()))
        made.append(
            Upstream(
                name=f"upstream-{number}",
                hosts=(host,),
                http=tuple(plain),
                grpc=tuple(framed),
                body_paths=paths,
                grpc_services=services if framed else (),
                grpc_streams=streams if framed else (),
            )
        )
    return tuple(made)


def _buffered(adapters: "Sequence[Adapter]") -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the path prefixes and gRPC services whose meaning is in bodies, and the streams of those services."""
    from ext_authz.envoy_config.settings import MODEL_SERVER
    from ext_authz.mappers.adapter import EVERY, GRPC, Reads

    paths: set[str] = set()
    services: dict[str, None] = {}
    streams: dict[str, None] = {}
    for adapter in adapters:
        if adapter.name == OPEN_INFERENCE:
            paths.update(MODEL_SERVER.body_paths)
            services |= dict.fromkeys(MODEL_SERVER.grpc_services)
            streams |= dict.fromkeys(MODEL_SERVER.grpc_streams)
            continue
        # Objects are larger than any buffer; a deletion that is not shown asks for the whole bucket.
        rows = () if adapter.name in OBJECT_STORES else adapter.rows
        reading = [row for row in rows if row.place.reads is Reads.MEANING]
        paths.update(row.template.partition("{")[0] for row in reading if row.method != GRPC)
        for beginning, others in adapter.aliases.items():
            below = [path for path in paths if path.startswith(beginning)]
            paths.update(other + path.removeprefix(beginning) for other in others for path in below)
        own = dict.fromkeys(row.template[1:].partition("/")[0] for row in reading if row.method == GRPC)
        services |= own
        streams |= dict.fromkeys(
            row.template
            for row in rows
            if row.method == GRPC and row.place.reads is not Reads.MEANING and f"(`{EVERY}`)" in row.place.where
            if row.template[1:].partition("/")[0] in own
        )
    shortest = [path for path in paths if not any(path != other and path.startswith(other) for other in paths)]
    return tuple(sorted(shortest)), tuple(services), tuple(streams)


@app.command()
def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An Envoy bootstrap (YAML or JSON).")],
    config: Annotated[
        Path | None,
        typer.Option(
            "-c", "--config", metavar="FILE", help="Compare with this configuration [default: ext-authz.yaml if there]."
        ),
    ] = None,
    trusted_hops: Annotated[
        int | None,
        typer.Option("--trusted-hops", min=0, help="Proxies in front, as `server.trusted_proxies` has them."),
    ] = None,
) -> int:
    """Find unsafe settings in an Envoy configuration (exit 1 where there are any).

    Example: `ext-authz envoy lint /etc/envoy/envoy.yaml`
    """
    from ext_authz.config.load import decode, read_bytes, reason
    from ext_authz.envoy_config.lint import lint_text

    try:
        text = decode(read_bytes(file), str(file))
    except OSError as error:
        raise CommandError(f"cannot read `{file}`: {reason(error)}") from None
    found = lint_text(text, str(file), _facts(config, trusted_hops))
    for each in found:
        say(each.render({str(file): text}))
    unsafe = sum(not each.warning for each in found)
    warnings = len(found) - unsafe
    say(f"{file}: {unsafe} unsafe setting{'s' * (unsafe != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    return DOES_NOT_HOLD if unsafe else DONE


def _facts(config: Path | None, trusted_hops: int | None) -> "Facts":
    from ext_authz.envoy_config.rules import Facts

    if config is None and not DEFAULT_CONFIG.exists():
        return Facts(trusted_hops=trusted_hops)
    from ext_authz import wiring

    inputs, snapshot = wiring.load(config or DEFAULT_CONFIG, os.environ)
    settings: Settings = inputs.settings
    return Facts(
        max_request_bytes=settings.server.max_request_bytes,
        workers=settings.server.worker_count(),
        sockets=frozenset(
            _absolute(each).removeprefix("unix:") for each in settings.server.addresses() if each.startswith("unix:")
        ),
        trusted_hops=trusted_hops,
        headers_read=snapshot.header_names,
        headers_injected=snapshot.headers.injectable,
    )
