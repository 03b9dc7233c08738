"""Grants that nobody used: which alternatives of which allow policies no recorded request needed.

Law: a use is a recorded allow that the policy matched, and every alternative
that matched that request was used. Non-goal: judging what to do about it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ext_authz.audit.event import DECISION, STATE
from ext_authz.model import Access, Identity, Reason
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.engine import CompiledPolicy, PolicySet, ResourceEntry, SubjectEntry
from ext_authz.policy.matching import Values
from ext_authz.policy.schema import undump
from ext_authz.tools import recorded_query as recorded
from ext_authz.tools.access import entry_words, resource_words
from ext_authz.tools.approving import ACTION as APPROVE
from ext_authz.tools.trail_fold import Seen

Grant = tuple[str, str, str]
"""Policy, part (`policy`, `subject`, `resource`, `action`) and the alternative in words."""
POLICY: Final = "policy"
_MEMO: Final = 50_000


@dataclass(slots=True)
class Use:
    """How often a grant was used, and the time of the last event."""

    count: int = 0
    last: str = ""

    def join(self, other: "Use") -> None:
        """Add the uses of `other`."""
        self.count += other.count
        self.last = max(self.last, other.last)


@dataclass(slots=True)
class Uses:
    """What the events say. `unreadable` counts allows that do not say who asked for what."""

    uses: dict[Grant, Use] = field(default_factory=dict)
    allows: int = 0
    unreadable: int = 0
    first: str = ""
    last: str = ""

    def join(self, other: "Uses") -> None:
        """Add what other events say."""
        for grant, use in other.uses.items():
            self.uses.setdefault(grant, Use()).join(use)
        self.allows += other.allows
        self.unreadable += other.unreadable
        self.first = min(filter(None, (self.first, other.first)), default="")
        self.last = max(self.last, other.last)


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Each alternative of an allow policy, by its words."""

    subjects: tuple[tuple[str, SubjectEntry], ...]
    resources: tuple[tuple[str, ResourceEntry], ...]
    actions: tuple[tuple[str, Values], ...]

    def names(self, policy: str) -> Iterator[Grant]:
        """Yield the grants, the policy as a whole first."""
        yield policy, POLICY, policy
        for part, listed in (("subject", self.subjects), ("resource", self.resources), ("action", self.actions)):
            yield from ((policy, part, words) for words, _ in listed)


def alternatives(policy: CompiledPolicy) -> Alternatives:
    """Split a policy's lists; an entry of one test with several values is several alternatives."""
    subjects = [
        SubjectEntry(((test, Values([each])),), anonymous=entry.anonymous)
        for written, entry in zip(policy.source.subjects or (), policy.subjects or (), strict=True)
        for test, values in [(written[0].attribute, written[0].values) if len(written) == 1 else ("", ())]
        for each in values
    ]
    subjects += [entry for entry in policy.subjects or () if len(entry.tests) != 1]
    return Alternatives(
        tuple((entry_words(entry), entry) for entry in subjects),
        tuple((resource_words(entry), entry) for entry in policy.resources or ()),
        tuple((action, Values([action])) for action in policy.source.actions or ()),
    )


def granting(policies: PolicySet) -> list[CompiledPolicy]:
    """Return the policies that grant anything."""
    return [policy for policy in policies.policies if not policy.deny and not policy.shadow]


def unused(policies: PolicySet, uses: Uses, since: str) -> list[tuple[Grant, Use]]:
    """Return the grants without a use since a time (as events have it), with what use they had before.

    Of a policy that was not used at all only the policy is listed.
    """
    found: list[tuple[Grant, Use]] = []
    for policy in granting(policies):
        for grant in dict.fromkeys(alternatives(policy).names(policy.id)):
            use = uses.uses.get(grant, Use())
            if use.last < since:
                found.append((grant, use))
                if grant[1] == POLICY:
                    break
    return found


