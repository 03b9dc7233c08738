"""Commands that the contract names and this version does not do: refused, never half done."""

from typing import Annotated, Any, Final

import typer

ANYTHING: Final[dict[Any, Any]] = {"ignore_unknown_options": True, "allow_extra_args": True}
Arguments = Annotated[list[str] | None, typer.Argument(metavar="…")]
