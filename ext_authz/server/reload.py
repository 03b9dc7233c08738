"""Reads the configuration again when it changed, proves it, and hands it on; keeps the last good one otherwise.

Law: nothing leaves here that did not compile whole; what changes while files are
being read is read again. Non-goal: deciding when (control.py) and sending (link.py).
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ext_authz import config, wiring
from ext_authz.bundle.problems import BundleError, Problem
from ext_authz.config import Inputs
from ext_authz.documents import DocumentError
from ext_authz.server.bundles import adopt
from ext_authz.server.watch import Watch

NEEDS_RESTART = ("server", "admin", "run_dir", "audit", "state", "monitor", "log", "tracing")
"""Sections that processes read once, at their start."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of one reload.

    `problems` is empty for a good one; `stale` names changed sections that wait for a restart; `problem` says in one
    word why a bundle is not in force.
    """

    revision: str
    problems: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    unchanged: bool = False
    problem: Problem | None = None


class Reloader:
    """Owns the watch and the last good inputs. Used by one thread."""

    def __init__(
        self, config_file: Path, inputs: Inputs, environ: Mapping[str, str], publish: Callable[[Inputs], None]
    ) -> None:
        self.inputs = inputs
        self._started_with = inputs
        self._config_file = config_file
        self._environ = environ
        self._publish = publish
        self.wanted = inputs.settings.policies.bundle
        """The bundle that the configuration names now, also where it cannot be put in force yet."""
        self._watch = Watch((), ())
        # These inputs were read by another process, perhaps long ago: the first look finds what is different since.
        self._watch.aim(*_watched(inputs), since=())

    def changed(self) -> bool:
        """Whether the files differ from those last read."""
        return self._watch.changed()

    def reload(self, archive: bytes | None = None) -> Reloaded:
        """Read, prove and publish; with `archive`, a bundle that came just now. Never raises."""
        seen = self._watch.look()
        try:
            if archive is None:
                inputs, _ = wiring.load(self._config_file, self._environ)
            else:
                inputs = adopt(self._config_file, self._environ, archive)
        except BundleError as error:
            return Reloaded(self.inputs.revision, (str(error),), problem=error.problem)
        except DocumentError as error:
            with contextlib.suppress(Exception):  # what is to be told is the mistakes
                self._look_for_another_bundle()
            # Without the source lines: these texts go into log and trail, and a line may hold a key by mistake.
            problem = None if archive is None else Problem.DOES_NOT_LOAD
            return Reloaded(self.inputs.revision, tuple(each.render() for each in error.diagnostics), problem=problem)
        except Exception as error:  # noqa: BLE001  whatever is wrong with the files, the last good ones stay
            return Reloaded(self.inputs.revision, (f"{type(error).__name__}: {error}",))
        self.wanted = inputs.settings.policies.bundle
        self._watch.aim(*_watched(inputs), since=seen)
        if inputs.revision == self.inputs.revision:
            return Reloaded(inputs.revision, unchanged=True)
        self.inputs = inputs
        self._publish(inputs)
        before, after = self._started_with.settings, inputs.settings
        stale = tuple(name for name in NEEDS_RESTART if getattr(before, name) != getattr(after, name))
        return Reloaded(inputs.revision, stale=stale)

    def _look_for_another_bundle(self) -> None:
        """Aim at the bundle of a configuration that does not load: that may be all that it waits for."""
        found = config.read(self._config_file, self._environ)
        if found.settings is not None and not found.mistakes:
            self.wanted = found.settings.policies.bundle


def _watched(inputs: Inputs) -> tuple[list[str], list[str]]:
    return list(inputs.files), config.patterns(inputs)
