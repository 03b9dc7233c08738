"""From bytes that anybody may have sent to a bundle that is believed, one step after the other.

Law: pure and in one order (signature, manifest, name, revision, expiry, then each
file), so that no later step ever sees what an earlier one refused. Source of the method: TUF 1.0.33, section 5.
Non-goal: archives (archive.py), files (kept.py).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ext_authz.bundle.keys import read_signatures, signers
from ext_authz.bundle.manifest import MANIFEST, TEST_SUFFIX, Entry, Manifest, parse, quoted, time_text
from ext_authz.bundle.problems import BundleError, Problem


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a bundle is looked at: compressed bytes, unpacked bytes, files."""

    compressed: int = 16 * 2**20
    unpacked: int = 64 * 2**20
    files: int = 2000


@dataclass(frozen=True, slots=True)
class Believed:
    """The newest bundle that was ever believed here: revision, SHA-256 of its manifest, who had signed it."""

    revision: int
    digest: str
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Trust:
    """What is known before: keys by name (keys.by_id), the bundle's name, the lowest revision, the newest so far."""

    keys: Mapping[str, Ed25519PublicKey]
    name: str
    min_revision: int = 1
    believed: Believed | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that is believed. `digest` is of its manifest; `signed_by` names the configured keys that signed."""

    manifest: Manifest
    digest: str
    signed_by: tuple[str, ...]
    files: Mapping[str, bytes]

    @property
    def policies(self) -> tuple[str, ...]:
        """The policy files, in path order; tests are no policies."""
        return tuple(path for path in sorted(self.files) if path.startswith("policies/") and not is_test(path))

    @property
    def resources(self) -> tuple[str, ...]:
        """The files of routes and catalog, in path order."""
        return tuple(path for path in sorted(self.files) if path.startswith("resources/") and not is_test(path))

    def to_believed(self) -> Believed:
        """Return what is remembered of it."""
        return Believed(self.manifest.revision, self.digest, frozenset(self.signed_by))


def is_test(path: str) -> bool:
    """Whether a file holds policy tests, which a server skips."""
    return path.endswith(TEST_SUFFIX)


class TrustedBundle:
    """One bundle on its way. `now` is Unix seconds; `kept`: it was in force here, and may have expired since."""

    def __init__(self, trust: Trust, now: float, *, kept: bool = False) -> None:
        self.limits: Final = trust.limits
        self._trust = trust
        self._now = now
        self._kept = kept
        self._manifest: Manifest | None = None
        self._digest = ""
        self._signed_by: tuple[str, ...] = ()
        self._expected: dict[str, Entry] = {}
        self._files: dict[str, bytes] = {}

    def take_manifest(self, data: bytes, signatures: bytes) -> Manifest:
        """Believe the manifest. Raises BundleError."""
        signed_by = signers(data, read_signatures(signatures), self._trust.keys)
        manifest = parse(data)
        digest = hashlib.sha256(data).hexdigest()
        if manifest.name != self._trust.name:
            raise BundleError(
                Problem.OTHER_NAME, f"it is the bundle `{manifest.name}`, and `{self._trust.name}` is wanted"
            )
        self._check_revision(manifest.revision, digest)
        if self._now >= manifest.expires_at and not self._kept:
            raise BundleError(
                Problem.EXPIRED, f"revision {manifest.revision} expired at {time_text(manifest.expires_at)}"
            )
        limits = self.limits
        if len(manifest.files) > limits.files:
            raise BundleError(Problem.TOO_MANY_FILES, f"{len(manifest.files)} files; at most {limits.files} are read")
        if sum(each.size for each in manifest.files) > limits.unpacked:
            raise BundleError(Problem.TOO_LARGE, f"its files have more than {limits.unpacked} bytes")
        self._manifest, self._digest, self._signed_by = manifest, digest, signed_by
        self._expected = {each.path: each for each in manifest.files}
        return manifest

    def _check_revision(self, revision: int, digest: str) -> None:
        if revision < self._trust.min_revision:
            raise BundleError(
                Problem.ROLLBACK, f"its revision {revision} is below `min_revision` {self._trust.min_revision}"
            )
        believed = self._trust.believed
        # Where none of the keys of that bundle is configured any more, its revision binds nobody: whoever stole a
        # key could otherwise block every later bundle with one high number (TUF 5.3.11, fast-forward recovery).
        if believed is None or not believed.keys & self._trust.keys.keys():
            return
        if revision < believed.revision:
            raise BundleError(
                Problem.ROLLBACK, f"its revision {revision} is older than {believed.revision}, which was in force here"
            )
        if revision == believed.revision and digest != believed.digest:
            raise BundleError(
                Problem.EQUIVOCATION, f"revision {revision} was in force here with other contents: give it a new number"
            )

    def expect(self, path: str, size: int) -> None:
        """Whether the file that comes next is one to read. Raises BundleError."""
        if path in self._files:
            raise BundleError(Problem.DUPLICATE_FILE, f"{quoted(path)} is there twice")
        entry = self._expected.get(path)
        if entry is None:
            raise BundleError(Problem.UNLISTED_FILE, f"{quoted(path)} is not in `{MANIFEST}`")
        if size != entry.size:
            raise BundleError(
                Problem.WRONG_SIZE, f"{quoted(path)} has {size} bytes, and `{MANIFEST}` says {entry.size}"
            )

    def take_file(self, path: str, data: bytes) -> None:
        """Believe one file. Raises BundleError."""
        self.expect(path, len(data))
        if hashlib.sha256(data).hexdigest() != self._expected[path].sha256:
            raise BundleError(Problem.WRONG_DIGEST, f"{quoted(path)} is not the file that was signed")
        self._files[path] = data

    def finish(self) -> Bundle:
        """Return the bundle once all of it is there. Raises BundleError."""
        if self._manifest is None:
            raise BundleError(Problem.DAMAGED, f"it has no `{MANIFEST}`")
        for path in self._expected:
            if path not in self._files:
                raise BundleError(Problem.MISSING_FILE, f"{quoted(path)} is missing")
        return Bundle(self._manifest, self._digest, self._signed_by, dict(self._files))
