"""Fetches the signed bundle: at the start where none is kept, then every `poll`; what came goes through one gate.

Law: a bundle is in force only once it was verified, compiled and remembered durably, in this order; whatever fails,
the last good one stays. Non-goal: what is verified (ext_authz/bundle), and publishing (reload.py).
"""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ext_authz import config, wiring
from ext_authz.bundle.kept import archive_path, keep, remember
from ext_authz.bundle.problems import BundleError, Problem
from ext_authz.bundle.settings import BundleSettings
from ext_authz.config import Inputs
from ext_authz.server.fetching import Ask, Document, FetchError, fetch

FIRST_SECONDS: Final = 20.0
"""How long a start without any bundle goes on trying."""
FIRST_PAUSE_SECONDS: Final = 1.0

Fetch = Callable[[BundleSettings, str], Document]


def fetch_bundle(settings: BundleSettings, etag: str = "") -> Document:
    """Get the bundle, or learn that it is still the one that `etag` names. Raises FetchError."""
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    ask = Ask("application/gzip, application/octet-stream", settings.max_bytes, headers, etag, settings.unsafe_http)
    return fetch(settings.url, seconds=settings.timeout, ask=ask)


def adopt(config_file: Path, environ: Mapping[str, str], archive: bytes) -> Inputs:
    """Verify and compile `archive` with the configuration, keep it in `run_dir`, and return the inputs it is part of.

    Raises BundleError for what is wrong with the bundle, DocumentError where it does not load.
    """
    draft = config.read_inputs(config_file, environ, archive=archive)
    if draft.bundle_error is not None:
        raise draft.bundle_error
    inputs, _ = wiring.finished(draft)
    if draft.bundle is not None:
        keep(inputs.settings.run_dir, archive, draft.bundle)
    return inputs


def ensure(config_file: Path, environ: Mapping[str, str]) -> None:
    """Have a bundle in `run_dir` that can be begun with, fetching one only where there is none, for FIRST_SECONDS.

    Raises BundleError, DocumentError. Without `policies.bundle` there is nothing to do.
    """
    draft = config.read_inputs(config_file, environ)
    if draft.inputs is None:
        return
    if draft.bundle is not None:
        remember(draft.inputs.settings.run_dir, draft.bundle)
    if draft.bundle_error is None:
        return
    settings = draft.inputs.settings
    config.prepare_run_dir(settings.run_dir)
    deadline = time.monotonic() + FIRST_SECONDS
    while True:
        try:
            fetch_and_adopt(config_file, environ, settings.policies.bundle)
        except BundleError as error:
            if error.problem is not Problem.UNREACHABLE or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(FIRST_PAUSE_SECONDS)


def fetch_and_adopt(config_file: Path, environ: Mapping[str, str], settings: BundleSettings | None) -> Inputs | None:
    """Fetch the bundle once and put it in `run_dir`. Raises BundleError, DocumentError."""
    if settings is None:
        return None
    try:
        document = fetch_bundle(settings)
    except FetchError as error:
        # Of the URL only what is no secret: a query may hold a signature.
        where = urlsplit(settings.url)
        raise BundleError(Problem.UNREACHABLE, f"`{where.netloc}{where.path}`: {error}") from None
    return adopt(config_file, environ, document.body)


@dataclass(frozen=True, slots=True)
class _Known:
    """An archive, by the name that its server gave it and by its bytes (a server may give none)."""

    etag: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Came:
    """What one look at the server brought: an archive, or why there is none (neither: nothing new)."""

    archive: bytes | None = None
    failure: str = ""
    known: _Known = _Known()


class BundleKeeper:
    """One thread that asks the server; what comes waits in `taken` for the thread that reloads."""

    def __init__(self, run_dir: Path, *, fetch: Fetch = fetch_bundle) -> None:
        self._archive = archive_path(run_dir)
        self._fetch = fetch
        self._lock = threading.Lock()
        self._settings: BundleSettings | None = None
        self._known = _Known()
        self._came: Came | None = None
        self._changed = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def aim(self, settings: BundleSettings | None) -> None:
        """Follow this bundle from now on; the same settings change nothing."""
        with self._lock:
            if settings == self._settings:
                return
            self._settings, self._known, self._came = settings, _Known(), None
            if settings is not None and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bundle", daemon=True)
                self._thread.start()
        self._changed.set()

    def look(self) -> None:
        """Ask the server now."""
        self._changed.set()

    def stop(self) -> None:
        """Ask no more; a download in flight ends by itself."""
        self._stopped = True
        self._changed.set()

    def taken(self) -> Came | None:
        """Return what came since the last call."""
        with self._lock:
            came, self._came = self._came, None
            return came

    def settled(self, came: Came) -> None:
        """Say that this is in force: from now on only something newer is wanted."""
        with self._lock:
            self._known = came.known

    def _run(self) -> None:
        pause: float | None = None
        while True:
            self._changed.wait(pause)
            self._changed.clear()
            if self._stopped:
                return
            with self._lock:
                settings = self._settings
            if settings is not None:
                self._look(settings)
            pause = None if settings is None else settings.poll * random.uniform(0.9, 1.1)  # noqa: S311

    def _look(self, settings: BundleSettings) -> None:
        # Whoever removed the one on the disk gets it again.
        known = self._known if self._archive.exists() else _Known()
        try:
            document = self._fetch(settings, known.etag)
            came = Came()
            if not document.unchanged:
                found = _Known(document.etag, hashlib.sha256(document.body).hexdigest())
                came = Came() if found.digest == known.digest else Came(document.body, known=found)
        except FetchError as error:
            came = Came(failure=str(error))
        except Exception as error:  # noqa: BLE001  whatever a server makes of it, the thread goes on asking
            came = Came(failure=type(error).__name__)
        with self._lock:
            aimed_elsewhere = settings != self._settings
            untaken = self._came is not None and self._came.archive is not None
            if not aimed_elsewhere and (came.archive is not None or not untaken):
                self._came = came
