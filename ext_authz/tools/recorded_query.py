"""What a recorded decision event says that the policies were asked, rebuilt; or why it cannot be.

Law: never guesses. A field that is missing, was cut or redacted, or was not
recorded because no policy read it then, is named instead of assumed.
Non-goal: deciding (replay.py).
"""

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from ext_authz.audit.bounds import MAX_POINTERS
from ext_authz.model import Access, Address, Approval, Auth, Context, Identity, Reason, Resource, Risk

BY_POLICIES: Final = frozenset(
    {Reason.ALLOWED.value, Reason.DENIED_BY_POLICY.value, Reason.CONDITIONS_NOT_MET.value, Reason.NO_POLICY.value}
)
"""Reasons that the policies gave; every other decision was made before they were asked, or after."""

_READ: Final = ("/subject", "/resource", "/action", "/accesses", "/context/ip", "/context/time", "/context/risk")
_READ_TOO: Final = ("/context/approvals", "/context/attributes", "/context/protocol", "/context/bytes")
_READ_BY_CEL: Final = ("/context/method", "/context/host", "/context/path")
_NEVER_READ: Final = ("/subject/via", "/subject/token_id", "/subject/key_id", "/subject/cert_serial")
_SECOND: Final = 1_000_000_000
_ADDRESS: Final = 45
"""Characters of the longest IPv6 address."""


class UnfaithfulError(ValueError):
    """The event does not say what was asked. `kind` groups, `detail` names the field."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


def whole(event: Mapping[str, Any], *, cel: bool) -> None:
    """Raise UnfaithfulError where something that policies read was cut or redacted. `cel`: they read paths too."""
    for name in ("truncated", "erased"):
        pointers = event.get(name)
        if not pointers:
            continue
        if not isinstance(pointers, list) or len(pointers) >= MAX_POINTERS:
            raise UnfaithfulError(name, "more than is listed")
        read = (*_READ, *_READ_TOO, *_READ_BY_CEL) if cel else (*_READ, *_READ_TOO)
        for pointer in sorted(map(str, pointers)):
            meets = any(_meets(pointer, each) for each in read)
            if meets and not any(_within(pointer, each) for each in _NEVER_READ):
                raise UnfaithfulError(name, pointer or "all of it")


def _meets(pointer: str, read: str) -> bool:
    return _within(pointer, read) or _within(read, pointer)


def _within(pointer: str, outer: str) -> bool:
    return pointer == outer or not outer or pointer.startswith(outer + "/")


def reason_of(event: Mapping[str, Any]) -> str:
    """Return why the request was answered as it was. Raises UnfaithfulError."""
    return _text(event, "reason", "event")


def subject_of(subject: Mapping[str, Any]) -> Identity:
    """Return the identity, without `issued_at` (its age is the event's, not the subject's). Raises UnfaithfulError."""
    claims = subject.get("claims")
    if claims is not None and not isinstance(claims, dict):
        raise _incomplete("subject.claims")
    try:
        auth = Auth(_text(subject, "auth", "subject"))
    except ValueError as error:
        if isinstance(error, UnfaithfulError):
            raise
        raise _incomplete("subject.auth") from None
    mfa = subject.get("mfa")
    if not isinstance(mfa, bool):
        raise _incomplete("subject.mfa")
    return Identity(
        id=_text(subject, "id", "subject"),
        name=_text(subject, "name", "subject"),
        auth=auth,
        issuer=_text(subject, "issuer", "subject"),
        roles=_texts(subject, "roles"),
        groups=_texts(subject, "groups"),
        org=_text(subject, "org", "subject"),
        scopes=_texts(subject, "scopes"),
        claims={name: value for name, value in claims.items() if value is not None} if claims else {},
        mfa=mfa,
        workload=_text(subject, "workload", "subject"),
        cert_fingerprint=_text(subject, "cert_fingerprint", "subject"),
    )


def unknown_claims(subject: Mapping[str, Any], read: Iterable[str]) -> dict[str, str]:
    """Return which of the claims that policies read the event cannot give, and why (a kind of UnfaithfulError).

    Only a token has claims; one that it lacks is recorded as null.
    """
    if subject.get("auth") != Auth.JWT.value:
        return {}
    recorded = subject.get("claims")
    altered = subject.get("claims_altered", ())
    found = {}
    for name in read:
        if not isinstance(recorded, dict) or name not in recorded:
            found[name] = "claim_not_recorded"
        elif name in altered:
            found[name] = "claim_altered"
    return found


def resource_of(resource: Any) -> Resource:  # noqa: ANN401  JSON
    """Return the resource. Raises UnfaithfulError."""
    if not isinstance(resource, dict):
        raise _incomplete("resource")
    attributes = resource.get("attributes")
    if not isinstance(attributes, dict) or not all(isinstance(each, (str, int)) for each in attributes.values()):
        raise _incomplete("resource.attributes")
    return Resource(
        _text(resource, "type", "resource"),
        _text(resource, "id", "resource"),
        _text(resource, "version", "resource"),
        attributes,
    )


def accesses_of(event: Mapping[str, Any]) -> tuple[Access, ...] | None:
    """Return every access of a request that names several; None where there is but one. Raises UnfaithfulError."""
    listed = event.get("accesses")
    if listed is None:
        return None
    if not isinstance(listed, list) or not listed:
        raise _incomplete("accesses")
    found = []
    for each in listed:
        if not isinstance(each, dict) or not isinstance(each.get("action"), str):
            raise _incomplete("accesses")
        found.append(Access(resource_of(each.get("resource")), each["action"]))
    return tuple(found)


def context_of(context: Mapping[str, Any], now_ns: int) -> Context:
    """Return the context. `now_ns` is the event's time. Raises UnfaithfulError."""
    try:
        ip, risk, approvals = context["ip"], context["risk"], context["approvals"]
    except KeyError as error:
        raise _incomplete(f"context.{error.args[0]}") from None
    size = context.get("bytes", 0)
    try:
        return Context(
            ip=None if ip is None else address_of(ip),
            time_ns=moment_of(context.get("time")),
            now_ns=now_ns,
            risk=None if risk is None else Risk(risk),
            approvals=None if approvals is None else approvals_of(approvals),
            method=_text(context, "method", "context"),
            host=_text(context, "host", "context"),
            path=_text(context, "path", "context"),
            protocol=_text(context, "protocol", "context"),
            bytes=size if isinstance(size, int) else 0,
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, UnfaithfulError):
            raise
        raise _incomplete("context") from None


