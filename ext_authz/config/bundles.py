"""The signed bundle of a configuration, verified against its settings and what is remembered in `run_dir`.

Law: it is verified each time it is read, from the disk too; a policy of a bundle stands under a name that no file has.
Non-goal: fetching one and keeping one (server/bundles.py).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ext_authz.bundle.archive import open_bundle
from ext_authz.bundle.kept import read_archive, read_believed
from ext_authz.bundle.keys import KeyFileError, by_id, load_public
from ext_authz.bundle.problems import BundleError, Problem
from ext_authz.bundle.settings import BundleSettings
from ext_authz.bundle.trust import Bundle, Limits, Trust

PREFIX: Final = "bundle:"
"""Before the path of every file that a bundle holds."""


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What processes need to know of the bundle that their inputs hold. Times are Unix seconds."""

    name: str
    revision: int
    digest: str
    created_at: int
    expires_at: int

    @classmethod
    def of(cls, bundle: Bundle) -> "BundleFacts":
        """Return the facts of a bundle."""
        made = bundle.manifest
        return cls(made.name, made.revision, bundle.digest, made.created_at, made.expires_at)

    def plain(self) -> dict[str, Any]:
        """Return them as JSON-able data."""
        return {name: getattr(self, name) for name in self.__slots__}


def opened(settings: BundleSettings, pems: Mapping[str, bytes], run_dir: Path, archive: bytes | None) -> Bundle:
    """Return the bundle in `archive`, else the one kept in `run_dir`. Raises BundleError, KeyFileError.

    `pems` are the contents of `public_keys` by path.
    """
    keys = []
    for path, data in pems.items():
        try:
            keys.append(load_public(data))
        except KeyFileError as error:
            raise KeyFileError(f"`{path}` {error}") from None
    kept = archive is None
    if archive is None:
        archive = read_archive(run_dir, settings.max_bytes)
    if archive is None:
        raise BundleError(Problem.UNREACHABLE, "none was fetched yet; `ext-authz bundle fetch` and `serve` do that")
    believed = read_believed(run_dir, settings.name)
    limits = Limits(settings.max_bytes, settings.max_unpacked_bytes, settings.max_files)
    trust = Trust(by_id(keys), settings.name, settings.min_revision, believed, limits)
    return open_bundle(archive, trust, time.time(), kept=kept)
