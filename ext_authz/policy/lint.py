"""Warnings about policies that load but may not mean what their author thinks.

Law: never changes what a policy does; every warning has a code and a place.
Non-goal: mistakes (schema.py refuses those) and routes (their own lint).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_network
from itertools import combinations
from typing import Final

from ext_authz.documents import Diagnostic, Mark, did_you_mean
from ext_authz.policy.condition_reader import DEFAULT_WINDOW
from ext_authz.policy.conditions import Approved, Condition, IpRange, MaxRisk, MaxTokenAge, MfaRequired, TimeWindow
from ext_authz.policy.document import Effect, Mode, Policy, PolicyDocument
from ext_authz.policy.overlap import Overlaps
from ext_authz.policy.windows import SECOND_NS, Window

DAY_NS: Final = 86_400 * SECOND_NS
EXPIRES_SOON_NS: Final = 14 * DAY_NS
_OF_EVERY_RESOURCE: Final = frozenset({"type", "id", "version"})


def lint(
    document: PolicyDocument,
    *,
    roles: frozenset[str] | None,
    actions: frozenset[str] | None,
    resource_types: frozenset[str] | None,
    now_ns: int,
    vocabulary: frozenset[str] = frozenset(),
    attributes: frozenset[str] | None = None,
) -> tuple[Diagnostic, ...]:
    """Return warnings in order of place.

    `roles`, `actions`, `resource_types` and `attributes` (of resources) are all that can occur; None where
    anything may. `vocabulary` are actions that are no slip of the pen, though nothing yields them here.
    `now_ns` is the clock in Unix nanoseconds.
    """
    found = [*_whole(document), *Overlaps(document.policies).warnings()]
    for policy in document.policies:
        found += _words(policy, roles=roles, actions=actions, resource_types=resource_types, vocabulary=vocabulary)
        found += _attributes(policy, attributes)
        found += _force(policy, now_ns)
        found += _conditions(policy, now_ns)
    found += _windows(document)
    return tuple(sorted(found, key=lambda each: (each.mark is not None, each.mark or Mark("", 0, 0), each.code)))


def _warn(mark: Mark | None, code: str, message: str) -> Diagnostic:
    return Diagnostic(mark, message, warning=True, code=code)


def _whole(document: PolicyDocument) -> Iterator[Diagnostic]:
    enforced = [policy for policy in document.policies if policy.mode is Mode.ENFORCE]
    if not any(policy.effect is Effect.ALLOW for policy in enforced):
        yield _warn(None, "nothing_allowed", "no policy allows anything: every request will be denied")


def _words(
    policy: Policy,
    *,
    roles: frozenset[str] | None,
    actions: frozenset[str] | None,
    resource_types: frozenset[str] | None,
    vocabulary: frozenset[str],
) -> Iterator[Diagnostic]:
    for place, entry in enumerate(policy.subjects or ()):
        for test in entry:
            if test.attribute == "role":
                mark = policy.mark_of(f"subjects.{place}")
                yield from _unheard(test.values, roles, mark, "unknown_role", "nobody can hold role")
    for place, entry in enumerate(policy.resources or ()):
        for test in entry:
            if test.attribute == "type":
                mark = policy.mark_of(f"resources.{place}")
                message = "no route or catalog entry yields resource type"
                yield from _unheard(test.values, resource_types, mark, "unknown_resource_type", message)
    for action in policy.actions or ():
        mark = policy.mark_of(f"actions.{action}")
        message = "no route or adapter yields action"
        yield from _unheard((action,), actions, mark, "unknown_action", message, elsewhere=vocabulary)


def _attributes(policy: Policy, known: frozenset[str] | None) -> Iterator[Diagnostic]:
    if known is None:
        return
    matches = "nothing" if policy.effect is Effect.ALLOW else "every resource, for this denies"
    for place, entry in enumerate(policy.resources or ()):
        for test in entry:
            name = test.attribute
            if name not in _OF_EVERY_RESOURCE and name not in known:
                near = did_you_mean(name, sorted(known))
                message = f"unknown attribute `{name}` matches {matches}: no route or catalog entry gives it{near}"
                yield _warn(policy.mark_of(f"resources.{place}"), "unknown_attribute", message)


def _unheard(
    values: tuple[str, ...],
    known: frozenset[str] | None,
    mark: Mark | None,
    code: str,
    message: str,
    *,
    elsewhere: frozenset[str] = frozenset(),
) -> Iterator[Diagnostic]:
    if known is None:
        return
    for value in values:
        heard = value in known or (value.endswith("*") and any(each.startswith(value[:-1]) for each in known))
        # A lone `*` says "any" on purpose, even where there is nothing yet.
        if not heard and value != "*":
            # Whoever writes what another configuration would know means just that.
            near = "" if value in elsewhere else did_you_mean(value, sorted(known))
            yield _warn(mark, code, f"{message} `{value}`{near}")


def _force(policy: Policy, now_ns: int) -> Iterator[Diagnostic]:
    start, end = policy.not_before_ns, policy.not_after_ns
    if end is None:
        return
    mark = policy.mark_of("not_after")
    if start is not None and start >= end:
        yield _warn(mark, "never_in_force", f"policy `{policy.id}` ends before it begins")
    elif end <= now_ns:
        yield _warn(mark, "never_in_force", f"policy `{policy.id}` ended on {_date(end)}")
    elif end - now_ns < EXPIRES_SOON_NS:
        days = (end - now_ns) // DAY_NS
        left = "today" if days == 0 else "in 1 day" if days == 1 else f"in {days} days"
        yield _warn(mark, "expires_soon", f"policy `{policy.id}` ends {left}, on {_date(end)}")


def _conditions(policy: Policy, now_ns: int) -> Iterator[Diagnostic]:
    mark = policy.mark_of("conditions")
    if "approval" in policy.marks:
        groups = ", ".join(f"`{each.group}`" for each in policy.conditions if isinstance(each, Approved))
        yield _warn(
            policy.marks["approval"],
            "approval_is_required",
            f"an approval among `subjects` is a condition: whoever matches another entry needs one by {groups} as well",
        )
    windows = [each.window for each in policy.conditions if isinstance(each, TimeWindow)]
    if any(not _meet(first, second, now_ns) for first, second in combinations(windows, 2)):
        message = "all conditions must hold, but these time windows are never open together"
        yield _warn(mark, "window_never_open", message)
    ranges = [each for each in policy.conditions if isinstance(each, IpRange)]
    if any(not _share(first, second) for first, second in combinations(ranges, 2)):
        yield _warn(mark, "no_such_address", "all conditions must hold, but no address is in all of these ranges")
    if policy.effect is Effect.DENY:
        for each in policy.conditions:
            if isinstance(each, (MfaRequired, Approved, MaxTokenAge, MaxRisk)):
                yield _warn(mark, "deny_condition", _denies(each))


def _denies(condition: Condition) -> str:
    return f"a deny with `{condition.kind}` hits those who meet it; to demand it, put it into the allow policies"


def _windows(document: PolicyDocument) -> Iterator[Diagnostic]:
    used: set[str] = set()
    for policy in document.policies:
        names = [each.name for each in policy.conditions if isinstance(each, TimeWindow) and each.name]
        used.update(names)
        if DEFAULT_WINDOW in names and DEFAULT_WINDOW not in document.windows:
            yield _warn(
                policy.mark_of("conditions"),
                "default_window",
                f"`{DEFAULT_WINDOW}` is not defined and means mon-fri 09:00-17:00 UTC; define it under `time_windows`",
            )
    for name in document.windows:
        if name not in used:
            yield _warn(document.window_marks.get(name), "unused_window", f"no policy uses time window `{name}`")


def _meet(first: Window, second: Window, now_ns: int) -> bool:
    """Whether two windows are ever open together: then one of them opens while the other is open."""
    for season in (now_ns, now_ns + 182 * DAY_NS):
        for opening, other in ((first, second), (second, first)):
            moment: int | None = season
            if opening.always:
                return True
            while moment is not None and moment < season + 8 * DAY_NS:
                if opening.holds(moment) and other.holds(moment):
                    return True
                moment = opening.opens_ns(moment)
    return False


def _share(first: IpRange, second: IpRange) -> bool:
    return any(
        here.version == there.version and here.overlaps(there)
        for here in map(ip_network, first.networks)
        for there in map(ip_network, second.networks)
    )


def _date(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC).strftime("%Y-%m-%d %H:%M UTC")
