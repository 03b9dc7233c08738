"""Model servers too large for `make test`, each in a virtual environment of its own (`make heavy-servers`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = Path(os.environ.get("EXT_AUTHZ_HEAVY", Path(__file__).parents[2] / ".venv" / "heavy"))


def python_of(name: str) -> Path:
    """Return the interpreter of one server's environment; skips the test where there is none."""
    python = HEAVY / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{name} is not installed: make heavy-servers")
    return python


def library_path(python: Path) -> str:
    """Return where that interpreter's own libpython is: Triton's stub would find the system's."""
    code = "import sys; print(sys.base_prefix)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip() + "/lib"


if __name__ == "__main__":
    sys.exit("a helper of tests/heavy")
