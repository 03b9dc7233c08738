"""One change of the shared state: an approval, a revocation, a quarantine or a risk, recorded or withdrawn.

Law: a change says who, when, why and until when, and is never altered; what
makes no sense is refused before it is stored. Non-goal: who may make it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

from ext_authz.model import Risk

MAX_TEXT: Final = 2048
MAX_SECONDS: Final = 1 << 40
SUBJECT_PREFIXES: Final = ("sub:", "key:", "spiffe://", "dns:", "x509:", "anonymous:")

_RESOURCE = re.compile(r"[^/]+/.+", re.DOTALL)
_HEX = re.compile(r"[0-9a-f]+\Z")
_SHA256_HEX: Final = 64


class Kind(StrEnum):
    """What a change is about."""

    APPROVAL = "approval"
    REVOCATION = "revocation"
    QUARANTINE = "quarantine"
    RISK = "risk"
    REFUSAL = "refusal"
    API_KEY = "api_key"


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the append-only table. `id` is 0 until a store gave one.

    `by` is who made it (a typed subject or `os:USER`); for an approval, the
    approver. Times are Unix seconds, `at_ns` nanoseconds. `withdraw` takes
    back what earlier changes with the same kind and key recorded: an approval
    by (policy, group, subject) and `resource` where given, a revocation by all
    its fields, quarantine and risk by subject. "" and None mean "not given".
    `decision_id`, `decision` (a reason), `decided_by` (a policy's id) and `policy_revision` say what the policies said
    of the approver; a refusal is an approval that they did not allow, and changes nothing. Nor does an API key that was
    made or withdrawn in its file: both are here for the record.
    """

    kind: Kind
    by: str
    at_ns: int
    reason: str = ""
    withdraw: bool = False
    id: int = 0
    subject: str = ""
    expires_at: int | None = None
    policy: str = ""
    policy_digest: str = ""
    group: str = ""
    resource: str = ""
    token_id: str = ""
    issuer: str = ""
    before: int | None = None
    fingerprint: str = ""
    serial: str = ""
    issuer_dn: str = ""
    key_id: str = ""
    risk: str = ""
    decision_id: str = ""
    decision: str = ""
    decided_by: str = ""
    policy_revision: str = ""

    def problem(self) -> str | None:
        """Say why this change makes no sense, or None."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, str) and (len(value) > MAX_TEXT or not value.isprintable()):
                return f"`{each.name}` must be at most {MAX_TEXT} printable characters"
        if not self.by:
            return "nobody is named as the author of the change"
        if self.subject and not self.subject.startswith(SUBJECT_PREFIXES):
            return f"`{self.subject}` is not the typed name of a subject"
        for seconds in (self.expires_at, self.before):
            if seconds is not None and not 0 <= seconds < MAX_SECONDS:
                return f"`{seconds}` is not a time"
        extra = sorted(self.given() - _FIELDS[self.kind])
        if extra:
            return f"`{extra[0]}` has no place in this {self.kind}"
        return _PROBLEMS[self.kind](self)

    def given(self) -> frozenset[str]:
        """Return the names of the fields that say what the change is about."""
        return frozenset(name for name in _SPECIFIC if getattr(self, name) not in ("", None))

    @property
    def key(self) -> tuple[object, ...]:
        """What a withdrawal has to repeat (an approval's `resource` aside)."""
        if self.kind is Kind.APPROVAL:
            return (self.policy, self.group, self.subject)
        if self.kind is Kind.REVOCATION:
            return (
                self.subject,
                self.token_id,
                self.issuer,
                self.before,
                normal_hex(self.fingerprint),
                normal_hex(self.serial),
                normal_dn(self.issuer_dn),
                self.key_id,
            )
        return (self.subject,)

    def record(self) -> dict[str, Any]:
        """Return the fields that are set, as plain JSON-able data without the id."""
        plain: dict[str, Any] = {"kind": self.kind.value, "by": self.by, "at_ns": self.at_ns}
        if self.reason:
            plain["reason"] = self.reason
        if self.withdraw:
            plain["withdraw"] = True
        for name in _SPECIFIC:
            value = getattr(self, name)
            if value not in ("", None):
                plain[name] = value
        return plain


def from_record(plain: Mapping[str, Any], change_id: int) -> Change:
    """Read what `Change.record` wrote.

    Raises ValueError where it is no such record, or one of a later version.
    """
    known = {each.name: each.type for each in fields(Change)}
    for name, value in plain.items():
        if name not in known or name == "id":
            raise ValueError(f"unknown field `{name}`")
        wanted: type = bool if name == "withdraw" else int if name in _INTEGERS else str
        if type(value) is not wanted:
            raise ValueError(f"`{name}` has the wrong type")
    try:
        kind = Kind(plain["kind"])
        change = Change(**{**plain, "kind": kind, "id": change_id})
    except (KeyError, TypeError, ValueError):
        raise ValueError("not a change that this version knows") from None
    problem = change.problem()
    if problem is not None:
        raise ValueError(problem)
    return change


def typed_subject(name: str) -> str:
    """Return `name` with its type; a bare name means `sub:` (CONTRACT section 2)."""
    return name if name.startswith((*SUBJECT_PREFIXES, "group:")) else f"sub:{name}"


def normal_hex(text: str) -> str:
    """Return hexadecimal in one spelling: lower case, no `0x`, colons, spaces or leading zeros."""
    bare = text.strip().lower().removeprefix("0x").replace(":", "").replace(" ", "")
    return bare.lstrip("0") or ("0" if bare else "")


def normal_dn(text: str) -> str:
    """Return a distinguished name in one spelling, whichever end it begins with.

    RFC 4514 writes the last part first and openssl the first one; a revocation
    must not miss for that. Blanks round separators and the case of attribute
    types do not count either.
    """
    parts = _SEPARATOR.split(text.strip())
    normal = []
    for part in parts:
        kind, equals, value = part.strip().partition("=")
        normal.append(f"{kind.strip().upper()}{equals}{value.strip()}")
    return ",".join(sorted(normal))


_SEPARATOR = re.compile(r"(?<!\\),")

_INTEGERS: Final = frozenset({"at_ns", "expires_at", "before"})
_SPECIFIC: Final = (
    "subject",
    "expires_at",
    "policy",
    "policy_digest",
    "group",
    "resource",
    "token_id",
    "issuer",
    "before",
    "fingerprint",
    "serial",
    "issuer_dn",
    "key_id",
    "risk",
    "decision_id",
    "decision",
    "decided_by",
    "policy_revision",
)
_RULING: Final = frozenset({"decision_id", "decision", "decided_by", "policy_revision"})
_REVOCATIONS: Final = (
    frozenset({"token_id"}),
    frozenset({"token_id", "issuer"}),
    frozenset({"subject"}),
    frozenset({"subject", "before"}),
    frozenset({"issuer", "before"}),
    frozenset({"fingerprint"}),
    frozenset({"serial", "issuer_dn"}),
    frozenset({"key_id"}),
)
_FIELDS: Final = {
    Kind.APPROVAL: frozenset({"subject", "expires_at", "policy", "policy_digest", "group", "resource"}) | _RULING,
    Kind.REVOCATION: frozenset[str]().union(*_REVOCATIONS),
    Kind.QUARANTINE: frozenset({"subject", "expires_at"}),
    Kind.RISK: frozenset({"subject", "expires_at", "risk"}),
    Kind.REFUSAL: frozenset({"subject", "policy", "group", "resource"}) | _RULING,
    Kind.API_KEY: frozenset({"subject", "key_id", "expires_at"}),
}


def _approval(change: Change) -> str | None:
    if not (change.policy and change.group and change.subject):
        return "an approval names a policy, a group and a subject"
    if change.resource and not _RESOURCE.match(change.resource):
        return f"`{change.resource}` is not TYPE/ID"
    if change.withdraw:
        return None
    if not change.policy_digest:
        return "an approval is bound to the policy's digest"
    if change.expires_at is None:
        return "an approval ends at some time"
    if change.by == change.subject:
        return "nobody approves for themselves"
    return None


def _revocation(change: Change) -> str | None:
    if change.given() not in _REVOCATIONS:
        return (
            "a revocation names one of: a jti (and its issuer), a subject (and a time), an issuer and a time, "
            "a fingerprint, a serial and its issuer's name, a key id"
        )
    if change.fingerprint:
        bare = change.fingerprint.lower().replace(":", "")
        if len(bare) != _SHA256_HEX or not _HEX.match(bare):
            return f"`{change.fingerprint}` is not a SHA-256 fingerprint in hexadecimal"
    if change.serial and not _HEX.match(normal_hex(change.serial)):
        return f"`{change.serial}` is not a serial number in hexadecimal"
    if change.issuer_dn and "=" not in change.issuer_dn:
        return f"`{change.issuer_dn}` is not a distinguished name (RFC 4514)"
    return None


def _api_key(change: Change) -> str | None:
    return None if change.key_id and change.subject else "an API key has an id and a subject"


def _quarantine(change: Change) -> str | None:
    if not change.subject:
        return "a quarantine names a subject"
    if not change.withdraw and change.expires_at is None:
        return "a quarantine ends at some time"
    return None


def _risk(change: Change) -> str | None:
    if not change.subject:
        return "a risk names a subject"
    if change.withdraw:
        return None
    if change.risk not in set(Risk):
        return f"`{change.risk}` is not a risk"
    return None


def _refusal(change: Change) -> str | None:
    if change.withdraw:
        return "a refusal is not taken back"
    if not (change.policy and change.group and change.subject and change.decision_id and change.decision):
        return "a refusal names a policy, a group, a subject and the decision"
    return None


_PROBLEMS: Final = {
    Kind.APPROVAL: _approval,
    Kind.REVOCATION: _revocation,
    Kind.QUARANTINE: _quarantine,
    Kind.RISK: _risk,
    Kind.REFUSAL: _refusal,
    Kind.API_KEY: _api_key,
}
