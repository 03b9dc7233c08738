"""Everything `check` says: what the server would refuse, and what loads but is probably not meant.

Law: loads exactly as the server does; a warning never hides a mistake.
Non-goal: Envoy's configuration (envoy_config.lint).
"""

import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

from ext_authz import wiring
from ext_authz.audit.signing import open_signer
from ext_authz.authn.api_key_file import read_keys
from ext_authz.check import Snapshot
from ext_authz.config import Inputs, Settings, read_inputs, run_dir_problem
from ext_authz.config.inputs import referenced
from ext_authz.config.rules import advice
from ext_authz.documents import Diagnostic, Path, mark_at
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.envelope.keys import open_key
from ext_authz.mappers.protocols import ADAPTERS
from ext_authz.policy.document import PolicyDocument
from ext_authz.policy.lint import lint as lint_policies
from ext_authz.tools import approving

_SECRETS = frozenset({"private_key", "hmac_secret_file", "token_file"})
_OTHERS = stat.S_IRWXO | stat.S_IWGRP


@dataclass(frozen=True, slots=True)
class Findings:
    """Mistakes and warnings in order of place; `summary` says what was looked at where nothing is wrong."""

    diagnostics: tuple[Diagnostic, ...]
    texts: Mapping[str, str]
    summary: str = ""


def examine(path: FilePath, environ: Mapping[str, str], now_ns: int | None = None) -> Findings:
    """Load a configuration and all it names, and look at it. `now_ns` is the clock in Unix nanoseconds."""
    draft = read_inputs(path, environ)
    snapshot, mistakes = wiring.attempt(draft)
    found = list(mistakes)
    if draft.inputs is not None:
        found += _run_dir(draft.inputs)
        found += _trail_keys(draft.inputs, environ)
    if draft.inputs is None or draft.document is None or snapshot is None:
        return Findings(_sorted(found), draft.texts)
    inputs = draft.inputs
    found += advice(inputs.settings, inputs.node)
    found += snapshot.routes.lint()
    found += _policies(inputs, snapshot, draft.document, time.time_ns() if now_ns is None else now_ns)
    found += _secrets(inputs)
    policies, routes = len(snapshot.policies.policies), len(snapshot.routes.entries)
    known = len(snapshot.routes.catalog.entries)
    counts = (
        (policies, "policy", "policies"),
        (routes, "route", "routes"),
        (known, "catalog entry", "catalog entries"),
    )
    summary = ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts)
    return Findings(_sorted(found), draft.texts, f"{summary}, revision {inputs.revision}")


def _sorted(found: list[Diagnostic]) -> tuple[Diagnostic, ...]:
    def place(each: Diagnostic) -> tuple[bool, bool, str, int, int]:
        mark = each.mark
        return (each.warning, mark is not None, *((mark.file, mark.line, mark.column) if mark else ("", 0, 0)))

    return tuple(sorted(dict.fromkeys(found), key=place))


def _run_dir(inputs: Inputs) -> Iterator[Diagnostic]:
    problem = run_dir_problem(inputs.settings.run_dir)
    if problem is not None:
        yield Diagnostic(mark_at(inputs.node, ("run_dir",)), problem)


def _trail_keys(inputs: Inputs, environ: Mapping[str, str]) -> Iterator[Diagnostic]:
    """Open the trail's keys that are files; key services are asked at the start, and not by `check`."""
    audit = inputs.settings.audit
    encryption = None if audit.encryption is None else audit.encryption.key
    signing = None if audit.signing is None else audit.signing.key
    for name, key, opened in (("encryption", encryption, open_key), ("signing", signing, open_signer)):
        if key is not None and key.scheme == "file":
            try:
                opened(key, environ)
            except KeyUnavailableError as error:
                yield Diagnostic(mark_at(inputs.node, ("audit", name, "key")), str(error))


def _policies(inputs: Inputs, snapshot: Snapshot, document: PolicyDocument, now_ns: int) -> tuple[Diagnostic, ...]:
    yields = snapshot.routes.yields()
    mapped = bool(snapshot.routes.entries)
    types = yields.types | {entry.type for entry in snapshot.routes.catalog.entries}
    return lint_policies(
        document,
        roles=_roles(inputs),
        # Approvals are asked for on the command line, and no route yields them.
        actions=yields.actions | {approving.ACTION} if mapped else None,
        resource_types=types | {approving.TYPE} if mapped else None,
        now_ns=now_ns,
        attributes=yields.attributes | approving.ATTRIBUTES if mapped else None,
        vocabulary=frozenset(action for adapter in ADAPTERS for _, action in adapter.yields),
    )


def _roles(inputs: Inputs) -> frozenset[str] | None:
    """Return every role that somebody can hold; None where tokens may say any."""
    settings: Settings = inputs.settings
    identity = settings.identity
    if settings.tokens is not None or identity.tokens_grant_roles:
        return None
    roles = {binding.role for binding in identity.role_bindings}
    if identity.api_keys is not None:
        file = identity.api_keys.file
        roles |= {role for key in read_keys(inputs.text(file), str(file)) for role in key.roles}
    return frozenset(roles)


def _secrets(inputs: Inputs) -> Iterator[Diagnostic]:
    """Warn of key files that other users of this machine can read."""
    for place, path in referenced(inputs.settings):
        if not _is_secret(place):
            continue
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        if mode & _OTHERS:
            message = f"`{path}` holds a secret and others can use it (mode {stat.S_IMODE(mode):04o}): chmod 600"
            yield Diagnostic(mark_at(inputs.node, place), message, warning=True, code="secret_readable")


def _is_secret(place: Path) -> bool:
    return place[-1] in _SECRETS or place[:2] == ("tokens", "previous")
