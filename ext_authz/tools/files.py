"""Which test files belong to a configuration, and their texts.

Law: a path named and not there is a mistake, and other tests never stand in for
those of a folder that has none; nothing is read twice.
"""

from collections.abc import Iterable
from pathlib import Path

from ext_authz.config import Inputs
from ext_authz.config.inputs import TEST_SUFFIX, expand
from ext_authz.config.load import decode, read_bytes, reason
from ext_authz.documents import Diagnostic, DocumentError


def read_tests(paths: Iterable[Path], inputs: Inputs) -> dict[str, str]:
    """Return the texts of the test files by name, in path order.

    Without `paths` they are those that the policy globs match and those in the
    folders of the policies. Raises DocumentError for what cannot be read.
    """
    given = list(paths)
    named = [path for each in given for path in _within(each)]
    if not given:
        base = Path(inputs.file).parent
        matched = [Path(name) for pattern in inputs.settings.policies.files for name in expand(base, pattern)]
        folders = {Path(name).parent for name in inputs.policy_files}
        beside = [path for folder in folders for path in folder.glob(f"*{TEST_SUFFIX}")]
        named = [path for path in matched if path.name.endswith(TEST_SUFFIX)] + beside
    texts: dict[str, str] = {}
    mistakes: list[Diagnostic] = []
    for name in sorted({str(path) for path in named}):
        try:
            texts[name] = decode(read_bytes(Path(name)), name)
        except OSError as error:
            mistakes.append(Diagnostic(None, f"cannot read `{name}`: {reason(error)}"))
        except DocumentError as error:
            mistakes += error.diagnostics
    if mistakes:
        raise DocumentError(mistakes)
    return texts


def _within(path: Path) -> list[Path]:
    if path.is_dir():
        return [each for each in path.rglob(f"*{TEST_SUFFIX}") if each.is_file()]
    return [path]
