"""What a replay counts, and the report made of it.

Law: joining tallies in order gives what one tally of everything would be; no
count is ever dropped without being named. Non-goal: deciding (replay.py).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

GAINED: Final = "gained"
LOST: Final = "lost"
MAX_GROUPS: Final = 20_000
"""Distinct changes kept apart; of more, only totals are kept, and `changes_left_out` says how many events that is."""
EXAMPLES: Final = 3
MAX_NAME: Final = 256
OTHERS: Final = "(others)"
"""Names of one kind beyond MAX_GROUPS, together."""

Group = tuple[str, str, str, str, str, str, str, str]
"""GAINED or LOST, subject, resource, action, policy and reason then, policy and reason now."""


@dataclass(slots=True)
class Change:
    """Equal changes counted. `first` and `last` are the events' times, `decision_ids` the first few of them."""

    count: int
    first: str
    last: str
    decision_ids: list[str]

    def join(self, other: "Change") -> None:
        """Add `other`, which was read later."""
        self.count += other.count
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.decision_ids = (self.decision_ids + other.decision_ids)[:EXAMPLES]


@dataclass(slots=True)
class Tally:
    """What came of some events.

    `outcomes` counts `same`, `gained`, `lost`, `other_policy` (allowed, named
    by another policy: headers and ttl may change) and `other_reason` (denied
    all the same). `unfaithful` counts what could not be replayed by (kind,
    detail), with event ids as `examples`; `before` counts by reason what policies had no part in.
    """

    requests: int = 0
    others: int = 0
    duplicates: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    by: dict[str, Counter[tuple[str, str]]] = field(
        default_factory=lambda: {name: Counter() for name in ("policy", "subject", "resource", "action")}
    )
    changes: dict[Group, Change] = field(default_factory=dict)
    left_out: int = 0
    before: Counter[str] = field(default_factory=Counter)
    unfaithful: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    renewals: int = 0
    first: str = ""
    last: str = ""

    @property
    def replayed(self) -> int:
        """Events that were decided again."""
        return self.outcomes.total()

    @property
    def not_replayed(self) -> int:
        """Events that should have been decided again and could not."""
        return self.unfaithful.total()

    def join(self, other: "Tally") -> None:
        """Add `other`, which was read later."""
        self.requests += other.requests
        self.others += other.others
        self.duplicates += other.duplicates
        self.left_out += other.left_out
        self.renewals += other.renewals
        self.outcomes.update(other.outcomes)
        for reason, count in other.before.items():
            self.came_before(reason, count)
        for (kind, detail), count in other.unfaithful.items():
            _count(self.unfaithful, (kind, detail), (kind, OTHERS), count)
        for name, counts in other.by.items():
            for (direction, what), count in counts.items():
                self.changed(name, direction, what, count)
        for key, change in other.changes.items():
            self.add_change(key, change)
        for which, ids in other.examples.items():
            if which in self.unfaithful:
                self.examples[which] = (self.examples.get(which, []) + ids)[:EXAMPLES]
        if other.first:
            self.saw(other.first)
            self.saw(other.last)

    def add_change(self, key: Group, change: Change) -> None:
        """Count a change with those that equal it."""
        known = self.changes.get(key)
        if known is not None:
            known.join(change)
        elif len(self.changes) < MAX_GROUPS:
            self.changes[key] = change
        else:
            self.left_out += change.count

    def cannot(self, kind: str, detail: str, event_id: str) -> None:
        """Count an event that cannot be replayed faithfully."""
        what = _count(self.unfaithful, (kind, _short(detail)), (kind, OTHERS), 1)
        ids = self.examples.setdefault(what, [])
        if len(ids) < EXAMPLES and event_id:
            ids.append(_short(event_id))

    def changed(self, kind: str, direction: str, what: str, count: int = 1) -> None:
        """Count a gain or loss of a `policy`, `subject`, `resource` or `action`."""
        _count(self.by[kind], (direction, _short(what)), (direction, OTHERS), count)

    def came_before(self, reason: str, count: int = 1) -> None:
        """Count what policies had no part in."""
        _count(self.before, _short(reason), OTHERS, count)

    def saw(self, time: str) -> None:
        """Widen the time that the events span."""
        self.first = min(self.first or time, time)
        self.last = max(self.last, time)


_Key = TypeVar("_Key")


def _count(counts: Counter[_Key], key: _Key, others: _Key, count: int) -> _Key:
    """Count under `key`, or under `others` where there are too many: what is recorded may be made up. Return which."""
    if key not in counts and len(counts) >= MAX_GROUPS:
        key = others
    counts[key] += count
    return key


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


_DIRECTIONS: Final = (GAINED, LOST)
_CHANGE: Final = ("subject", "resource", "action", "was_policy", "was_reason", "policy", "reason")


def report(tally: Tally, revision: str, policies: int) -> dict[str, Any]:
    """Return the report as plain JSON-able data. `revision` and `policies` (how many) are those asked."""
    plain: dict[str, Any] = {
        "against": {"policies_revision": revision, "policies": policies},
        "events": {
            "requests": tally.requests,
            "replayed": tally.replayed,
            "before_policies": tally.before.total(),
            "not_replayed": tally.not_replayed,
            "duplicates": tally.duplicates,
            "others": tally.others,
            "first": tally.first,
            "last": tally.last,
        },
        "outcomes": {name: tally.outcomes[name] for name in ("same", GAINED, LOST, "other_policy", "other_reason")},
        "before_policies": _ranked(tally.before.items()),
        "not_replayed": [
            {"kind": kind, "detail": detail, "count": count, "event_ids": tally.examples.get((kind, detail), [])}
            for (kind, detail), count in sorted(tally.unfaithful.items(), key=lambda each: (-each[1], each[0]))
        ],
        "renewed_approvals": tally.renewals,
        "changes_left_out": tally.left_out,
    }
    for direction in _DIRECTIONS:
        plain[direction] = {
            f"by_{name}": _ranked((what, count) for (way, what), count in counts.items() if way == direction)
            for name, counts in tally.by.items()
        }
        plain[direction]["changes"] = [
            {
                **dict(zip(_CHANGE, key[1:], strict=True)),
                "count": change.count,
                "first": change.first,
                "last": change.last,
                "decision_ids": change.decision_ids,
            }
            for key, change in sorted(tally.changes.items(), key=lambda each: (-each[1].count, each[0]))
            if key[0] == direction
        ]
    return plain


def _ranked(counts: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"name": name, "count": count} for name, count in sorted(counts, key=lambda each: (-each[1], each[0]))]
