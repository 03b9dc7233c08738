"""What the shared store is to hold of risk and quarantine, against what it holds.

Law: never below what is known here, lowering only what was recorded here; what an attacker with many identities can
make grow in the store in a day is bounded. Non-goal: writing it (runner.py), whom it concerns (risk.py).
"""

from collections.abc import Iterator, Sequence
from typing import Final

from ext_authz.model import Risk
from ext_authz.monitor.detectors.finding import Finding
from ext_authz.monitor.held import BY, Held
from ext_authz.monitor.risk import DAY, SECOND, Proposal, RiskBook
from ext_authz.state.changes import Change, Kind

RENEWED: Final = 600
"""A recorded risk is recorded again, longer, where that makes at least so many seconds."""
_LEVELS: Final = {risk: place for place, risk in enumerate(Risk)}
_MAX_REASON: Final = 1024
_AHEAD_NS: Final = 3600 * SECOND
"""A monitor's quarantine that was imposed so much later than now was imposed by a clock that is not to be believed."""
_SETTLED_NS: Final = 60 * SECOND
"""So long after a quarantine one of another host may turn up that came before it."""


def quarantine(finding: Finding, proposal: Proposal, now_ns: int) -> Change:
    """Return the quarantine that follows from a finding."""
    why = "".join(c if c.isprintable() else "�" for c in f"{finding.detector}: {finding.explanation}")[:_MAX_REASON]
    return Change(Kind.QUARANTINE, BY, now_ns, reason=why, subject=proposal.subject, expires_at=proposal.ends_at)


def due(risk: RiskBook, held: Held, now_ns: int, most: int) -> list[Change]:
    """Return what is to be written: what is taken back, then risks, the gravest first, at most `most` in a day (UTC).

    The last quarter of them is for high and critical risks, so that a flood of small ones hides none of these. What a
    person's withdrawal or the end of a risk takes back is not counted: there is one for each that was recorded.
    """
    left = most - held.risks_on(now_ns // SECOND // DAY)
    changes = [
        Change(Kind.QUARANTINE, BY, now_ns, why, subject=subject, withdraw=True)
        for subject, why in _mistaken(risk, held, now_ns)
    ]
    levels = sorted(risk.levels(now_ns), key=lambda each: -_LEVELS[each[1]])
    changes += _no_risks(levels, held, now_ns)
    raised = 0
    for each in _risks(levels, held, now_ns):
        grave = _LEVELS[Risk(each.risk)] >= _LEVELS[Risk.HIGH]
        if raised < (left if grave else left - most // 4):
            raised += 1
            changes.append(each)
    return [each for each in changes if each.problem() is None]


def _risks(levels: Sequence[tuple[str, Risk, int]], held: Held, now_ns: int) -> Iterator[Change]:
    now = now_ns // SECOND
    for subject, level, ends_at in levels:
        there = held.risks.get(subject)
        known = _LEVELS[there.risk] if there is not None and there.ends_at > now else 0
        lower = there is not None and there.ours and known > _LEVELS[level]
        longer = there is not None and known == _LEVELS[level] and ends_at - there.ends_at >= RENEWED
        if known < _LEVELS[level] or lower or longer:
            yield Change(Kind.RISK, BY, now_ns, subject=subject, risk=level, expires_at=ends_at)


def _no_risks(levels: Sequence[tuple[str, Risk, int]], held: Held, now_ns: int) -> Iterator[Change]:
    now, risky = now_ns // SECOND, {subject for subject, _, _ in levels}
    for subject, there in held.risks.items():
        if there.ours and there.ends_at > now and subject not in risky:
            yield Change(Kind.RISK, BY, now_ns, subject=subject, withdraw=True)


def _mistaken(risk: RiskBook, held: Held, now_ns: int) -> Iterator[tuple[str, str]]:
    """Yield the quarantines by monitors that should not be: (subject, why)."""
    now, params = now_ns // SECOND, risk.params
    longest = max(params.longest, params.first) + _AHEAD_NS // SECOND
    found = [(each.at_ns, subject, each) for subject, each in held.quarantines.items()]
    found = sorted((each for each in found if each[2].monitored and each[2].ends_at > now), key=lambda each: each[:2])
    foreign = False
    for place, (at_ns, subject, each) in enumerate(found):
        # Both: a store may stamp a change later than its time, behind another of the same subject.
        if at_ns > now_ns + _AHEAD_NS and each.ends_at > now + longest:
            yield subject, "imposed by a clock that was ahead"
        elif foreign and each.ours and place >= risk.budget and now_ns - at_ns < _SETTLED_NS:
            yield subject, "several hosts imposed more at once than the budget allows"
        foreign = foreign or not each.ours
