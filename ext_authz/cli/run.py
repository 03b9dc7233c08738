"""`serve` and `demo`: the commands that start processes."""

# ruff: noqa: FBT002  a command's parameters are its options

from pathlib import Path
from typing import Annotated

import typer

from ext_authz.cli.frame import DEFAULT_CONFIG, CommandError, ConfigOption


def serve(config: ConfigOption = DEFAULT_CONFIG) -> int:
    """Run the sidecar until SIGTERM (drains) or SIGINT; SIGHUP reloads.

    Example: `ext-authz serve -c /etc/ext-authz/ext-authz.yaml`
    """
    from ext_authz.server import supervisor
    from ext_authz.state import StoreError

    try:
        return supervisor.serve(config)
    except (supervisor.StartError, StoreError) as error:
        raise CommandError(str(error)) from None


def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where to put everything; `demo-run` if not given.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running and print commands to try.")] = False,
) -> int:
    """Show the main job here: certificates, a real model server, the sidecar, a real Envoy, real calls.

    Example: `ext-authz demo --keep`
    """
    from ext_authz.demo import run

    return run.main(directory, keep)
