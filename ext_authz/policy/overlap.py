"""Which allow policies add nothing, because another policy always answers where they would.

Law: a warning is certain: whatever the policy matches, the other one matches.
The reverse does not hold; overlap by several policies together is not looked for.
Non-goal: any other lint.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from ext_authz.documents import Diagnostic
from ext_authz.model import Auth
from ext_authz.policy.conditions import Approved, AuditLogged
from ext_authz.policy.document import Effect, Mode, Policy
from ext_authz.policy.matching import ANYTHING, Entry, Trait

MAX_COMPARISONS: Final = 500_000

_Key = tuple[str, str]
_Filed = dict[_Key, set[int]]
_ANY: Final[_Key] = ("", "")


class Overlaps:
    """Compares policies with those that could cover them, found by what they mention."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = policies
        self.subjects: _Filed = defaultdict(set)
        self.resources: _Filed = defaultdict(set)
        for number, policy in enumerate(policies):
            if policy.mode is Mode.ENFORCE:
                for key in _filed_under(policy.subjects, resources=False):
                    self.subjects[key].add(number)
                for key in _filed_under(policy.resources, resources=True):
                    self.resources[key].add(number)
        self.budget = MAX_COMPARISONS

    def warnings(self) -> Iterator[Diagnostic]:
        """Yield at most one warning per allow policy."""
        for number, policy in enumerate(self.policies):
            if policy.effect is Effect.ALLOW and policy.mode is Mode.ENFORCE:
                found = self._covered(number, policy)
                if found is not None:
                    yield found

    def _covered(self, number: int, policy: Policy) -> Diagnostic | None:
        possible = self._near(self.subjects, policy.subjects) & self._near(self.resources, policy.resources)
        for other_number in sorted(possible - {number}):
            self.budget -= 1
            if self.budget < 0:
                return None
            other = self.policies[other_number]
            if not _covers(other, policy):
                continue
            if other.effect is Effect.DENY:
                message = f"policy `{policy.id}` never allows: deny policy `{other.id}` hits all it matches"
                return Diagnostic(policy.mark, message, warning=True, code="shadowed_by_deny")
            if _adds_nothing(policy, other, first=number < other_number):
                message = f"policy `{policy.id}` adds nothing: `{other.id}` allows all it matches"
                return Diagnostic(policy.mark, message, warning=True, code="subsumed")
        return None

    def _near(self, filed: _Filed, entries: tuple[Entry, ...] | None) -> set[int]:
        """Return who could cover the first entry: who mentions one of its values, a prefix of it, or anything."""
        near = set(filed.get(_ANY, ()))
        for test in entries[0] if entries else ():
            value = test.values[0]
            near |= filed.get((test.attribute, value), set())
            for length in range(len(value.removesuffix("*")) + 1):
                near |= filed.get((test.attribute, value[:length] + "*"), set())
        return near


def _filed_under(entries: tuple[Entry, ...] | None, *, resources: bool) -> Iterator[_Key]:
    if entries is None:
        yield _ANY
    for entry in entries or ():
        tests = _telling(entry) if resources else entry
        if not tests:
            yield _ANY
        for test in tests:
            for value in test.values:
                yield test.attribute, value


def _adds_nothing(policy: Policy, other: Policy, *, first: bool) -> bool:
    """Whether an allow covered by another one could be deleted: its headers, ttl and audit request count too."""
    if _asks_audit(policy) and not _asks_audit(other):
        return False
    if not first:
        return True
    same = (policy.headers, policy.ttl) == (other.headers, other.ttl)
    # Of two equal policies only the later one is superfluous.
    return same and not _covers(policy, other)


def _asks_audit(policy: Policy) -> bool:
    return any(isinstance(each, AuditLogged) for each in policy.conditions)


def _covers(wide: Policy, narrow: Policy) -> bool:
    """Whether `wide` matches whenever `narrow` does."""
    asked = [each for each in wide.conditions if not isinstance(each, AuditLogged)]
    if wide.effect is Effect.DENY and asked:
        return False
    # An approval counts for one policy only.
    if any(isinstance(each, Approved) or each not in narrow.conditions for each in asked):
        return False
    if wide.not_before_ns is not None and wide.not_before_ns > (narrow.not_before_ns or 0):
        return False
    if wide.not_after_ns is not None and (narrow.not_after_ns is None or wide.not_after_ns < narrow.not_after_ns):
        return False
    if not _values_cover(wide.actions, narrow.actions):
        return False
    deny = wide.effect is Effect.DENY
    return _lists_cover(wide.subjects, narrow.subjects, subject=True, deny=deny) and _lists_cover(
        wide.resources, narrow.resources, subject=False, deny=deny
    )


def _lists_cover(
    wide: tuple[Entry, ...] | None, narrow: tuple[Entry, ...] | None, *, subject: bool, deny: bool
) -> bool:
    if wide is None:
        return True
    return all(
        any(_entry_covers(here, there, subject=subject, deny=deny) for here in wide)
        for there in (narrow if narrow is not None else ((),))
    )


def _entry_covers(wide: Entry, narrow: Entry, *, subject: bool, deny: bool) -> bool:
    asked = {test.attribute: test.values for test in narrow}
    anonymous = subject and Auth.ANONYMOUS.value in asked.get("auth", ())
    if anonymous and not any(test.attribute == "auth" for test in wide) and (wide or not deny):
        return False
    tests = wide if subject else _telling(wide)
    return all(test.attribute in asked and _values_cover(test.values, asked[test.attribute]) for test in tests)


def _telling(entry: Entry) -> tuple[Trait, ...]:
    """Return a resource entry's tests without those that every resource passes."""
    return tuple(test for test in entry if not (test.attribute in ("type", "id") and ANYTHING in test.values))


def _values_cover(wide: tuple[str, ...] | None, narrow: tuple[str, ...] | None) -> bool:
    if wide is None or ANYTHING in wide:
        return True
    prefixes = tuple(value[:-1] for value in wide if value.endswith("*"))
    exact = set(wide)
    return all(value in exact or value.removesuffix("*").startswith(prefixes) for value in narrow or (ANYTHING,))
