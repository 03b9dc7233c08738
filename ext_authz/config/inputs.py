"""Everything a snapshot is made from, read once: the configuration, its variables, and every file it names.

Law: two processes that hold equal `Inputs` build equal snapshots without
touching a file; `revision` is a digest over all of it.
Non-goal: building anything (wiring does).
"""

import base64
import glob
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final

import orjson

from ext_authz.bundle.kept import archive_path
from ext_authz.bundle.keys import KeyFileError
from ext_authz.bundle.problems import BundleError
from ext_authz.bundle.trust import Bundle, is_test
from ext_authz.config.bundles import PREFIX, BundleFacts, opened
from ext_authz.config.globs import matching, read_plain
from ext_authz.config.load import MAX_FILE_BYTES, Loaded, decode, parse, read, read_bytes, reason
from ext_authz.config.schema import Settings
from ext_authz.config.variables import recorded
from ext_authz.documents import (
    Diagnostic,
    DocumentError,
    MappingNode,
    Mark,
    Node,
    Path,
    mark_at,
)
from ext_authz.documents import load as load_document
from ext_authz.policy.document import PolicyDocument
from ext_authz.policy.schema import dump, load_policies

TEST_SUFFIX: Final = "_test.yaml"
_REVISION_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every process of one sidecar builds its snapshot from.

    `files` maps each file's path (as in `settings`) to its bytes; the
    configuration itself is `files[file]`. `values` are the variables put into
    it. `policies` is the dumped policy document, None where the policies have mistakes.
    """

    file: str
    files: Mapping[str, bytes]
    values: Mapping[str, str]
    policies: Any
    policy_files: tuple[str, ...]
    resource_files: tuple[str, ...]
    loaded: Loaded = field(compare=False, repr=False)
    bundle: BundleFacts | None = None
    revision: str = field(init=False)

    def __post_init__(self) -> None:
        """Digest the contents under names that do not depend on where the folder stands."""
        digest = hashlib.sha256()
        base = FilePath(self.file).parent
        for name, data in sorted((_standing(path, base), data) for path, data in self.files.items()):
            digest.update(orjson.dumps([name, len(data)]))
            digest.update(data)
        if self.values:
            # A variable may hold a short secret, and revisions are published: make guessing it from one slow.
            digest.update(hashlib.scrypt(orjson.dumps(sorted(self.values.items())), salt=b"revision", n=4096, r=8, p=1))
        # The bundle's own number is part of it, so that every decision, metric and event says which bundle it was.
        number = "" if self.bundle is None else f"-b{self.bundle.revision}"
        object.__setattr__(self, "revision", digest.hexdigest()[:_REVISION_DIGITS] + number)

    @property
    def settings(self) -> Settings:
        """The settings of the configuration file."""
        assert self.loaded.settings is not None  # noqa: S101  inputs are made of settings
        return self.loaded.settings

    @property
    def node(self) -> MappingNode:
        """The configuration file's marked tree."""
        assert self.loaded.node is not None  # noqa: S101
        return self.loaded.node

    def data(self, path: FilePath) -> bytes:
        """Return the contents of a file that the settings name. Raises KeyError for one that was not read."""
        return self.files[str(path)]

    def text(self, path: FilePath | str) -> str:
        """Return a file's text. Raises DocumentError when it is not UTF-8."""
        return decode(self.files[str(path)], str(path))

    def texts(self) -> dict[str, str]:
        """Return every file that is text, for the caret lines of diagnostics."""
        return {path: data.decode("utf-8", "replace") for path, data in self.files.items()}

    def resource_documents(self) -> tuple[Node | None, tuple[tuple[Node | None, str], ...]]:
        """Return the configuration's own `resources:` node, and (node, file) of each resource file in path order.

        Raises DocumentError with the mistakes of every file that is not YAML.
        """
        documents: list[tuple[Node | None, str]] = []
        mistakes: list[Diagnostic] = []
        for name in self.resource_files:
            try:
                documents.append((load_document(self.text(name), name), name))
            except DocumentError as error:
                mistakes += error.diagnostics
        if mistakes:
            raise DocumentError(mistakes)
        return self.node.get("resources"), tuple(documents)

    def to_bytes(self) -> bytes:
        """Serialise; `from_bytes` gives an equal value in another process."""
        return orjson.dumps(
            {
                "file": self.file,
                "files": {path: base64.b64encode(data).decode("ascii") for path, data in self.files.items()},
                "values": dict(self.values),
                "policies": self.policies,
                "policy_files": self.policy_files,
                "resource_files": self.resource_files,
                "bundle": None if self.bundle is None else self.bundle.plain(),
                "revision": self.revision,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Inputs":
        """Restore what `to_bytes` gave. Raises ValueError when it is anything else."""
        plain = orjson.loads(data)
        file = plain["file"]
        files = {path: base64.b64decode(each, validate=True) for path, each in plain["files"].items()}
        loaded = parse(decode(files[file], file), file, recorded(plain["values"]))
        if loaded.settings is None or loaded.mistakes:
            raise ValueError(f"the recorded configuration does not load: {loaded.mistakes}")
        restored = cls(
            file=file,
            files=files,
            values=plain["values"],
            policies=plain["policies"],
            policy_files=tuple(plain["policy_files"]),
            resource_files=tuple(plain["resource_files"]),
            loaded=loaded,
            bundle=None if plain["bundle"] is None else BundleFacts(**plain["bundle"]),
        )
        if restored.revision != plain["revision"]:
            raise ValueError("the recorded revision does not fit the contents")
        return restored


def patterns(inputs: Inputs) -> list[str]:
    """Return the globs (and the files that variables name) whose matches, besides `inputs.files`, make the inputs."""
    base = FilePath(inputs.file).parent
    settings = inputs.settings
    globs = [_below(base, pattern) for pattern in (*settings.policies.files, *settings.resources.files)]
    names = (name.removeprefix("file:") for name in inputs.values if name.startswith("file:"))
    kept = [] if settings.policies.bundle is None else [glob.escape(str(archive_path(settings.run_dir)))]
    return [*globs, *(glob.escape(str(base / name)) for name in names), *kept]


@dataclass(frozen=True, slots=True)
class Draft:
    """What could be read, and every mistake on the way.

    `inputs` None: not even settings could be made. `document` None: the policies have mistakes.
    `bundle` is the one that is believed; `bundle_error` why there is none.
    """

    inputs: Inputs | None
    mistakes: tuple[Diagnostic, ...]
    texts: Mapping[str, str]
    document: PolicyDocument | None = None
    bundle: Bundle | None = None
    bundle_error: BundleError | None = None


def load_inputs(path: FilePath, environ: Mapping[str, str], only: frozenset[str] | None = None) -> Inputs:
    """Read the configuration and every file it names. Raises DocumentError with every mistake at once.

    With `only`, nothing but these sections is looked at, as `config.load` does; there are no policies then.
    """
    draft = read_inputs(path, environ, only=only)
    if draft.mistakes or draft.inputs is None:
        raise DocumentError(draft.mistakes, draft.texts)
    return draft.inputs


def read_inputs(
    path: FilePath,
    environ: Mapping[str, str],
    *,
    archive: bytes | None = None,
    only: frozenset[str] | None = None,
) -> Draft:
    """Read the configuration and every file it names; mistakes are in the result.

    `archive` is a bundle that came just now; without it the one kept in `run_dir` is verified again. `only` as in
    `load_inputs`.
    """
    loaded = read(path, environ, only)
    if loaded.settings is None or loaded.node is None:
        return Draft(None, loaded.mistakes, {loaded.file: loaded.text})
    collected = _Collected(loaded, loaded.settings, loaded.node)
    if loaded.names_policies:
        collected.take_bundle(archive)
    document = collected.policies() if loaded.names_policies else None
    collected.resources()
    for place, file in referenced(loaded.settings):
        makes = "; `ext-authz apikey new` makes it" if place == ("identity", "api_keys", "file") else ""
        collected.take(file, mark_at(loaded.node, place), makes)
    inputs = Inputs(
        file=loaded.file,
        files=collected.files,
        values=loaded.values,
        policies=None if document is None else dump(document),
        policy_files=tuple(collected.policy_files),
        resource_files=tuple(collected.resource_files),
        loaded=loaded,
        bundle=None if collected.bundle is None else BundleFacts.of(collected.bundle),
    )
    mistakes = (*loaded.mistakes, *collected.mistakes)
    return Draft(inputs, mistakes, inputs.texts(), document, collected.bundle, collected.bundle_error)


class _Collected:
    """Files read so far; each is read once."""

    def __init__(self, loaded: Loaded, settings: Settings, node: MappingNode) -> None:
        self.loaded, self.settings, self.node = loaded, settings, node
        self.files: dict[str, bytes] = {loaded.file: loaded.text.encode()}
        self.mistakes: list[Diagnostic] = []
        self.policy_files: list[str] = []
        self.resource_files: list[str] = []
        self.bundle: Bundle | None = None
        self.bundle_error: BundleError | None = None

    def take_bundle(self, archive: bytes | None) -> None:
        """Verify the bundle and put its files beside those of the disk, under names that no file there has."""
        settings = self.settings.policies.bundle
        if settings is None:
            return
        place: Path = ("policies", "bundle")
        keys = [
            self.take(key, mark_at(self.node, (*place, "public_keys", i))) for i, key in enumerate(settings.public_keys)
        ]
        if any(key is None for key in keys):
            return
        try:
            pems = {str(path): data for path, data in zip(settings.public_keys, keys, strict=True) if data is not None}
            self.bundle = opened(settings, pems, self.settings.run_dir, archive)
        except KeyFileError as error:
            self.mistakes.append(Diagnostic(mark_at(self.node, (*place, "public_keys")), str(error)))
            return
        except BundleError as error:
            self.bundle_error = error
            self.mistakes.append(Diagnostic(mark_at(self.node, place), f"bundle refused ({error.problem}): {error}"))
            return
        if not self.bundle.policies and not self.settings.policies.files:
            # As with a glob that matches nothing: an empty set is a slip, and would deny everything.
            self.mistakes.append(Diagnostic(mark_at(self.node, place), "the bundle holds no policies, nor does a file"))
        for path, data in self.bundle.files.items():
            if not is_test(path):
                self.files[PREFIX + path] = data

    def take(self, path: FilePath, mark: Mark | None, where_missing: str = "", *, plain: bool = False) -> bytes | None:
        name = str(path)
        if name not in self.files:
            try:
                self.files[name] = read_plain(path, MAX_FILE_BYTES) if plain else read_bytes(path)
            except OSError as error:
                hint = where_missing if isinstance(error, FileNotFoundError) else ""
                self.mistakes.append(Diagnostic(mark, f"cannot read `{name}`: {reason(error)}{hint}"))
                return None
        return self.files[name]

    def take_text(self, path: FilePath, mark: Mark | None) -> str | None:
        data = self.take(path, mark, plain=True)
        if data is None:
            return None
        try:
            return decode(data, str(path))
        except DocumentError as error:
            self.mistakes += error.diagnostics
            return None

    def policies(self) -> PolicyDocument | None:
        texts: dict[str, str] = {}
        for path, mark in self._matching(("policies", "files"), self.settings.policies.files):
            if path.name.endswith(TEST_SUFFIX):
                continue
            text = self.take_text(path, mark)
            if text is not None:
                texts[str(path)] = text
        for name in self._bundled("policies/"):
            text = self.take_text(FilePath(name), None)
            if text is not None:
                texts[name] = text
        self.policy_files = list(texts)
        if not texts:
            return None
        try:
            return load_policies(texts)
        except DocumentError as error:
            self.mistakes += error.diagnostics
            return None

    def resources(self) -> None:
        for path, mark in self._matching(("resources", "files"), self.settings.resources.files):
            if self.take_text(path, mark) is not None:
                self.resource_files.append(str(path))
        self.resource_files += [
            name for name in self._bundled("resources/") if self.take_text(FilePath(name), None) is not None
        ]

    def _bundled(self, folder: str) -> list[str]:
        """Return the names of the bundle's files below `folder`, in path order."""
        found = () if self.bundle is None else self.files
        return sorted(name for name in found if name.startswith(PREFIX + folder))

    def _matching(self, place: Path, patterns: tuple[str, ...]) -> list[tuple[FilePath, Mark | None]]:
        """Return the files the globs name, each once, in path order."""
        found: dict[str, Mark | None] = {}
        for index, pattern in enumerate(patterns):
            mark = mark_at(self.node, (*place, index))
            names = expand(self.loaded.base, pattern)
            if place[0] == "policies":
                names = [name for name in names if not name.endswith(TEST_SUFFIX)]
            if not names:
                self.mistakes.append(Diagnostic(mark, f"no file matches `{pattern}`"))
            for name in names:
                found.setdefault(name, mark)
        return [(FilePath(name), mark) for name, mark in sorted(found.items())]


def _standing(path: str, base: FilePath) -> str:
    """Return a file's name wherever the configuration's folder stands."""
    return path if path.startswith(PREFIX) else os.path.relpath(path, base)


def expand(base: FilePath, pattern: str) -> list[str]:
    """Return the files that `pattern` names from `base`, sorted; a name without wildcards stands for itself."""
    path = str(base / pattern)
    if not glob.has_magic(pattern):
        return [path]
    found = matching(_below(base, pattern))
    return sorted(str(FilePath(name)) for name in found if not FilePath(name).is_dir())


def _below(base: FilePath, pattern: str) -> str:
    """Return `pattern` as a glob from `base`, whose own name is no pattern."""
    return os.path.join(glob.escape(str(base)), pattern) if str(base) != "." else pattern  # noqa: PTH118  a pattern


def referenced(settings: Settings) -> Iterator[tuple[Path, FilePath]]:
    """Yield every single file that the settings name, with its place in the configuration."""
    for section, tls in (("server", settings.server.tls), ("admin", settings.admin.tls)):
        if tls is None:
            continue
        yield (section, "tls", "certificate"), tls.certificate
        yield (section, "tls", "private_key"), tls.private_key
        if tls.client_ca is not None:
            yield (section, "tls", "client_ca"), tls.client_ca
    if settings.admin.token_file is not None:
        yield ("admin", "token_file"), settings.admin.token_file
    identity = settings.identity
    if identity.mtls is not None:
        for name in ("ca_bundle", "crl"):
            if (path := getattr(identity.mtls, name)) is not None:
                yield ("identity", "mtls", name), path
    for index, issuer in enumerate(identity.jwt):
        for name in ("jwks_file", "hmac_secret_file"):
            if (path := getattr(issuer, name)) is not None:
                yield ("identity", "jwt", index, name), path
    if identity.api_keys is not None:
        yield ("identity", "api_keys", "file"), identity.api_keys.file
    if settings.response.assertion is not None:
        yield ("response", "assertion", "private_key"), settings.response.assertion.private_key
        for index, path in enumerate(settings.response.assertion.previous):
            yield ("response", "assertion", "previous", index), path
    if settings.tokens is not None:
        yield ("tokens", "private_key"), settings.tokens.private_key
        for index, path in enumerate(settings.tokens.previous):
            yield ("tokens", "previous", index), path
