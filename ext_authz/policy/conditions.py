"""The conditions a policy may set: each reads the query, answers yes, no or "cannot be evaluated".

Law: `holds` is the one meaning; None (cannot be evaluated) makes an allow not
match and a deny match. `until_ns`, `detail` and `remedy` only talk about it.
Non-goal: YAML (condition_reader.py) and combining (compiler.py).
"""

import ipaddress
import math
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar, Final, Protocol
from zoneinfo import ZoneInfo

from ext_authz.model import Address, Approval, AttributeValue, Query, Risk
from ext_authz.policy.cel import Cel
from ext_authz.policy.grant import Grant, Remedy
from ext_authz.policy.matching import person
from ext_authz.policy.windows import DAYS, SECOND_NS, Window

_RISKS: Final = {risk: rank for rank, risk in enumerate(Risk)}


class Condition(Protocol):
    """One requirement of a policy."""

    @property
    def kind(self) -> str:
        """The key it is written under."""
        ...

    def holds(self, query: Query, grant: Grant) -> bool | None:
        """Whether it holds; None: it cannot be evaluated."""
        ...

    def until_ns(self, query: Query, grant: Grant) -> int | None:
        """Until when (this machine's clock, Unix nanoseconds) a condition that holds goes on to; None: no end."""
        ...

    def detail(self, query: Query, grant: Grant) -> str:
        """Why it does not hold, for the trace."""
        ...

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:
        """Words for what would make it hold, and the query changed so; None: nothing known would."""
        ...

    def data(self) -> Any:  # noqa: ANN401  JSON of each kind's own shape
        """Return plain JSON-able data for the dump."""
        ...


