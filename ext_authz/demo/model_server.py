"""Two tiny scikit-learn models, trained on the spot, behind a real MLServer on loopback.

Law: it listens on 127.0.0.1 alone; nobody but Envoy is meant to call it.
Non-goal: a model worth having.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ext_authz.demo.processes import Child, Processes

MODELS: Final = ("fraud", "churn")
FEATURES: Final = 4
_READY_SECONDS: Final = 60.0


def start(processes: Processes, directory: Path, http_port: int, grpc_port: int, metrics_port: int) -> Child:
    """Write settings for the given ports and start training and serving in one new process."""
    settings = {
        "host": "127.0.0.1",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "parallel_workers": 0,
        "debug": False,
    }
    _write(directory, settings)
    return processes.start(
        "model-server", [sys.executable, "-m", "ext_authz.demo.model_server", str(directory)], directory=directory
    )


def wait(child: Child, http_port: int) -> None:
    """Wait until both models answer. Raises StartError."""
    import httpx

    def ready() -> bool:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{http_port}", trust_env=False, timeout=2) as client:
                paths = ["/v2/health/ready", *(f"/v2/models/{name}/ready" for name in MODELS)]
                return all(client.get(path).is_success for path in paths)
        except httpx.TransportError:
            return False

    child.wait_until(ready, _READY_SECONDS)


def _write(directory: Path, settings: Mapping[str, object]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "settings.json").write_text(json.dumps(settings))
    for name in MODELS:
        folder = directory / name
        folder.mkdir(exist_ok=True)
        model = {
            "name": name,
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib", "version": "v1"},
        }
        (folder / "model-settings.json").write_text(json.dumps(model))


def train(directory: Path) -> None:
    """Fit one logistic regression per model on a few made-up rows."""
    import joblib  # type: ignore[import-untyped]
    import numpy as np
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    generator = np.random.default_rng(7)
    for name in MODELS:
        rows = generator.normal(size=(64, FEATURES))
        model = LogisticRegression().fit(rows, rows.sum(axis=1) > 0)
        joblib.dump(model, directory / name / "model.joblib")


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m ext_authz.demo.model_server DIRECTORY`: train, then become MLServer."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    directory = Path(given[0])
    if not (directory / "settings.json").exists():
        _write(directory, {"host": "0.0.0.0", "parallel_workers": 0})  # noqa: S104  a container of its own
    train(directory)
    command = [sys.executable, "-c", "from mlserver.cli import main; main()", "start", str(directory)]
    os.execv(sys.executable, command)  # noqa: S606  no shell wanted


if __name__ == "__main__":
    main()
