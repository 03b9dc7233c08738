"""What a configuration knows of a subject, of a resource and of who holds roles, for `access`.

Law: only what the configuration or the user says is known; all else stays open.
A certificate or an API key brings no more than the configuration gives it, a token whatever its issuer says.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from ext_authz.authn.api_key import ApiKey
from ext_authz.authn.api_key_file import read_keys
from ext_authz.authn.roles import RoleBindings
from ext_authz.check import Snapshot
from ext_authz.config import Inputs
from ext_authz.model import Auth, Identity
from ext_authz.policy.matching import CLAIM, as_text
from ext_authz.state.changes import typed_subject
from ext_authz.tools.access import Holders, auth_of

ANONYMOUS: Final = "anonymous"
_NO_TOKEN: Final = ("group", "scope", "issuer")


def holders_of(inputs: Inputs) -> Holders:
    """Return who holds roles by the configuration's bindings and API keys."""
    identity = inputs.settings.identity
    bound = [(binding.role, member) for binding in identity.role_bindings for member in binding.members]
    bound += [(role, _name(key)) for key in _keys(inputs) for role in key.roles]
    tokens = inputs.settings.tokens is not None or identity.tokens_grant_roles
    return Holders(tuple(dict.fromkeys(bound)), tokens)


def subject_facts(
    name: str, given: Mapping[str, Collection[str]], inputs: Inputs, claims_read: Collection[str]
) -> dict[str, Collection[str]]:
    """Return what is known of a subject, as `access.Question` has it.

    `given` is what the user says of it, by subject key (`claim:PATH` for claims).
    """
    if name in (ANONYMOUS, f"{ANONYMOUS}:"):
        nothing: dict[str, Collection[str]] = dict.fromkeys(("role", "org", "workload", *_NO_TOKEN), ())
        return {**nothing, **_no_claims(claims_read), "id": (f"{ANONYMOUS}:",), "auth": (ANONYMOUS,)}
    subject = typed_subject(name)
    auth = auth_of(subject)
    known: dict[str, Collection[str]] = {"id": (subject,), "auth": (auth.value,)}
    identity = Identity(subject, "", auth, groups=frozenset(given.get("group", ())))
    roles = RoleBindings(inputs.settings.identity.role_bindings).of(identity)
    if auth is Auth.JWT:
        # Where no issuer grants roles, and all groups are known, there are no others than the bound ones.
        bound_by_group = any(member.startswith("group:") for _, member in holders_of(inputs).bound)
        if "role" in given or (not holders_of(inputs).tokens and ("group" in given or not bound_by_group)):
            known["role"] = roles | set(given.get("role", ()))
    else:
        keys = [key for key in _keys(inputs) if _name(key) == subject]
        known["role"] = roles | {role for key in keys for role in key.roles} | set(given.get("role", ()))
        known["org"] = {key.org for key in keys if key.org}
        known |= dict.fromkeys(_NO_TOKEN, ())
        known |= _no_claims(claims_read)
    if auth is Auth.MTLS:
        known["workload"] = (subject,)
    return known | {key: tuple(values) for key, values in given.items() if key != "role"}


def resource_facts(text: str, given: Mapping[str, str], snapshot: Snapshot) -> dict[str, str]:
    """Return what is known of `TYPE/ID` (or `TYPE`): what the user says, else the catalog."""
    kind, _, name = text.partition("/")
    known = {"type": kind}
    if name:
        known["id"] = name
        known |= {key: as_text(value) for key, value in snapshot.routes.catalog.attributes(kind, name, {}).items()}
    return known | dict(given)


def _no_claims(claims_read: Collection[str]) -> dict[str, Collection[str]]:
    return {CLAIM + path: () for path in claims_read}


def _keys(inputs: Inputs) -> Iterator[ApiKey]:
    settings = inputs.settings.identity.api_keys
    if settings is not None:
        file = str(settings.file)
        yield from (key for key in read_keys(inputs.text(file), file) if not key.revoked)


def _name(key: ApiKey) -> str:
    return f"key:{key.subject}"
