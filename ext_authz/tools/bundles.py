"""Whether the files of a bundle load by themselves, as `bundle build` wants them to before anybody signs.

Law: the very readers of the server. Non-goal: what a configuration adds (roles, further files), which `check` looks at.
"""

from collections.abc import Mapping

from ext_authz.bundle.trust import is_test
from ext_authz.config.load import decode
from ext_authz.documents import Diagnostic, DocumentError
from ext_authz.documents import load as load_document
from ext_authz.mappers.routes import load_resources
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.schema import load_policies

_REQUEST_BYTES = 2**20


def check_files(files: Mapping[str, bytes]) -> int:
    """Load policies and resources by their paths in the bundle; return how many policies there are.

    Raises DocumentError with every mistake.
    """
    mistakes: list[Diagnostic] = []
    texts: dict[str, str] = {}
    for path, data in sorted(files.items()):
        try:
            texts[path] = decode(data, path)
        except DocumentError as error:
            mistakes += error.diagnostics
    count = 0
    try:
        policies = {path: text for path, text in texts.items() if path.startswith("policies/") and not is_test(path)}
        if policies:
            count = len(compile_policies(load_policies(policies)).policies)
    except DocumentError as error:
        mistakes += error.diagnostics
    try:
        named = [path for path in texts if path.startswith("resources/") and not is_test(path)]
        load_resources([(load_document(texts[path], path), path) for path in named], max_request_bytes=_REQUEST_BYTES)
    except DocumentError as error:
        mistakes += error.diagnostics
    if mistakes:
        raise DocumentError(mistakes, texts)
    return count
