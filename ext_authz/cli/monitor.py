"""`monitor`: one watcher for many sidecars."""

from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli.frame import DEFAULT_CONFIG, CommandError, ConfigOption, TrailKeyOption, open_trail_key, say


def monitor(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="Trail folders and files of JSON lines, or `-`, or `rediss://HOST:PORT/DB?stream=NAME`, or "
            "`tls://HOST:PORT?subject=NAME` (NATS JetStream).",
        ),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    key: TrailKeyOption = "",
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", metavar="FILE", help="PEM authorities of a stream over TLS.")
    ] = None,
) -> int:
    """Watch the events of a fleet: alerts, risk and quarantines for every sidecar that shares the state.

    Its configuration has a `monitor` section, a `run_dir` of its own, and the fleet's `state`.
    Credentials are EXT_AUTHZ_REDIS_USERNAME and EXT_AUTHZ_REDIS_PASSWORD, or EXT_AUTHZ_NATS_USERNAME and
    EXT_AUTHZ_NATS_PASSWORD or EXT_AUTHZ_NATS_TOKEN.

    Example: `ext-authz monitor "rediss://redis.internal:6379/0?stream=audit" -c monitor.yaml`
    """
    import os

    from ext_authz.audit.spool import AuditUnavailable
    from ext_authz.config import load_inputs
    from ext_authz.monitor.feeds import Feed, TrailFeed
    from ext_authz.server.central import SECTIONS, CentralError, feed_of, watch
    from ext_authz.state import StoreError

    inputs = load_inputs(config, os.environ, SECTIONS)

    def open_trail(paths: list[Path]) -> Feed:
        try:
            return TrailFeed(paths, open_trail_key(key, config))
        except FileNotFoundError as error:
            raise CentralError(f"cannot read `{error.filename}`: no such file or directory") from None

    try:
        watch(inputs, lambda: feed_of(sources, open_trail, ca_file), lambda: say("watching"))
    except (CentralError, StoreError, AuditUnavailable, ValueError) as error:
        raise CommandError(str(error)) from None
    return 0
