"""Policy tests run: each case decided by the server's own code, compared with what was expected, coverage counted.

Law: a case sees nothing but itself; running twice, or in another order, gives the same.
Non-goal: reading files (cases.py) and printing (cli).
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from ext_authz.check import Snapshot
from ext_authz.model import Decision, Outcome, Reason
from ext_authz.policy.document import Effect
from ext_authz.policy.engine import PolicySet
from ext_authz.policy.explain import explain
from ext_authz.tools.cases import Case
from ext_authz.tools.explain import outcome_of, query_of

_DECISION_ID: Final = "test"


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case run. `failures` says what differed, one line each; none means it passed. `why` helps to see why.

    `conditions` are those that the case asked: policy, place, and whether it let the policy match.
    """

    case: Case
    failures: tuple[str, ...]
    outcome: Outcome
    seconds: float
    why: tuple[str, ...] = ()
    conditions: frozenset[tuple[str, int, bool]] = frozenset()

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class ConditionCoverage:
    """Whether some case that a policy concerned met one of its conditions, and some case did not."""

    policy: str
    condition: str
    met: bool
    missed: bool


@dataclass(frozen=True, slots=True)
class Report:
    """All cases run. `covered` are the policies that some case made apply, in policy order with `uncovered`."""

    results: tuple[CaseResult, ...]
    covered: tuple[str, ...]
    uncovered: tuple[str, ...]
    conditions: tuple[ConditionCoverage, ...] = ()

    @property
    def failed(self) -> tuple[CaseResult, ...]:
        """The cases that did not pass."""
        return tuple(each for each in self.results if not each.passed)

    @property
    def coverage(self) -> float:
        """Per cent of the policies that some case made apply; 100 where there are none."""
        total = len(self.covered) + len(self.uncovered)
        return 100.0 * len(self.covered) / total if total else 100.0

    @property
    def condition_coverage(self) -> float:
        """Per cent of what conditions can say (met, not met) that some case made them say; 100 without any."""
        seen = sum(each.met + each.missed for each in self.conditions)
        return 50.0 * seen / len(self.conditions) if self.conditions else 100.0


def run_cases(cases: Iterable[Case], snapshot: Snapshot, policies: Sequence[str]) -> Report:
    """Run every case against one snapshot; `policies` are the ids of all its policies in order."""
    return report_of([run_case(case, snapshot) for case in cases], snapshot, policies)


def report_of(results: Sequence[CaseResult], snapshot: Snapshot, policies: Sequence[str]) -> Report:
    """Return the report of cases that were run."""
    applied = {name for each in results for name in _applied(each.outcome.decision)}
    return Report(
        results=tuple(results),
        covered=tuple(name for name in policies if name in applied),
        uncovered=tuple(name for name in policies if name not in applied),
        conditions=tuple(_condition_coverage(results, snapshot.policies)),
    )


def _condition_coverage(results: Iterable[CaseResult], policies: PolicySet) -> Iterator[ConditionCoverage]:
    asked = {each for result in results for each in result.conditions}
    for policy in policies.policies:
        kinds = [condition.kind for condition in policy.conditions]
        for place, kind in enumerate(kinds):
            name = kind if kinds.count(kind) == 1 else f"{kind} {kinds[: place + 1].count(kind)}"
            met, missed = (policy.id, place, True) in asked, (policy.id, place, False) in asked
            yield ConditionCoverage(policy.id, name, met, missed)