def approvals_of(approvals: Any) -> tuple[Approval, ...]:  # noqa: ANN401  JSON
    """Return approvals. Raises UnfaithfulError."""
    if not isinstance(approvals, list):
        raise _incomplete("context.approvals")
    return tuple([approval_of(each) for each in approvals])


def approval_of(approval: Any) -> Approval:  # noqa: ANN401  JSON
    """Return an approval. Raises UnfaithfulError."""
    if not isinstance(approval, dict):
        raise _incomplete("context.approvals")
    end = approval.get("expires_at")
    names = ("policy", "policy_digest", "subject", "resource")
    bound = {name: approval.get(name) for name in names}
    if not (end is None or isinstance(end, int)) or not all(
        each is None or isinstance(each, str) for each in bound.values()
    ):
        raise _incomplete("context.approvals")
    return Approval(
        _text(approval, "group", "context.approvals"), _text(approval, "approver", "context.approvals"), end, **bound
    )


@lru_cache(maxsize=65536)
def address_of(text: str) -> Address:
    """Return an address. Raises ValueError."""
    if not isinstance(text, str):
        raise TypeError("an address is text")
    if len(text) > _ADDRESS or "%" in text:
        # A zone is nobody's address, and may be of any length; none is ever recorded.
        raise ValueError("not an address")
    return ipaddress.ip_address(text)


def moment_of(text: Any) -> int:  # noqa: ANN401  JSON
    """Return Unix nanoseconds of a time as events have it, microseconds in UTC. Raises UnfaithfulError."""
    if isinstance(text, str) and len(text) == 27 and text[19] == "." and text[26] == "Z":  # noqa: PLR2004
        try:
            return _second(text[:19]) * _SECOND + int(text[20:26]) * 1000
        except ValueError:
            pass
    raise _incomplete("time")


@lru_cache(maxsize=4096)
def _second(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def _incomplete(field: str) -> UnfaithfulError:
    return UnfaithfulError("incomplete", f"`{field}` is missing or odd")


def _text(data: Mapping[str, Any], name: str, of: str) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise _incomplete(f"{of}.{name}")
    return value


def _texts(data: Mapping[str, Any], name: str) -> frozenset[str]:
    values = data.get(name)
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise _incomplete(f"subject.{name}")
    return frozenset(values)
