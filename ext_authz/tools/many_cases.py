"""Many policy tests at once: files shared out among processes where there are enough cases to be worth it.

Law: the report is the one that a single process makes, mistakes included.
Non-goal: running one case (runner.py).
"""

import multiprocessing
import os
import re
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Final

from ext_authz import wiring
from ext_authz.check import Snapshot
from ext_authz.config import Inputs
from ext_authz.documents import Diagnostic, DocumentError
from ext_authz.model import Outcome
from ext_authz.tools.case_reader import load_cases
from ext_authz.tools.runner import CaseResult, Report, report_of, run_case

MANY: Final = 1000
"""From so many cases on, in several files, starting processes takes less time than it saves."""
_EXPECT = re.compile(r"\bexpect *:")

_Done = tuple[list[CaseResult], tuple[Diagnostic, ...]]


def run_files(texts: Mapping[str, str], inputs: Inputs, snapshot: Snapshot, *, many: int = MANY) -> Report:
    """Read and run the cases of test files (name to text). Raises DocumentError with every mistake in all of them."""
    policies = [policy.id for policy in snapshot.policies.policies]
    workers = min(os.cpu_count() or 1, len(texts))
    if workers < 2 or sum(len(_EXPECT.findall(text)) for text in texts.values()) <= many:  # noqa: PLR2004
        return report_of([run_case(case, snapshot) for case in load_cases(texts)], snapshot, policies)
    results: list[CaseResult] = []
    mistakes: list[Diagnostic] = []
    # Spawned: a fork would copy whatever threads and locks the caller has.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (inputs.to_bytes(),)) as pool:
        for done, wrong in pool.map(_run_file, texts.items()):
            results += done
            mistakes += wrong
    if mistakes:
        raise DocumentError(mistakes, texts)
    return report_of(results, snapshot, policies)


_built: list[Snapshot] = []


def _begin(inputs: bytes) -> None:
    _built[:] = [wiring.build(Inputs.from_bytes(inputs))]


def _run_file(item: tuple[str, str]) -> _Done:
    name, text = item
    try:
        cases = load_cases({name: text})
    except DocumentError as error:
        return [], tuple(error.diagnostics)
    return [_light(run_case(case, _built[0])) for case in cases], ()


def _light(result: CaseResult) -> CaseResult:
    """Return the result without what the report does not look at (and processes cannot exchange)."""
    whole = result.outcome
    return replace(result, outcome=Outcome(whole.decision, whole.decision_id, whole.policy_revision, whole.now_ns))
