"""Policy test cases: who asks for what, when, and what should come of it.

Law: time, risk and approvals are what the case says, never the machine's.
Non-goal: reading them (case_reader.py) and running them (runner.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ext_authz.documents import Mark
from ext_authz.model import Approval, Query, Reason, Risk
from ext_authz.state import State

FILE_KEYS: Final = ("tests", "at", "subjects", "resources")
DEFAULT_AT_NS: Final = 1_767_614_400_000_000_000
"""Monday 2026-01-05T12:00:00Z: the time of cases that do not say one, the same on every day and machine."""
DECISIONS: Final = ("allow", "deny")
CASE_KEYS: Final = ("name", "at", "subject", "resource", "action", "attributes", "request", "context", "expect", "each")
SUBJECT_KEYS: Final = (
    "id",
    "auth",
    "issuer",
    "roles",
    "groups",
    "org",
    "scopes",
    "claims",
    "mfa",
    "token_age",
    "workload",
    "cert_fingerprint",
)
CONTEXT_KEYS: Final = ("ip", "risk", "approvals", "time")
REQUEST_CONTEXT_KEYS: Final = ("risk", "approvals")
EXPECT_KEYS: Final = (
    "decision",
    "reason",
    "policy",
    "policies",
    "shadow",
    "ttl",
    "subject",
    "resource",
    "action",
    "http_status",
    "headers",
    "remove_headers",
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What should come of a case; None means "does not matter".

    `headers` maps names to the value that must be set, or None: must not be set.
    """

    decision: str
    reason: Reason | None = None
    policy: str | None = None
    policies: tuple[str, ...] | None = None
    shadow: tuple[str, ...] | None = None
    ttl: int | None = None
    http_status: int | None = None
    subject: str | None = None
    resource: tuple[str, str] | None = None
    action: str | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    remove_headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One test. Either `query` (what the engine is asked) or `request` (a serialized CheckRequest) is set.

    `at_ns` is every clock of the case; `state` what a whole request reads.
    """

    name: str
    mark: Mark
    at_ns: int
    expect: Expectation
    query: Query | None = None
    request: bytes | None = None
    state: State = field(default_factory=State)


@dataclass(frozen=True, slots=True)
class CaseState(State):
    """The state of a case: its risk and approvals are those of whoever the request turns out to be."""

    risk: Risk | None = Risk.LOW
    given: tuple[Approval, ...] | None = ()

    def approvals_for(self, subject_id: str, now_ns: int) -> tuple[Approval, ...] | None:
        """Return the case's approvals."""
        del subject_id, now_ns
        return self.given

    def risk_of(self, subject_id: str, now_ns: int) -> Risk | None:
        """Return the case's risk."""
        del subject_id, now_ns
        return self.risk