def decide_case(case: Case, snapshot: Snapshot) -> Outcome:
    """Decide one case: a whole request by `check`, anything else by the policy engine alone."""
    if case.request is not None:
        return outcome_of(
            case.request, snapshot, case.state, case.at_ns, request_time_ns=case.at_ns, decision_id=_DECISION_ID
        )
    query = case.query
    assert query is not None  # noqa: S101  a case has the one or the other
    verdict = snapshot.policies.decide(query)
    allowed = verdict.reason is Reason.ALLOWED
    ttl = None
    if allowed and verdict.policy is not None:
        left = [] if verdict.until_ns is None else [(verdict.until_ns - case.at_ns) // 1_000_000_000]
        ttl = max(min([verdict.policy.ttl, *left]), 0)
    decision = Decision(
        allowed=allowed,
        reason=verdict.reason,
        policy_id=verdict.policy.id if verdict.policy else "",
        policies=verdict.policies,
        shadow=verdict.shadow,
        ttl=ttl,
        audit_logged=verdict.audit_logged,
    )
    return Outcome(decision, _DECISION_ID, snapshot.revision, case.at_ns, identity=query.subject, context=query.context)


def run_case(case: Case, snapshot: Snapshot) -> CaseResult:
    """Run one case."""
    started = time.perf_counter()
    outcome = decide_case(case, snapshot)
    seconds = time.perf_counter() - started
    failures = tuple(_differences(case, outcome))
    why = tuple(_why(case, outcome, snapshot)) if failures else ()
    return CaseResult(case, failures, outcome, seconds, why, frozenset(_asked(case, outcome, snapshot)))


def _asked(case: Case, outcome: Outcome, snapshot: Snapshot) -> Iterator[tuple[str, int, bool]]:
    """Yield each condition of each policy that concerns the case, and whether it let the policy match."""
    query = case.query or query_of(outcome)
    if query is None:
        return
    for policy in snapshot.policies.policies:
        if policy.conditions and policy.concerns(query):
            for place, condition in enumerate(policy.conditions):
                yield policy.id, place, policy.counts(condition.holds(query, policy))


def _why(case: Case, outcome: Outcome, snapshot: Snapshot) -> Iterator[str]:
    """Say what the policy that was expected, and those that nearly applied, made of a case that failed."""
    query = case.query or query_of(outcome)
    if query is None:
        return
    explanation = explain(snapshot.policies, query)
    wants_allow = case.expect.decision == "allow"
    denies = {each.id: not each.shadow for each in snapshot.policies.policies if each.effect is Effect.DENY}
    for each in explanation.trace:
        # Where an allow was expected, a deny is of interest that did apply; otherwise what nearly did.
        near = not each.matched and each.failed_at not in _ELSEWHERE
        if wants_allow and each.policy_id in denies:
            near = each.matched and denies[each.policy_id]
        if each.policy_id == case.expect.policy or near:
            yield f"{each.policy_id}: {each.failed_at or 'matched'}: {each.detail}"
    if wants_allow:
        yield from (f"would be allowed {each}" for each in explanation.would_allow_if[:1])


_ELSEWHERE: Final = ("subjects", "resources", "actions")


def _differences(case: Case, outcome: Outcome) -> Iterable[str]:
    expect, decision = case.expect, outcome.decision
    got = "allow" if decision.allowed else "deny"
    if expect.decision != got:
        detail = outcome.refusal.detail if outcome.refusal is not None else ""
        named = f" by `{decision.policy_id}`" if decision.policy_id else ""
        yield f"expected {expect.decision}, got {got}{named} ({decision.reason}{': ' if detail else ''}{detail})"
    access = outcome.access
    found: dict[str, object] = {
        "reason": decision.reason,
        "policy": decision.policy_id,
        "ttl": decision.ttl,
        "http_status": decision.reason.http_status,
        "subject": outcome.identity.id if outcome.identity is not None else "",
        "resource": (access.resource.type, access.resource.id) if access is not None else ("", ""),
        "action": access.action if access is not None else "",
    }
    for name, value in found.items():
        wanted = getattr(expect, name)
        if wanted is not None and wanted != value and not (name == "reason" and expect.decision != got):
            yield f"expected {name} {_shown(wanted)}, got {_shown(value)}"
    if expect.policies is not None and set(expect.policies) != set(decision.policies):
        yield f"expected policies {_shown(expect.policies)}, got {_shown(decision.policies)}"
    shadow = tuple(each.policy_id for each in decision.shadow)
    if expect.shadow is not None and set(expect.shadow) != set(shadow):
        yield f"expected shadow policies {_shown(expect.shadow)}, got {_shown(shadow)}"
    headers = dict(decision.headers)
    for name, value in expect.headers.items():
        if headers.get(name) != value:
            yield f"expected header `{name}` {_shown(value)}, got {_shown(headers.get(name))}"
    for name in expect.remove_headers:
        if name not in decision.remove_headers:
            yield f"expected header `{name}` to be removed"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value) if value else "none"
    return f"`{value}`"


def _applied(decision: Decision) -> Iterable[str]:
    yield from (each.policy_id for each in decision.shadow)
    if decision.allowed or decision.reason is Reason.DENIED_BY_POLICY:
        yield from decision.policies
        if decision.policy_id:
            yield decision.policy_id


def junit(report: Report) -> str:
    """Return the results as JUnit XML, one suite per file."""
    files: dict[str, list[CaseResult]] = {}
    for each in report.results:
        files.setdefault(each.case.mark.file, []).append(each)
    failed = len(report.failed)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<testsuites name="policies" tests="{len(report.results)}" failures="{failed}">',
    ]
    for file, results in files.items():
        failures = sum(not each.passed for each in results)
        seconds = sum(each.seconds for each in results)
        lines.append(
            f'<testsuite name={_attribute(file)} tests="{len(results)}" failures="{failures}" time="{seconds:.6f}">'
        )
        for each in results:
            name = f"<testcase classname={_attribute(file)} name={_attribute(each.case.name)}"
            head = f'{name} file={_attribute(file)} line="{each.case.mark.line}" time="{each.seconds:.6f}"'
            if each.passed:
                lines.append(f"{head}/>")
            else:
                text = escape(_xml("\n".join((*each.failures, *each.why))))
                lines.append(f"{head}><failure message={_attribute(each.failures[0])}>{text}</failure></testcase>")
        lines.append("</testsuite>")
    lines.append("</testsuites>")
    return "\n".join(lines) + "\n"


def _attribute(text: str) -> str:
    return quoteattr(_xml(text))


def _xml(text: str) -> str:
    """Leave out what XML 1.0 (2.2) has no way to write."""
    return "".join(
        c for c in text if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff")
    )
