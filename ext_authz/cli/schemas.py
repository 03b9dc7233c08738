"""`schema`: JSON Schemas for editors and pipelines."""

import typer

from ext_authz.cli.frame import say_json

app = typer.Typer(
    help="Print a JSON Schema for editors and pipelines.\n\nExample: `ext-authz schema config > ext-authz.schema.json`",
    no_args_is_help=True,
)


@app.command()
def config() -> None:
    """Print the schema of the configuration file.

    Example: `ext-authz schema config > ext-authz.schema.json`
    """
    from ext_authz.tools.schemas import config_schema

    _print(config_schema())


@app.command()
def policy() -> None:
    """Print the schema of a policy file.

    Example: `ext-authz schema policy > policy.schema.json`
    """
    from ext_authz.tools.schemas import policy_schema

    _print(policy_schema())


@app.command()
def test() -> None:
    """Print the schema of a policy test file.

    Example: `ext-authz schema test > policy-test.schema.json`
    """
    from ext_authz.tools.schemas import cases_schema

    _print(cases_schema())


@app.command()
def audit() -> None:
    """Print the schema of the audit trail's events.

    Example: `ext-authz schema audit > audit.schema.json`
    """
    from ext_authz.tools.schemas import audit_schema

    _print(audit_schema())


def _print(schema: object) -> None:
    import orjson

    say_json(orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode())
