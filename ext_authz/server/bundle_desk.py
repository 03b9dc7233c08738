"""What the control process makes of a bundle that came: in force, or told why not, once.

Law: everything here happens on the control process's own thread; whatever is wrong, what is in force stays.
Non-goal: fetching (bundles.py), verifying and publishing (reload.py).
"""

import time
from pathlib import Path
from typing import Protocol

from ext_authz.bundle.problems import Problem
from ext_authz.server import log
from ext_authz.server.bundles import BundleKeeper, Came
from ext_authz.server.metrics import BUNDLE_CHECKED, BUNDLE_EXPIRES, BUNDLE_FETCHES, BUNDLE_REVISION, Registry
from ext_authz.server.recorder import CONTROL
from ext_authz.server.reload import Reloader

EVENT = "bundle"


class Record(Protocol):
    """Writes a lifecycle event, with what is in force."""

    def __call__(self, what: str, *, result: str = "ok", diagnostics: tuple[str, ...] = ()) -> None:
        """Record `what`."""
        ...


class BundleDesk:
    """Owns the keeper; asks the reloader."""

    def __init__(self, run_dir: Path, reloader: Reloader, registry: Registry, record: Record) -> None:
        self._keeper = BundleKeeper(run_dir)
        self._reloader = reloader
        self._registry = registry
        self._record = record
        self._problem = ""
        self._good_at = time.time()
        self._expiry_told = ""

    def aim(self) -> None:
        """Follow the bundle that the configuration names now."""
        self._keeper.aim(self._reloader.wanted)

    def look(self) -> None:
        """Ask the bundle's server now."""
        self._keeper.look()

    def stop(self) -> None:
        """Ask no more."""
        self._keeper.stop()

    def work(self) -> None:
        """Take what came since the last call. Never raises for what is wrong with it."""
        self._tell_expiry()
        came = self._keeper.taken()
        if came is None:
            return
        if came.failure:
            self._failed(Problem.UNREACHABLE, came.failure)
        elif came.archive is None:
            self._well("unchanged")
        else:
            self._put_in_force(came, came.archive)

    def details(self) -> dict[str, object]:
        """Return which configuration, and which bundle, is in force."""
        inputs = self._reloader.inputs
        facts = inputs.bundle
        if facts is None:
            return {"revision": inputs.revision}
        return {
            "revision": inputs.revision,
            "bundle": facts.name,
            "bundle_revision": facts.revision,
            "bundle_sha256": facts.digest,
        }

    def gauges(self, now: float) -> list[list[object]]:
        """Return the metrics of the bundle in force; `now` is Unix seconds."""
        facts = self._reloader.inputs.bundle
        if facts is None:
            return []
        return [
            [BUNDLE_REVISION, facts.name, facts.revision],
            [BUNDLE_EXPIRES, facts.name, round(facts.expires_at - now)],
            [BUNDLE_CHECKED, facts.name, max(0.0, now - self._good_at)],
        ]

    def _put_in_force(self, came: Came, archive: bytes) -> None:
        result = self._reloader.reload(archive)
        if result.problems:
            self._failed(result.problem or Problem.DOES_NOT_LOAD, "\n".join(result.problems))
            return
        self._keeper.settled(came)
        self._well("unchanged" if result.unchanged else "ok")
        if not result.unchanged:
            self.aim()
            log.line(CONTROL, f"revision {result.revision} is loaded, with {self._in_force()}")
            self._record(EVENT)

    def _well(self, result: str) -> None:
        self._registry.count(BUNDLE_FETCHES, result)
        if self._problem:
            log.line(CONTROL, f"the server of the bundle has a good one again; {self._in_force()} is in force")
        self._problem, self._good_at = "", time.time()

    def _failed(self, problem: Problem, text: str) -> None:
        self._registry.count(BUNDLE_FETCHES, problem.value)
        told = f"{problem.value}: {text}"
        if told == self._problem:
            return  # said and recorded already
        self._problem = told
        log.line(CONTROL, f"no new bundle ({problem.value}): {text}\n{self._in_force()} stays in force")
        self._record(EVENT, result="failed", diagnostics=(told,))

    def _in_force(self) -> str:
        facts = self._reloader.inputs.bundle
        return "no bundle" if facts is None else f"bundle `{facts.name}` revision {facts.revision}"

    def _tell_expiry(self) -> None:
        """Say once that the bundle in force is past its time: perhaps somebody holds newer ones back."""
        facts = self._reloader.inputs.bundle
        if facts is None or time.time() < facts.expires_at or self._expiry_told == facts.digest:
            return
        self._expiry_told = facts.digest
        text = f"{self._in_force()} expired and stays in force: its server has had no newer one"
        log.line(CONTROL, text)
        self._record(EVENT, result="failed", diagnostics=(f"{Problem.EXPIRED.value}: {text}",))
