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
