"""Opening a trail for the commands of `audit`, and what reading it has to say afterwards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ext_authz.cli.frame import CommandError, complain, counted, open_trail_key, trail_paths
from ext_authz.documents import printable

if TYPE_CHECKING:
    from ext_authz.audit.reader import Trail

Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PATH]…", help="Trail folders or files; else the configuration's `run_dir`."),
]


def open_trail(paths: list[Path] | None, config: Path, key: str) -> "Trail":
    """Return the trail in the given paths, else the configured one. Raises CommandError."""
    from ext_authz.audit.reader import Trail

    try:
        return Trail(trail_paths(paths, config), open_trail_key(key, config))
    except FileNotFoundError as error:
        raise CommandError(f"cannot read `{error.filename}`: no such file or directory") from None


def remarks(trail: "Trail") -> None:
    """Say on stderr what could not be read; reading proves nothing, but it need not hide it."""
    if trail.damaged:
        complain(f"warning: {counted(trail.damaged, 'damaged event was', 'damaged events were')} passed over")
    for problem in trail.problems:
        complain(f"warning: {printable(problem)}")
    for name in trail.shredded:
        complain(f"warning: {printable(name)}: its key was deleted, nothing of it can be read")
    for gap in trail.gaps():
        complain(f"warning: {gap}")
