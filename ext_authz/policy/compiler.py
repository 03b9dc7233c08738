"""A PolicyDocument to a PolicySet: patterns, templates and the index are built once, here.

Law: compiling loses nothing and decides nothing. Non-goal: I/O, mistakes
(schema.py found them all).
"""

import re
from dataclasses import replace

from ext_authz.headers import known_variable
from ext_authz.model import Auth
from ext_authz.policy.cel import Cel
from ext_authz.policy.collector import collector_paused
from ext_authz.policy.conditions import AuditLogged, Condition, TimeWindow
from ext_authz.policy.document import Effect, Mode, Policy, PolicyDocument, digest, revision
from ext_authz.policy.engine import CompiledPolicy, PolicySet, ResourceEntry, SubjectEntry
from ext_authz.policy.index import Filing, Index
from ext_authz.policy.matching import CLAIM, Entry, Trait, Values
from ext_authz.template import compile_template

_CLAIM_VARIABLE = re.compile(r"subject\.claims\.(.+)")


def compile_policies(document: PolicyDocument, *, strict_time: bool = False) -> PolicySet:
    """Compile policies for deciding. `strict_time` wants a time window to hold at both clocks."""
    with collector_paused():
        return _compile(document, strict_time=strict_time)


def _compile(document: PolicyDocument, *, strict_time: bool) -> PolicySet:
    compiler = _Compiler(strict_time=strict_time)
    policies = [compiler.policy(policy) for policy in document.policies]
    index = Index(
        [Filing(policy.subjects, open=False) for policy in document.policies],
        [Filing(policy.resources, open=policy.effect is Effect.DENY) for policy in document.policies],
        [_action_filing(policy) for policy in document.policies],
    )
    return PolicySet(
        policies,
        index,
        revision=revision(policy.digest for policy in policies),
        injectable=frozenset(name for policy in document.policies for name, _ in policy.headers),
        claims_read=frozenset(path for policy in policies for path in _claims_read(policy)),
    )


class _Compiler:
    """Compiles policies one by one; equal alternatives are compiled once and shared."""

    def __init__(self, *, strict_time: bool) -> None:
        self.strict_time = strict_time
        self.known: dict[tuple[str, ...], Values] = {}

    def policy(self, policy: Policy) -> CompiledPolicy:
        deny = policy.effect is Effect.DENY
        subjects, resources = policy.subjects, policy.resources
        return CompiledPolicy(
            id=policy.id,
            digest=digest(policy),
            headers=tuple((name, compile_template(source, known_variable)) for name, source in policy.headers),
            ttl=policy.ttl,
            source=policy,
            subjects=None if subjects is None else tuple(self._subject(entry, deny=deny) for entry in subjects),
            resources=None
            if resources is None
            else tuple(ResourceEntry(self._tests(entry), open=deny) for entry in resources),
            actions=None if policy.actions is None else self._values(policy.actions),
            conditions=tuple(self._strict(each) for each in policy.conditions if not isinstance(each, AuditLogged)),
            audit_logged=any(isinstance(condition, AuditLogged) for condition in policy.conditions),
            deny=deny,
            shadow=policy.mode is Mode.SHADOW,
        )

    def _subject(self, entry: Entry, *, deny: bool) -> SubjectEntry:
        says_so = any(test.attribute == "auth" and Auth.ANONYMOUS.value in test.values for test in entry)
        # `any: true` in a deny keeps everybody out, as leaving `subjects` away does.
        return SubjectEntry(self._tests(entry), anonymous=says_so or (deny and not entry))

    def _tests(self, entry: Entry) -> tuple[tuple[str, Values], ...]:
        return tuple((test.attribute, self._values(test.values)) for test in entry)

    def _values(self, alternatives: tuple[str, ...]) -> Values:
        known = self.known.get(alternatives)
        if known is None:
            known = self.known[alternatives] = Values(alternatives)
        return known

    def _strict(self, condition: Condition) -> Condition:
        if self.strict_time and isinstance(condition, TimeWindow):
            return replace(condition, strict=True)
        return condition


def _action_filing(policy: Policy) -> Filing:
    return Filing(None if policy.actions is None else ((Trait("action", policy.actions),),), open=False)


def _claims_read(policy: CompiledPolicy) -> set[str]:
    tests = [test for entry in policy.subjects or () for test, _ in entry.tests]
    paths = {test.removeprefix(CLAIM) for test in tests if test.startswith(CLAIM)}
    for _, template in policy.headers:
        paths.update(found[1] for name in template.variables if (found := _CLAIM_VARIABLE.fullmatch(name)))
    for condition in policy.conditions:
        if isinstance(condition, Cel):
            paths |= condition.claims_read()
    return paths
