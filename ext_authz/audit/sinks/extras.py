"""Optional libraries of sinks, named the same way wherever one is missing."""

from importlib.util import find_spec
from typing import Final

MODULES: Final = {"http": "urllib3"}
"""The module that tells whether an extra is installed."""


def needs(extra: str) -> ValueError:
    """Return the error that says how to install what is missing."""
    return ValueError(f"this sink needs the extra `{extra}`: `pip install 'ext-authz[{extra}]'`")


def missing(extra: str | None) -> str | None:
    """Say what to install where the extra is not there, else None."""
    if extra is None or find_spec(MODULES[extra]) is not None:
        return None
    return str(needs(extra))
