"""Finds checkouts of public test vectors. They are not part of this repository: tests that need one skip without it.

WYCHEPROOF names a checkout of github.com/C2SP/wycheproof, LIMBO the file limbo.json of github.com/C2SP/x509-limbo.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def wycheproof(name: str) -> dict[str, Any]:
    """One file of Wycheproof's `testvectors_v1`, by its name without `_test.json`; skips without a checkout."""
    read: dict[str, Any] = json.loads((_place("WYCHEPROOF") / "testvectors_v1" / f"{name}_test.json").read_text())
    return read


@cache
def limbo() -> dict[str, dict[str, Any]]:
    """The cases of x509-limbo by id; skips without the file."""
    return {case["id"]: case for case in json.loads(_place("LIMBO").read_text())["testcases"]}


def _place(variable: str) -> Path:
    given = os.environ.get(variable)
    if not given:
        pytest.skip(f"{variable} names no copy of the public vectors (tests/vectors/README.md)")
    return Path(given)
