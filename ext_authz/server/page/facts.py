"""What the overview is made of; nothing here is markup."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ext_authz.server.feed import Denials, Filter, Seen
from ext_authz.server.sampler import Point


@dataclass(frozen=True, slots=True)
class LastReload:
    """The last reload that was tried (Unix seconds); nothing was where `at` is 0."""

    at: float = 0.0
    problems: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview:
    """All that the overview shows. `csrf` is "" where nobody's forms need it; `advice` is by event id."""

    now: float
    revision: str
    not_ready: str
    reload: LastReload
    points: Sequence[Point]
    sinks: Mapping[str, Mapping[str, int | float | str]]
    spool_bytes: int
    wanted: Filter
    decisions: Sequence[Seen]
    denials: Sequence[Denials]
    advice: Mapping[str, Sequence[str]]
    alerts: Sequence[Mapping[str, Any]]
    quarantines: Sequence[Mapping[str, Any]]
    policies: Sequence[Mapping[str, Any]]
    csrf: str = ""
    changes: bool = False
    problems: Sequence[str] = field(default_factory=tuple)
    browser: bool = False