class UseFolder:
    """Counts uses; one for each process."""

    def __init__(self, policies: PolicySet) -> None:
        self.policies = {policy.id: (policy, alternatives(policy)) for policy in granting(policies)}
        self._memo: dict[bytes, tuple[Grant, ...]] = {}

    def fold(self, lines: Iterable[bytes | None], seen: Seen) -> Uses:
        """Fold the events of some lines."""
        made = Uses()
        for line in lines:
            try:
                event = None if line is None else orjson.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                made.unreadable += 1
            elif event.get("schema") == DECISION:
                self._event(event, made, seen)
            elif event.get("schema") == STATE:
                self._approval(event, made, seen)
        return made

    def _approval(self, event: dict[str, Any], made: Uses, seen: Seen) -> None:
        """Count the policy that let somebody approve (docs/state.md).

        Of the approver only the name is on record, so none of the policy's alternatives is called unused for it.
        """
        record, time = event.get("record"), event.get("time")
        if not isinstance(record, dict) or record.get("decision") != Reason.ALLOWED.value or not isinstance(time, str):
            return
        found = self.policies.get(str(record.get("decided_by")))
        event_id, seq = event.get("event_id"), event.get("seq")
        if isinstance(event_id, str) and type(seq) is int and not seen.add(event_id.rpartition(":")[0], seq):
            return
        if found is None:
            return
        policy, parts = found
        made.allows += 1
        for grant in dict.fromkeys(parts.names(policy.id)):
            if grant[1] != "action" or grant[2] in (APPROVE, "*"):
                use = made.uses.setdefault(grant, Use())
                use.count += 1
                use.last = max(use.last, time)

    def _event(self, event: dict[str, Any], made: Uses, seen: Seen) -> None:
        event_id, seq = event.get("event_id"), event.get("seq")
        if isinstance(event_id, str) and type(seq) is int and not seen.add(event_id.rpartition(":")[0], seq):
            return
        time = event.get("time")
        try:
            recorded.moment_of(time)
        except ValueError:
            made.unreadable += 1
            return
        made.first, made.last = min(made.first or str(time), str(time)), max(made.last, str(time))
        if event.get("reason") != Reason.ALLOWED.value:
            return
        made.allows += 1
        try:
            grants = self._grants(event)
        except (ValueError, TypeError):
            made.unreadable += 1
            return
        for grant in grants:
            use = made.uses.setdefault(grant, Use())
            use.count += 1
            use.last = max(use.last, str(time))

    def _grants(self, event: dict[str, Any]) -> tuple[Grant, ...]:
        subject = event.get("subject")
        recorded.whole(event, cel=False)
        if not isinstance(subject, dict):
            raise TypeError("no subject")
        asked = {name: value for name, value in subject.items() if name not in ("token_age", "token_id")}
        names = event.get("policies")
        key = orjson.dumps([asked, event.get("resource"), event.get("action"), event.get("accesses"), names])
        known = self._memo.get(key)
        if known is None:
            identity = recorded.subject_of(subject)
            accesses = recorded.accesses_of(event) or (
                Access(recorded.resource_of(event.get("resource")), str(event.get("action"))),
            )
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            known = self._memo[key] = tuple(self._matched(names, identity, accesses))
        return known

    def _matched(self, names: Any, identity: Identity, accesses: tuple[Access, ...]) -> Iterator[Grant]:  # noqa: ANN401
        for name in names if isinstance(names, list) else ():
            policy, parts = self.policies.get(name, (None, None))
            if policy is None or parts is None:
                continue
            mine = [each for each in accesses if policy.action_matches(each.action)]
            yield name, POLICY, name
            yield from dict.fromkeys(
                (name, "subject", words) for words, each in parts.subjects if each.matches(identity)
            )
            yield from dict.fromkeys(
                (name, "resource", words)
                for words, each in parts.resources
                if any(each.matches(access.resource) for access in mine)
            )
            yield from dict.fromkeys(
                (name, "action", words)
                for words, each in parts.actions
                if any(each.accepts(access.action) for access in mine)
            )


def use_folder(dumped: bytes) -> UseFolder:
    """Make a UseFolder of a dumped policy document (JSON)."""
    return UseFolder(compile_policies(undump(orjson.loads(dumped))))
