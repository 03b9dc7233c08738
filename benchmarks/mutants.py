"""Mutation testing: one small fault at a time in a module; some deterministic test of the policy language must fail.

`make mutants`, or `python benchmarks/mutants.py [FILE...]`. The tests are collected once; each mutant (faults.py) gets
a fork whose functions run the faulty code. Exit 1 where one survives that benchmarks/mutants.yaml does not explain, or
an explanation there fits no survivor.
"""

import argparse
import ast
import gc
import os
import resource
import sys
import warnings
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import yaml
from _pytest.runner import runtestprotocol
from faults import faults

EXPLAINED = Path(__file__).with_suffix(".yaml")
FILES = ("ext_authz/policy/engine.py", "ext_authz/policy/conditions.py")
# Generated examples are left aside: what they find is chance.
TESTS = ("conditions", "semantics", "explain", "cel", "peers", "seed", "visible")
CPU_SECONDS = 60


def graft(old: Any, new: Any) -> None:
    """Let what exists under a name behave as what was newly made under it."""
    if isinstance(new, property):
        graft(old.fget, new.fget)
    elif isinstance(new, FunctionType):
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
    elif isinstance(new, type):
        for name, value in vars(new).items():
            if isinstance(value, (FunctionType, property)):
                graft(vars(old)[name], value)
            elif isinstance(value, (str, int)) and not name.startswith("__"):
                setattr(old, name, value)


def survives(items: list[pytest.Item], module: Any, tree: ast.Module) -> bool:
    """Whether every test passes with the faulty module, in a fork; the one that fails is the first the next time."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with os.fdopen(reading) as pipe:
            failed = pipe.read()
        if failed:
            items.insert(0, items.pop(int(failed)))
        return os.waitpid(child, 0)[1] == 0
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        made: dict[str, Any] = {"__name__": module.__name__}
        exec(compile(tree, module.__file__, "exec"), made)
        for name, value in made.items():
            if getattr(value, "__module__", None) == module.__name__ and isinstance(value, (type, FunctionType)):
                graft(getattr(module, name), value)
            elif isinstance(value, (dict, int)) and not name.startswith("__"):
                setattr(module, name, value)
        for number, item in enumerate(items):
            if any(report.failed for report in runtestprotocol(item, log=False)):
                os.write(writing, str(number).encode())
                os._exit(1)
        os._exit(0)
    finally:
        os._exit(1)


class Mutation:
    """Instead of running the collected tests once, runs them for each mutant."""

    def __init__(self, files: list[str]) -> None:
        self.files, self.wrong = files, False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.freeze()
        explained = yaml.safe_load(EXPLAINED.read_text()) or []
        for file in self.files:
            module = sys.modules[file.removesuffix(".py").replace("/", ".")]
            tree = ast.parse(Path(file).read_text())
            if not survives(session.items, module, tree):
                sys.exit("the tests fail without any fault")
            reasons = {
                (each["in"], each["was"], each["now"], each.get("nth", 1)): each["why"]
                for each in explained
                if each["file"] == file
            }
            made, known = 0, set()
            for line, fault in faults(tree):
                made += 1
                if survives(session.items, module, tree):
                    known.add(fault)
                    if fault not in reasons:
                        print(f"{file}:{line}: in {fault[0]}: `{fault[1]}` -> `{fault[2]}`", flush=True)
            for fault in reasons.keys() - known:
                print(f"{file}: explained, and killed or not made: {fault}")
            self.wrong |= known != reasons.keys()
            alike, left = len(known & reasons.keys()), len(known - reasons.keys())
            print(
                f"{file}: {made} mutants, {made - len(known)} killed, {alike} change nothing, {left} survive",
                flush=True,
            )
        return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=FILES)
    mutation = Mutation(parser.parse_args().files)
    warnings.simplefilter("ignore")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not hypothesis"]
    pytest.main([*options, *(f"tests/unit/policy/test_{name}.py" for name in TESTS)], plugins=[mutation])
    sys.exit(mutation.wrong)
