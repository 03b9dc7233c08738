"""What a user may say about the state store.

Law: what this version cannot do is refused by name. Non-goal: opening it.
"""

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from ext_authz.settings import NOT_AVAILABLE, Flag, Seconds, Settings, Unavailable, mistake, shown

MAX_AGE_SECONDS: Final = 30


def _backend(value: object) -> str:
    if value == "sqlite":
        return "sqlite"
    raise mistake(NOT_AVAILABLE if value == "redis" else f"{shown(value)} is not a backend: use `sqlite`")


def _on_stale(value: object) -> str:
    if value == "hold":
        return "hold"
    raise mistake(NOT_AVAILABLE if value == "deny" else f"{shown(value)} is neither `hold` nor `deny`")


class StateSettings(Settings):
    """The `state:` section."""

    backend: Annotated[Literal["sqlite"], BeforeValidator(_backend)] = "sqlite"
    """Where approvals, revocations and quarantines are kept: `sqlite` is `run_dir/state.db`."""
    url: Unavailable = None
    max_age: Annotated[Seconds, Field(ge=1)] = MAX_AGE_SECONDS
    """State read longer ago than this no longer grants: approvals and risk count as unknown."""
    on_stale: Annotated[Literal["hold"], BeforeValidator(_on_stale)] = "hold"
    """What happens to other checks then: `hold` goes on with revocations and quarantines as last read."""
    approvers: Literal["group", "policy"] = "group"
    """Who may approve: whoever holds the group, or whom a policy allows the action `approve` besides (`policy`)."""
    verified_approvers: Flag = False
    """Whether an approval needs the approver's own token (`approve --as`); without, `os:USER` is taken for it."""
