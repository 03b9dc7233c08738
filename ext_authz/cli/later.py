"""Commands that the contract names and this version does not do: refused, never half done."""

from typing import Annotated, Any, Final

import typer

from ext_authz.cli.frame import not_available

ANYTHING: Final[dict[Any, Any]] = {"ignore_unknown_options": True, "allow_extra_args": True}
Arguments = Annotated[list[str] | None, typer.Argument(metavar="…")]


def replay(arguments: Arguments = None) -> None:
    """Decide recorded requests again under other policies (not available in this version).

    Example: `ext-authz replay run/audit --against policies/`
    """
    del arguments
    not_available("replay")


def encrypt(arguments: Arguments = None) -> None:
    """Envelope-encrypt a file (not available in this version).

    Example: `ext-authz encrypt data.csv -o data.enc --data-id churn --data-type dataset`
    """
    del arguments
    not_available("encrypt")


def decrypt(arguments: Arguments = None) -> None:
    """Decrypt a file (not available in this version).

    Example: `ext-authz decrypt data.enc -o data.csv --data-id churn --data-type dataset`
    """
    del arguments
    not_available("decrypt")


def rewrap(arguments: Arguments = None) -> None:
    """Move encrypted files to a new key (not available in this version).

    Example: `ext-authz rewrap data.enc --key file:new.key`
    """
    del arguments
    not_available("rewrap")
