"""What the operators' listener is given to show, and what its handlers get and return.

Law: values only; whoever may see them is the listener's business (admin.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

MAX_FIELDS: Final = 64


class BadFormError(Exception):
    """A query or form that is none: the answer is 400."""


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """A request that passed the gate. `query` is what follows `?`, as sent; `csrf` what a browser's forms must repeat.

    `csrf` is "" for whoever shows the token with every request, or owns the Unix socket.
    """

    method: str
    path: str
    query: str
    body: bytes
    csrf: str = ""
    form: bool = False

    def asked(self, name: str) -> str:
        """Return a parameter of the query, "" where it is not there; of several the last one."""
        return fields_of(self.query).get(name, "")

    def asks(self) -> tuple[str, ...]:
        """Return the names of the query's parameters."""
        return tuple(fields_of(self.query))

    def fields(self) -> dict[str, str]:
        """Return the fields of a form. Raises BadFormError for a body that is none."""
        return fields_of(self.body.decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class AdminReply:
    """What a handler answers. `headers` may replace the safe defaults of the same name."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[AdminRequest], AdminReply]


@dataclass(frozen=True, slots=True)
class AdminPages:
    """What the listener shows.

    `ready` returns "" or why the sidecar is not ready; `metrics` Prometheus text, or OpenMetrics where it is called
    with True; `jwks` the JSON of our public keys.
    `gated` maps (method, path) to a handler that sees only requests with a credential. `token` returns the bearer
    token, "" where none is configured.
    """

    ready: Callable[[], str]
    metrics: Callable[[bool], bytes]
    jwks: Callable[[], bytes] = lambda: b'{"keys":[]}'
    gated: Mapping[tuple[str, str], Handler] = field(default_factory=dict)
    token: Callable[[], str] = str
    login: Callable[[int], AdminReply] | None = None
    """The page that asks a browser for the token; it gets the status to answer with (200: nothing was tried yet)."""
    tried: Callable[[bool], None] = lambda _: None
    """Called for each token that was typed: whether it was the right one."""


def fields_of(text: str) -> dict[str, str]:
    """Return the fields of a query or form. Raises BadFormError where there are too many."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise BadFormError(str(error)) from None
