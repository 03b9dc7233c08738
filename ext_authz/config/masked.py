"""The configuration in force as plain data, without anything that is secret.

Law: what came from `${…}`, what the settings call secret, and what a URL carries besides its address is masked whole;
masking too much is right, too little never. Non-goal: the files that it names.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from ext_authz.config.inputs import Inputs
from ext_authz.documents import MappingNode, Node, Scalar, Sequence
from ext_authz.documents import load as load_document

MASK: Final = "********"
_MIN_VALUE: Final = 4
"""Shorter values are masked where they stand, but not looked for in other texts."""
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def masked(inputs: Inputs) -> dict[str, Any]:
    """Return every setting with the value in force, as JSON-able data; paths and sections as in the file."""
    plain = inputs.settings.model_dump(mode="json")
    secrets = tuple(each for each in inputs.values.values() if len(each) >= _MIN_VALUE)
    made = _masked(plain, load_document(inputs.loaded.text, inputs.loaded.file), secrets)
    return dict(made)


def _masked(value: Any, written: Node | None, secrets: tuple[str, ...]) -> Any:  # noqa: ANN401  JSON
    if isinstance(written, Scalar) and "${" in written.text and not _is_template(written.text):
        return MASK
    if isinstance(value, dict):
        return {
            _text(key, secrets): _masked(each, written.get(key) if isinstance(written, MappingNode) else None, secrets)
            for key, each in value.items()
        }
    if isinstance(value, list):
        if isinstance(written, Sequence):
            if len(written.items) != len(value):
                return MASK  # which of them is which cannot be told
            return [_masked(each, node, secrets) for each, node in zip(value, written.items, strict=True)]
        return [_masked(each, None, secrets) for each in value]
    return _text(value, secrets) if isinstance(value, str) else value


def _is_template(text: str) -> bool:
    """Whether every `${…}` is a template of the answer, as `${subject.name}`, and none a variable."""
    return all("." in name and name == name.lower() and ":" not in name for name in re.findall(r"\$\{([^}]*)\}?", text))


def _text(text: str, secrets: tuple[str, ...]) -> str:
    if any(secret in text for secret in secrets):
        return MASK
    return _address(text) if _URL.match(text) else text


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")
    except ValueError:
        return MASK
    netloc = f"{MASK}@{host[2]}" if host[1] else host[2]
    hidden = (MASK if parts.query else "", MASK if parts.fragment else "")
    return urlunsplit((parts.scheme, netloc, parts.path, *hidden))
