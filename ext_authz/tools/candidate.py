"""Policies that are not in force: what a name, folder or glob stands for, read as the server would.

Law: what the server would refuse is refused here, all mistakes at once.
"""

import glob
from collections.abc import Iterable
from pathlib import Path

from ext_authz.config.inputs import TEST_SUFFIX, expand
from ext_authz.config.load import decode, read_bytes, reason
from ext_authz.documents import Diagnostic, DocumentError
from ext_authz.policy.document import PolicyDocument
from ext_authz.policy.schema import load_policies

_SUFFIXES = (".yaml", ".yml")


def read_policies(names: Iterable[str]) -> PolicyDocument:
    """Read policy files, folders (their `*.yaml`) and globs, in path order; tests are skipped.

    Raises DocumentError for what cannot be read, for what is no policy, and for a name that stands for nothing.
    """
    texts: dict[str, str] = {}
    mistakes: list[Diagnostic] = []
    found: set[str] = set()
    for name in names:
        files = _files(name)
        if not files:
            mistakes.append(Diagnostic(None, f"no policy file matches `{name}`"))
        found.update(files)
    for file in sorted(found):
        try:
            texts[file] = decode(read_bytes(Path(file)), file)
        except OSError as error:
            mistakes.append(Diagnostic(None, f"cannot read `{file}`: {reason(error)}"))
        except DocumentError as error:
            mistakes += error.diagnostics
    if mistakes:
        raise DocumentError(mistakes, texts)
    return load_policies(texts)


def _files(name: str) -> list[str]:
    if Path(name).is_dir():
        return [str(each) for each in Path(name).iterdir() if _is_policy(each) and each.is_file()]
    if glob.has_magic(name) and not Path(name).exists():
        return [each for each in expand(Path(), name) if not each.endswith(TEST_SUFFIX)]
    return [name]


def _is_policy(path: Path) -> bool:
    return path.suffix in _SUFFIXES and not path.name.endswith((TEST_SUFFIX, "_test.yml"))
