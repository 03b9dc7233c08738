"""Compiles the protobuf files of this folder into `ext_authz/_pb`.

Runs as hatchling's build hook for wheels and editable installs, and as
`python proto/build.py` (`make proto`). Non-goal: gRPC stubs; the server moves
raw bytes and needs only messages and descriptors.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # `make proto` needs grpcio-tools only
    BuildHookInterface = object  # type: ignore[assignment,misc,unused-ignore]

FOLDER = Path(__file__).resolve().parent


def _root_of(package: str, levels: int) -> Path:
    """Return the folder that `package`'s protobuf imports are relative to."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"proto/build.py: `{package}` is not installed (see [build-system] in pyproject.toml)")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return folder.parents[levels - 1] if levels else folder


def compile_protos(out: Path) -> None:
    """Write `_pb2.py` and `_pb2.pyi` of every file below this folder under `out`. Raises SystemExit on failure."""
    files = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.proto"))
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={FOLDER}",
        f"--proto_path={_root_of('google.rpc', 2)}",
        f"--proto_path={_root_of('grpc_tools', 0) / '_proto'}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        *files,
    ]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(f"proto/build.py: protoc failed with exit status {done.returncode}")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]
    """Compiles before the files of a wheel (or editable install) are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  hatchling's signature
        """Generate into the source tree; `artifacts` in pyproject.toml takes the git-ignored files along."""
        if self.target_name == "wheel":
            compile_protos(Path(self.root))


if __name__ == "__main__":
    compile_protos(FOLDER.parent)
