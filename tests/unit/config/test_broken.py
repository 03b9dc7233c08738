"""Every mistake is reported at once, at its place, in these very words."""

import broken
import pytest


@pytest.mark.parametrize("case", broken.CASES)
def test_the_whole_report_is_as_expected(case):
    expected = (broken.FOLDER / case / "expected.txt").read_text()
    assert broken.report(case) == expected
    assert expected, "a case that reports nothing is not broken"


def test_the_shared_policy_file_of_the_cases_is_whole(tmp_path, monkeypatch):
    from pathlib import Path

    from ext_authz.config import load_inputs

    config = tmp_path / "ext-authz.yaml"
    config.write_text(f"policies: {{files: [{broken.FOLDER / 'ok.yaml'}]}}\n")
    assert load_inputs(Path(config), {}).policies is not None


def test_there_are_enough_cases_to_speak_of():
    assert len(broken.CASES) >= 100
