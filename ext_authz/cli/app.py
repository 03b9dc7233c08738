"""The command line as a whole: which command is where.

Law: importing this file imports no component; a command does that itself.
"""

# ruff: noqa: FBT002  a command's parameters are its options

from typing import Annotated

import typer

from ext_authz.cli import (
    access,
    approve,
    audit,
    bundle,
    cases,
    changes,
    checks,
    credentials,
    encryption,
    envoy,
    monitor,
    replay,
    run,
    schemas,
)

EPILOG = "Exit status: 0 done, 1 what was checked does not hold, 2 usage or configuration error, 70 internal error."

app = typer.Typer(
    name="ext-authz",
    help="A zero-trust authorization sidecar for ML platforms behind Envoy.\n\n"
    "Example: `ext-authz check && ext-authz serve`",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_RUN = "Run"
_POLICIES = "Policies"
_STATE = "State"
_CREDENTIALS = "Credentials"
_TOOLS = "Tools"
_ENCRYPTION = "Encryption"

app.command(rich_help_panel=_RUN)(run.serve)
app.command(rich_help_panel=_RUN)(run.demo)
app.command(rich_help_panel=_RUN)(monitor.monitor)
app.command(rich_help_panel=_POLICIES)(checks.check)
app.command(rich_help_panel=_POLICIES)(checks.explain)
app.command("test", rich_help_panel=_POLICIES)(cases.run_tests)
app.command(rich_help_panel=_POLICIES)(replay.replay)
app.command(rich_help_panel=_POLICIES)(access.access)
app.add_typer(bundle.app, name="bundle", rich_help_panel=_POLICIES)
app.command(rich_help_panel=_STATE)(approve.approve)
app.command(rich_help_panel=_STATE)(changes.approvals)
app.command(rich_help_panel=_STATE)(changes.revoke)
app.command(rich_help_panel=_STATE)(changes.revocations)
app.command(rich_help_panel=_STATE)(changes.quarantine)
app.command(rich_help_panel=_STATE)(changes.quarantines)
app.add_typer(credentials.apikey, name="apikey", rich_help_panel=_CREDENTIALS)
app.add_typer(credentials.token, name="token", rich_help_panel=_CREDENTIALS)
app.add_typer(audit.app, name="audit", rich_help_panel=_TOOLS)
app.add_typer(envoy.app, name="envoy", rich_help_panel=_TOOLS)
app.add_typer(schemas.app, name="schema", rich_help_panel=_TOOLS)
app.command(rich_help_panel=_ENCRYPTION)(encryption.encrypt)
app.command(rich_help_panel=_ENCRYPTION)(encryption.decrypt)
app.command(rich_help_panel=_ENCRYPTION)(encryption.rewrap)
app.add_typer(encryption.keyring, name="keyring", rich_help_panel=_ENCRYPTION)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  an option's callback takes its value
    if wanted:
        from ext_authz import __version__
        from ext_authz.cli.frame import say

        say(f"ext-authz {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Answer Envoy: a zero-trust authorization sidecar for ML platforms."""
    del version
