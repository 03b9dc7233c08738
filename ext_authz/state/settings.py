"""What a user may say about the state store.

Law: a store of several hosts is authenticated and closed to onlookers, or says
`unsafe_`. Non-goal: opening it (opening.py).
"""

from importlib.util import find_spec
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator

from ext_authz.documents import did_you_mean
from ext_authz.settings import NOT_AVAILABLE, FilePath, Flag, Seconds, Settings, is_loopback, mistake, shown

MAX_AGE_SECONDS: Final = 30
_BACKENDS: Final = ("sqlite", "redis")
_SCHEMES: Final = ("redis", "rediss", "unix")
_EXAMPLES: Final = "`rediss://USER:PASSWORD@HOST:6379/0` or `unix:///run/redis.sock`"
_MAX_URL: Final = 2048


def _backend(value: object) -> str:
    if isinstance(value, str) and value in _BACKENDS:
        return value
    near = did_you_mean(value, _BACKENDS) if isinstance(value, str) else ""
    raise mistake(f"{shown(value)} is not a backend: use `sqlite` or `redis`{near}")


def _on_stale(value: object) -> str:
    if value == "hold":
        return "hold"
    raise mistake(NOT_AVAILABLE if value == "deny" else f"{shown(value)} is neither `hold` nor `deny`")


def _url(value: object) -> SecretStr:
    if isinstance(value, SecretStr):
        return value
    # What is wrong is said without the URL: it holds the password.
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or len(value) > _MAX_URL:
        raise mistake(f"is not the URL of a Redis such as {_EXAMPLES}")
    try:
        parts = urlsplit(value)
        named = parts.path if parts.scheme == "unix" else parts.hostname
        port = parts.port
    except ValueError:
        raise mistake(f"is not the URL of a Redis such as {_EXAMPLES}") from None
    if parts.scheme not in _SCHEMES or not named or port == 0:
        raise mistake(f"is not the URL of a Redis such as {_EXAMPLES}")
    if parts.query or parts.fragment:
        raise mistake("a Redis URL here has no `?` or `#`: options have keys of their own")
    return SecretStr(value)


class StateSettings(Settings):
    """The `state:` section."""

    backend: Annotated[Literal["sqlite", "redis"], BeforeValidator(_backend)] = "sqlite"
    """Where approvals, revocations and quarantines are kept: `sqlite` is `run_dir/state.db`, `redis` shares it
    between hosts."""
    url: Annotated[SecretStr | None, BeforeValidator(_url), WithJsonSchema({"type": "string", "writeOnly": True})] = (
        None
    )
    """`rediss://USER:PASSWORD@HOST:PORT/DB`, or `unix:///PATH`, or `redis://` on this machine."""
    ca_file: FilePath | None = None
    """PEM bundle that a `rediss://` server's certificate is verified with, in place of the system's."""
    secret_file: FilePath | None = None
    """The fleet's secret, at least 32 bytes: a change that was not made with it is not taken from Redis."""
    unsafe_plaintext: Flag = False
    """Allow `redis://` beyond this machine."""
    unsafe_unauthenticated: Flag = False
    """Do without `secret_file`: whoever can write to Redis can approve, revoke and withdraw."""
    max_age: Annotated[Seconds, Field(ge=1)] = MAX_AGE_SECONDS
    """State read longer ago than this no longer grants: approvals and risk count as unknown."""
    on_stale: Annotated[Literal["hold"], BeforeValidator(_on_stale)] = "hold"
    """What happens to other checks then: `hold` goes on with revocations and quarantines as last read."""
    approvers: Literal["group", "policy"] = "group"
    """Who may approve: whoever holds the group, or whom a policy allows the action `approve` besides (`policy`)."""
    verified_approvers: Flag = False
    """Whether an approval needs the approver's own token (`approve --as`); without, `os:USER` is taken for it."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.backend == "sqlite":
            for name in ("url", "ca_file", "secret_file"):
                if getattr(self, name) is not None:
                    raise mistake(f"`{name}` is for `backend: redis`")
            return self
        if find_spec("redis") is None:
            raise mistake("`backend: redis` needs the extra `redis`: `pip install 'ext-authz[redis]'`")
        if self.url is None:
            raise mistake("`backend: redis` needs `url`")
        parts = urlsplit(self.url.get_secret_value())
        if parts.scheme == "redis" and not is_loopback(parts.hostname or "") and not self.unsafe_plaintext:
            raise mistake("`redis://` beyond this machine shows everybody on the way what is approved: use `rediss://`")
        if self.ca_file is not None and parts.scheme != "rediss":
            raise mistake("`ca_file` is for `rediss://`")
        if self.secret_file is None and not self.unsafe_unauthenticated:
            raise mistake(
                "`backend: redis` needs `secret_file`: without one, whoever can write to Redis can approve and withdraw"
            )
        return self
