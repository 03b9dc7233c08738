"""Configurations, policies and policy tests with mistakes (tests/broken), each with its whole expected report.

`python tests/support/broken.py` writes the reports anew: read the difference before committing it.
"""

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "broken"
CASES = sorted(each.name for each in FOLDER.iterdir() if each.is_dir())


def has_tests(case: str) -> bool:
    """Whether the mistakes of `case` are in its policy tests."""
    return any((FOLDER / case).glob("*_test.yaml"))


def report(case: str) -> str:
    """Return what loading the configuration of `case`, and its policy tests, reports, as if from its folder."""
    from ext_authz import wiring
    from ext_authz.config import read_inputs
    from ext_authz.documents import DocumentError
    from ext_authz.tools.case_reader import load_cases

    here = Path.cwd()
    os.chdir(FOLDER / case)
    try:
        draft = read_inputs(Path("ext-authz.yaml"), {})
        _, mistakes = wiring.attempt(draft)
        texts = {str(each): each.read_text() for each in sorted(Path().glob("*_test.yaml"))}
        try:
            load_cases(texts)
        except DocumentError as error:
            mistakes = (*mistakes, *error.diagnostics)
        return str(DocumentError(mistakes, {**draft.texts, **texts})) + "\n" if mistakes else ""
    finally:
        os.chdir(here)


if __name__ == "__main__":
    for each in CASES:
        (FOLDER / each / "expected.txt").write_text(report(each))