class _Lasting:
    """A condition that does not run out by itself."""

    __slots__ = ()

    def until_ns(self, query: Query, grant: Grant) -> int | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class IpRange(_Lasting):
    """The caller's address is in one of the CIDR blocks; a mapped IPv6 address is the IPv4 one it names."""

    kind: ClassVar[str] = "ip_range"
    networks: tuple[str, ...]
    _masks: tuple[tuple[int, int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        """Compile to (version, address, mask)."""
        blocks = [ipaddress.ip_network(text) for text in self.networks]
        masks = tuple((block.version, int(block.network_address), int(block.netmask)) for block in blocks)
        object.__setattr__(self, "_masks", masks)

    def holds(self, query: Query, grant: Grant) -> bool | None:  # noqa: ARG002, D102
        address = _unmapped(query.context.ip)
        if address is None:
            return None
        number = int(address)
        for version, base, mask in self._masks:  # noqa: SIM110  half the cost of `any`
            if version == address.version and number & mask == base:
                return True
        return False

    def detail(self, query: Query, grant: Grant) -> str:  # noqa: ARG002, D102
        address = _unmapped(query.context.ip)
        return "the caller's address is unknown" if address is None else f"{address} is not in {self._words()}"

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:  # noqa: ARG002, D102
        address = ipaddress.ip_network(self.networks[0]).network_address
        return f"from {self._words()}", replace(query, context=replace(query.context, ip=address))

    def data(self) -> list[str]:  # noqa: D102
        return list(self.networks)

    def _words(self) -> str:
        return " or ".join(self.networks)


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The window (`name` is "" when it is inline) is open at the request's time.

    `strict`: it must be open by this machine's clock too; where the two
    disagree it cannot be evaluated.
    """

    kind: ClassVar[str] = "time_window"
    window: Window
    name: str = ""
    strict: bool = False

    def holds(self, query: Query, grant: Grant) -> bool | None:  # noqa: ARG002, D102
        context = query.context
        opened = self.window.holds(context.time_ns)
        if self.strict and opened != self.window.holds(context.now_ns):
            return None
        return opened

    def until_ns(self, query: Query, grant: Grant) -> int | None:  # noqa: ARG002, D102
        now_ns, time_ns = query.context.now_ns, query.context.time_ns
        clocks = (time_ns, now_ns) if self.strict else (time_ns,)
        left = [end - clock for clock in clocks if (end := self.window.closes_ns(clock)) is not None]
        return now_ns + min(left) if left else None

    def detail(self, query: Query, grant: Grant) -> str:  # noqa: ARG002, D102
        context, window = query.context, self.window.describe()
        title = f"`{self.name}` ({window})" if self.name else f"the window {window}"
        here, there = self.window.holds(context.time_ns), self.window.holds(context.now_ns)
        if here is None or (self.strict and there is None):
            return f"the time is outside the calendar, so {title} cannot be evaluated"
        if self.strict and here != there:
            return f"{title} is open by one clock and closed by the other"
        return f"{title} is closed at {_local(context.time_ns, self.window.timezone)}"

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:  # noqa: ARG002, D102
        if self.window.holds(query.context.time_ns) is None:
            return None
        opens = self.window.opens_ns(query.context.time_ns)
        zone = ZoneInfo(self.window.timezone)
        then = datetime.fromtimestamp(opens // SECOND_NS, zone)
        today = datetime.fromtimestamp(query.context.time_ns // SECOND_NS, zone).date()
        day = "" if then.date() == today else f"{DAYS[then.weekday()].title()} {then.date()} "
        changed = replace(query.context, time_ns=opens, now_ns=opens)
        return f"after {day}{then:%H:%M} {self.window.timezone}", replace(query, context=changed)

    def data(self) -> list[Any]:  # noqa: D102
        window = self.window
        return [self.name, list(window.days), window.start, window.end, window.timezone]


@dataclass(frozen=True, slots=True)
class MfaRequired(_Lasting):
    """The subject proved itself with more than one factor."""

    kind: ClassVar[str] = "mfa_required"

    def holds(self, query: Query, grant: Grant) -> bool | None:  # noqa: ARG002, D102
        return query.subject.mfa

    def detail(self, query: Query, grant: Grant) -> str:  # noqa: ARG002, D102
        return f"{query.subject.id} did not sign in with MFA"

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:  # noqa: ARG002, D102
        return "with MFA", replace(query, subject=replace(query.subject, mfa=True))

    def data(self) -> bool:  # noqa: D102
        return True


@dataclass(frozen=True, slots=True)
class AuditLogged(_Lasting):
    """No test: asks that the decision is on durable storage before the answer leaves."""

    kind: ClassVar[str] = "audit_logged"

    def holds(self, query: Query, grant: Grant) -> bool | None:  # noqa: ARG002, D102
        return True

    def detail(self, query: Query, grant: Grant) -> str:  # noqa: ARG002, D102
        return "the decision is recorded before the answer leaves"

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:  # noqa: ARG002, D102
        return None

    def data(self) -> bool:  # noqa: D102
        return True


@dataclass(frozen=True, slots=True)
class Approved:
    """As many distinct people of `group` as the policy's `approvals` say approved this; never the subject.

    An approval counts for the policy, digest, subject and resource it names (None: any). Names that may be one
    person's (matching.person) count as one.
    """

    kind: ClassVar[str] = "approval"
    group: str

    def holds(self, query: Query, grant: Grant) -> bool | None:  # noqa: D102
        people = self._people(query, grant)
        return None if people is None else len(people) >= grant.approvals

    def until_ns(self, query: Query, grant: Grant) -> int | None:  # noqa: D102
        people = self._people(query, grant) or {}
        latest = sorted(people.values(), key=lambda end: math.inf if end is None else end, reverse=True)
        end = latest[grant.approvals - 1] if len(latest) >= grant.approvals else None
        return None if end is None else end * SECOND_NS

    def detail(self, query: Query, grant: Grant) -> str:  # noqa: D102
        people = self._people(query, grant)
        if people is None:
            return "the state is too old to say what was approved"
        has = f"{len(people)} of {grant.approvals}" if people else "none"
        return f"approvals by `{self.group}` for {query.subject.id}: {has}"

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:  # noqa: D102
        some = tuple(Approval(self.group, f"somebody:{number}") for number in range(grant.approvals))
        words = "an approval" if grant.approvals == 1 else f"{grant.approvals} approvals"
        approvals = (*(query.context.approvals or ()), *some)
        changed = replace(query, context=replace(query.context, approvals=approvals))
        return f"with {words} by {self.group}", changed

    def data(self) -> str:  # noqa: D102
        return self.group

    def _people(self, query: Query, grant: Grant) -> dict[str, int | None] | None:
        """Return who approved, each with when that ends (Unix seconds, None: never); None: unknown."""
        if query.context.approvals is None:
            return None
        people: dict[str, int | None] = {}
        for approval in query.context.approvals:
            if not self._counts(approval, query, grant):
                continue
            end = approval.expires_at
            who = person(approval.approver)
            known = people.get(who, end)
            people[who] = None if known is None or end is None else max(known, end)
        return people

    def _counts(self, approval: Approval, query: Query, grant: Grant) -> bool:
        resource = f"{query.resource.type}/{query.resource.id}"
        return (
            approval.group == self.group
            and person(approval.approver) != person(query.subject.id)
            and (approval.expires_at is None or query.context.now_ns < approval.expires_at * SECOND_NS)
            and approval.policy in (None, grant.id)
            and approval.policy_digest in (None, grant.digest)
            and approval.subject in (None, query.subject.id)
            and approval.resource in (None, resource)
        )


@dataclass(frozen=True, slots=True)
class MaxTokenAge:
    """The token was issued at most `milliseconds` ago; without an issue time it cannot be evaluated."""

    kind: ClassVar[str] = "max_token_age"
    milliseconds: int

    def holds(self, query: Query, grant: Grant) -> bool | None:  # noqa: D102
        end = self.until_ns(query, grant)
        return None if end is None else query.context.now_ns <= end

    def until_ns(self, query: Query, grant: Grant) -> int | None:  # noqa: ARG002, D102
        issued = query.subject.issued_at
        return None if issued is None else issued * SECOND_NS + self.milliseconds * 1_000_000

    def detail(self, query: Query, grant: Grant) -> str:  # noqa: ARG002, D102
        issued = query.subject.issued_at
        if issued is None:
            return f"{query.subject.id} came without a token that says when it was issued"
        age = query.context.now_ns // SECOND_NS - issued
        return f"the token is {age} s old, more than {duration_text(self.milliseconds)}"

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:  # noqa: ARG002, D102
        subject = replace(query.subject, issued_at=query.context.now_ns // SECOND_NS)
        return f"with a token no older than {duration_text(self.milliseconds)}", replace(query, subject=subject)

    def data(self) -> int:  # noqa: D102
        return self.milliseconds


@dataclass(frozen=True, slots=True)
class MaxRisk(_Lasting):
    """The subject's risk is at most `risk`."""

    kind: ClassVar[str] = "max_risk"
    risk: Risk

    def holds(self, query: Query, grant: Grant) -> bool | None:  # noqa: ARG002, D102
        risk = query.context.risk
        return None if risk is None else _RISKS[risk] <= _RISKS[self.risk]

    def detail(self, query: Query, grant: Grant) -> str:  # noqa: ARG002, D102
        risk = query.context.risk
        if risk is None:
            return "the state is too old to say how risky the subject is"
        return f"the risk is {risk.value}, at most {self.risk.value} is asked for"

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:  # noqa: ARG002, D102
        words = "with risk low" if self.risk is Risk.LOW else f"with risk {self.risk.value} or lower"
        return words, replace(query, context=replace(query.context, risk=self.risk))

    def data(self) -> str:  # noqa: D102
        return self.risk.value


@dataclass(frozen=True, slots=True)
class Maximum(_Lasting):
    """Numbers that the adapter found in the request are at most these; a missing one cannot be evaluated."""

    kind: ClassVar[str] = "max"
    limits: tuple[tuple[str, int | float], ...]

    def holds(self, query: Query, grant: Grant) -> bool | None:  # noqa: ARG002, D102
        unknown = False
        for attribute, limit in self.limits:
            value = _number(query.attributes.get(attribute))
            if value is None:
                unknown = True
            elif value > limit:
                return False
        return None if unknown else True

    def detail(self, query: Query, grant: Grant) -> str:  # noqa: ARG002, D102
        parts = []
        for attribute, limit in self.limits:
            value = _number(query.attributes.get(attribute))
            if value is None:
                parts.append(f"`{attribute}` of the request is unknown")
            elif value > limit:
                parts.append(f"`{attribute}` is {value}, at most {limit} is allowed")
        return "; ".join(parts)

    def remedy(self, query: Query, grant: Grant) -> Remedy | None:  # noqa: ARG002, D102
        words = " and ".join(f"`{attribute}` at most {limit}" for attribute, limit in self.limits)
        changed = {attribute: math.floor(limit) for attribute, limit in self.limits}
        return f"with {words}", replace(query, attributes={**query.attributes, **changed})

    def data(self) -> list[list[Any]]:  # noqa: D102
        return [[attribute, limit] for attribute, limit in self.limits]


def undump_condition(kind: str, data: Any) -> Condition:  # noqa: ANN401  JSON of each kind's own shape
    """Return the condition whose `data` this is; raises ValueError for an unknown kind."""
    match kind:
        case "ip_range":
            return IpRange(tuple(data))
        case "time_window":
            name, days, start, end, zone = data
            return TimeWindow(Window(tuple(days), start, end, zone), name)
        case "mfa_required":
            return MfaRequired()
        case "audit_logged":
            return AuditLogged()
        case "approval":
            return Approved(data)
        case "max_token_age":
            return MaxTokenAge(data)
        case "max_risk":
            return MaxRisk(Risk(data))
        case "max":
            return Maximum(tuple((attribute, limit) for attribute, limit in data))
        case "cel":
            return Cel(data)
        case _:
            raise ValueError(f"unknown condition `{kind}`")


def duration_text(milliseconds: int) -> str:
    """Return a duration in the largest unit that divides it: `15m`."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def _number(value: AttributeValue | None) -> int | float | None:
    """Return what can be compared: neither a truth value nor "not a number"."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # `math.isnan` cannot take an int that no float holds.
    return value if value == value else None  # noqa: PLR0124


def _unmapped(address: Address | None) -> Address | None:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _local(time_ns: int, zone: str) -> str:
    then = datetime.fromtimestamp(time_ns // SECOND_NS, ZoneInfo(zone))
    return f"{DAYS[then.weekday()].title()} {then:%Y-%m-%d %H:%M} {zone}"
