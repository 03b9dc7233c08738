"""`python tests/support/istio_recording.py DIRECTORY`: what istiod makes of the cookbook's policies, recorded anew.

Needs Go and its module proxy: builds tests/recorded/istio_rbac.go with the recorded version of istio.io/istio in
DIRECTORY (kept for the next time), which takes minutes. Non-goal: running in tests.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from cookbooks import recipes

RECORDED = Path(__file__).parents[1] / "recorded"
MODULE = "istio.io/istio"


def main() -> None:
    folder, file = Path(sys.argv[1]), RECORDED / "istio-rbac.json"
    recorded = json.loads(file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(RECORDED / "istio_rbac.go", folder / "main.go")
    if not (folder / "go.mod").exists():
        for command in (["init", "rbac"], ["edit", f"-require={MODULE}@{recorded['version']}"], ["tidy"]):
            subprocess.run(["go", "mod", *command], cwd=folder, check=True)
    page = recipes("cookbook-istio.md")
    given = json.dumps({recipe.title: recipe.yaml("apiVersion") for recipe in page})
    done = subprocess.run(["go", "run", "."], cwd=folder, input=given, stdout=subprocess.PIPE, text=True, check=True)
    made = json.loads(done.stdout)
    recorded["filters"] = {
        each.title: {"policy": yaml.safe_load(each.yaml("apiVersion")), "filters": made[each.title]} for each in page
    }
    file.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
