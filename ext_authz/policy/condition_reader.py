"""Conditions as they are written, to the frozen conditions that decide.

Law: one function per kind; a kind that is not in the table is a mistake.
Non-goal: what a condition means (conditions.py, cel.py).
"""

from collections.abc import Callable, Mapping
from typing import Final

from ext_authz.documents import MappingNode, Node, Scalar, Sequence
from ext_authz.model import Risk
from ext_authz.policy.cel import MAX_EXPRESSION, Cel, CelError
from ext_authz.policy.conditions import (
    Approved,
    AuditLogged,
    Condition,
    IpRange,
    Maximum,
    MaxRisk,
    MaxTokenAge,
    MfaRequired,
    TimeWindow,
)
from ext_authz.policy.reader import Reader
from ext_authz.policy.windows import BUSINESS_HOURS, Window

Windows = Mapping[str, Window | None]
"""Named windows; None where the definition itself is a mistake that has been reported."""

DEFAULT_WINDOW: Final = "business_hours"


def read_conditions(reader: Reader, node: Node, windows: Windows) -> tuple[Condition, ...]:
    """Return the conditions of a list of mappings."""
    found: list[Condition] = []
    sequence = reader.sequence(node, "`conditions`")
    for item in sequence or ():
        mapping = reader.mapping(item, "a condition")
        for key, value in mapping or ():
            read = _KINDS.get(key.text)
            if read is None:
                reader.unknown_key(key, _KINDS, "condition")
                continue
            condition = read(reader, value, windows)
            if condition is not None:
                found.append(condition)
    return tuple(found)


def read_group(reader: Reader, node: Node) -> Approved | None:
    """Return the condition `approval: GROUP`."""
    group = reader.text(node, "`approval`")
    if group is None:
        return None
    if "*" in group:
        reader.mistake(node, f"`approval` names one group, not a pattern such as `{group}`")
        return None
    return Approved(group.removeprefix("group:"))


def _ip_range(reader: Reader, node: Node, windows: Windows) -> Condition | None:  # noqa: ARG001
    networks = reader.networks(node, "`ip_range`")
    return IpRange(networks) if networks else None


def _time_window(reader: Reader, node: Node, windows: Windows) -> Condition | None:
    if isinstance(node, MappingNode):
        window = reader.window(node, "`time_window`")
        return TimeWindow(window) if window else None
    if isinstance(node, Sequence):
        reader.mistake(node, "`time_window` is one window: further ones are conditions or policies of their own")
        return None
    name = reader.text(node, "`time_window`")
    if name is None:
        return None
    if name not in windows and name != DEFAULT_WINDOW:
        known = (*windows, DEFAULT_WINDOW)
        hint = reader.near(name, known) or "; define it under `time_windows`"
        reader.mistake(node, f"unknown time window `{name}`{hint}")
        return None
    named = windows.get(name, BUSINESS_HOURS)
    return TimeWindow(named, name) if named else None


def _mfa_required(reader: Reader, node: Node, windows: Windows) -> Condition | None:  # noqa: ARG001
    return MfaRequired() if reader.only_true(node, "mfa_required") else None


def _audit_logged(reader: Reader, node: Node, windows: Windows) -> Condition | None:  # noqa: ARG001
    return AuditLogged() if reader.only_true(node, "audit_logged") else None


def _approval(reader: Reader, node: Node, windows: Windows) -> Condition | None:  # noqa: ARG001
    return read_group(reader, node)


def _max_token_age(reader: Reader, node: Node, windows: Windows) -> Condition | None:  # noqa: ARG001
    milliseconds = reader.duration_ms(node, "`max_token_age`")
    return MaxTokenAge(milliseconds) if milliseconds else None


def _max_risk(reader: Reader, node: Node, windows: Windows) -> Condition | None:  # noqa: ARG001
    if isinstance(node, Scalar) and node.text == Risk.CRITICAL.value:
        reader.mistake(node, "`max_risk: critical` asks for nothing; leave it out")
        return None
    risk = reader.choice(node, (Risk.LOW.value, Risk.MEDIUM.value, Risk.HIGH.value), "risk")
    return MaxRisk(Risk(risk)) if risk else None


def _maximum(reader: Reader, node: Node, windows: Windows) -> Condition | None:  # noqa: ARG001
    mapping = reader.mapping(node, "`max`")
    limits: list[tuple[str, int | float]] = []
    for key, value in mapping or ():
        limit = reader.number(value, f"`max` of `{key.text}`")
        if limit is not None and reader.text(key, "an attribute") is not None:
            limits.append((key.text, limit))
    return Maximum(tuple(limits)) if limits else None


def _cel(reader: Reader, node: Node, windows: Windows) -> Condition | None:  # noqa: ARG001
    if not isinstance(node, Scalar) or node.is_null or not node.text.strip():
        reader.mistake(node, "`cel` must be an expression")
        return None
    if len(node.text) > MAX_EXPRESSION:
        reader.mistake(node, f"`cel` is longer than {MAX_EXPRESSION} characters")
        return None
    try:
        return Cel(node.text.strip())
    except CelError as error:
        reader.mistake(node, f"`cel`: {error}")
        return None


_KINDS: Final[dict[str, Callable[[Reader, Node, Windows], Condition | None]]] = {
    "ip_range": _ip_range,
    "time_window": _time_window,
    "mfa_required": _mfa_required,
    "audit_logged": _audit_logged,
    "approval": _approval,
    "max_token_age": _max_token_age,
    "max_risk": _max_risk,
    "max": _maximum,
    "cel": _cel,
}
CONDITION_KINDS: Final = tuple(_KINDS)
