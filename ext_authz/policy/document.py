"""What the policy files say, as frozen values: policies in order, named windows, where each was written.

Law: equal meaning, equal document: marks and comments take no part in
equality, digests or the dump. Non-goal: reading YAML (schema.py) or deciding.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from ext_authz.documents import Mark
from ext_authz.policy.conditions import Condition, undump_condition
from ext_authz.policy.matching import Entry, Trait
from ext_authz.policy.windows import Window

DEFAULT_TTL: Final = 3600
DUMP_FORMAT: Final = 1


class Effect(StrEnum):
    """What a matching policy does."""

    ALLOW = "allow"
    DENY = "deny"


class Mode(StrEnum):
    """Whether a policy counts, or is only evaluated and recorded."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. A None list means any (deny policies only).

    `ttl` is seconds, `not_before_ns` and `not_after_ns` Unix nanoseconds
    (inclusive, exclusive). `approvals` is how many people each approval needs.
    `marks` says where `id`, each key, entry (`subjects.0`) and action (`actions.infer`) is written.
    """

    id: str
    effect: Effect = Effect.ALLOW
    mode: Mode = Mode.ENFORCE
    subjects: tuple[Entry, ...] | None = None
    resources: tuple[Entry, ...] | None = None
    actions: tuple[str, ...] | None = None
    conditions: tuple[Condition, ...] = ()
    approvals: int = 1
    ttl: int = DEFAULT_TTL
    not_before_ns: int | None = None
    not_after_ns: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    description: str = ""
    marks: Mapping[str, Mark] = field(default_factory=dict, compare=False, repr=False)

    @property
    def mark(self) -> Mark | None:
        """Where the policy's id is written."""
        return self.marks.get("id")

    def mark_of(self, key: str) -> Mark | None:
        """Where `key` (`subjects.0`, `not_after`) is written, else where the policy is."""
        return self.marks.get(key) or self.marks.get(key.partition(".")[0]) or self.mark


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """All policies of all files in order, and the windows that they define."""

    policies: tuple[Policy, ...] = ()
    windows: Mapping[str, Window] = field(default_factory=dict)
    window_marks: Mapping[str, Mark] = field(default_factory=dict, compare=False, repr=False)


def dump_policy(policy: Policy) -> dict[str, Any]:
    """Return a policy as plain JSON-able data."""
    return {
        "id": policy.id,
        "effect": policy.effect.value,
        "mode": policy.mode.value,
        "subjects": _dump_entries(policy.subjects),
        "resources": _dump_entries(policy.resources),
        "actions": None if policy.actions is None else list(policy.actions),
        "conditions": [[condition.kind, condition.data()] for condition in policy.conditions],
        "approvals": policy.approvals,
        "ttl": policy.ttl,
        "not_before_ns": policy.not_before_ns,
        "not_after_ns": policy.not_after_ns,
        "headers": [list(header) for header in policy.headers],
        "description": policy.description,
    }


def dump(document: PolicyDocument) -> dict[str, Any]:
    """Return a document as plain JSON-able data, so that workers need not parse YAML again."""
    return {
        "format": DUMP_FORMAT,
        "policies": [dump_policy(policy) for policy in document.policies],
        "marks": [
            None if policy.mark is None else [policy.mark.file, policy.mark.line, policy.mark.column]
            for policy in document.policies
        ],
        "windows": {
            name: [list(window.days), window.start, window.end, window.timezone]
            for name, window in document.windows.items()
        },
    }


def undump(data: Mapping[str, Any]) -> PolicyDocument:
    """Return the document that `dump` was given; raises ValueError for another format."""
    if data.get("format") != DUMP_FORMAT:
        raise ValueError("compiled policies of another version")
    return PolicyDocument(
        policies=tuple(
            Policy(
                id=each["id"],
                effect=Effect(each["effect"]),
                mode=Mode(each["mode"]),
                subjects=_undump_entries(each["subjects"]),
                resources=_undump_entries(each["resources"]),
                actions=None if each["actions"] is None else tuple(each["actions"]),
                conditions=tuple(undump_condition(kind, value) for kind, value in each["conditions"]),
                approvals=each["approvals"],
                ttl=each["ttl"],
                not_before_ns=each["not_before_ns"],
                not_after_ns=each["not_after_ns"],
                headers=tuple((name, template) for name, template in each["headers"]),
                description=each["description"],
                marks={} if mark is None else {"id": Mark(*mark)},
            )
            for each, mark in zip(data["policies"], data["marks"], strict=True)
        ),
        windows={
            name: Window(tuple(days), start, end, zone) for name, (days, start, end, zone) in data["windows"].items()
        },
    )


def digest(policy: Policy) -> str:
    """Return what an approval is bound to: SHA-256 over everything the policy says, windows resolved."""
    return hashlib.sha256(orjson.dumps(dump_policy(policy), option=orjson.OPT_SORT_KEYS)).hexdigest()


def revision(digests: Iterable[str]) -> str:
    """Return the first 16 hex digits of SHA-256 over the policies' digests in order."""
    return hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()[:16]


def _dump_entries(entries: tuple[Entry, ...] | None) -> list[list[list[Any]]] | None:
    if entries is None:
        return None
    return [[[test.attribute, list(test.values)] for test in entry] for entry in entries]


def _undump_entries(data: list[list[list[Any]]] | None) -> tuple[Entry, ...] | None:
    if data is None:
        return None
    return tuple(tuple(Trait(attribute, tuple(values)) for attribute, values in entry) for entry in data)
