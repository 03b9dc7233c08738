"""How a value of a subject or resource meets the alternatives that a policy lists for it.

Law: the one meaning of names, wildcards, absence and "unknown"; index, engine,
explain and lint all ask here. Non-goal: conditions, which look at the context.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final
from unicodedata import normalize

from ext_authz.distinguished import canonical
from ext_authz.model import AttributeValue, Identity, Resource
from ext_authz.template import claim_at

SUBJECT_KEYS: Final = ("role", "id", "group", "org", "auth", "scope", "issuer", "workload", "claim")
CLAIM: Final = "claim:"
ANYTHING: Final = "*"
BELOW: Final = "/*"
X509: Final = "x509:"
CERTIFICATE_NAMES: Final = ("spiffe://", "dns:", X509)
TYPED_NAMES: Final = ("sub:", "key:", *CERTIFICATE_NAMES)
# Names that people have: an account at an issuer, an API key, a user of this machine.
_PERSONAL: Final = ("sub:", "key:", "os:")


@dataclass(frozen=True, slots=True)
class Trait:
    """One attribute and the alternatives for its value; `*` ends a prefix.

    For subjects `attribute` is a subject key, or `claim:` and a dotted path.
    """

    attribute: str
    values: tuple[str, ...]


Entry = tuple[Trait, ...]
"""Tests that must all hold; the empty entry is `any: true`."""


class Values:
    """Compiled alternatives: exact texts and prefixes."""

    __slots__ = ("exact", "prefixes")

    def __init__(self, alternatives: Iterable[str]) -> None:
        alternatives = tuple(alternatives)
        self.exact = frozenset(text for text in alternatives if not text.endswith("*"))
        self.prefixes = tuple(text[:-1] for text in alternatives if text.endswith("*"))

    def accepts(self, value: str) -> bool:
        """Whether `value` is one of the alternatives."""
        return value in self.exact or value.startswith(self.prefixes)

    def meets(self, name: str) -> bool:
        """Whether some alternative and some resource that `name` may stand for are the same."""
        if not names_several(name):
            return self.accepts(name)
        start = name[:-1]
        return any(text.startswith(start) for text in self.exact) or any(
            prefix.startswith(start) or start.startswith(prefix) for prefix in self.prefixes
        )

    def accepts_any(self, values: Collection[str]) -> bool:
        """Whether one of `values` is one of the alternatives."""
        if not self.prefixes:
            return not self.exact.isdisjoint(values)
        return any(map(self.accepts, values))


def typed_name(pattern: str) -> str:
    """Return a subject name with its type; without one it means `sub:` (CONTRACT section 2).

    DNS names are told apart by letters, not by case (RFC 4343); the spellings of a distinguished name (RFC 4514) are
    one, unless a `*` ends it. Raises ValueError where `x509:` stands before something else.
    """
    if pattern.startswith("dns:"):
        return pattern.lower()
    if pattern.startswith(X509) and not pattern.endswith(ANYTHING):
        return X509 + canonical(pattern.removeprefix(X509))
    return pattern if pattern == ANYTHING or pattern.startswith(TYPED_NAMES) else f"sub:{pattern}"


def person(name: str) -> str:
    """Return whom a typed name may be: `sub:alice`, `sub:Alice`, `key:alice` and `os:alice` are taken for one person.

    Only where that refuses more: an approval of one's own, two approvals by one. Nothing is granted across types, and
    nothing to another spelling: issuers that do not tell letters' case apart put into `sub` what somebody typed.
    """
    for prefix in _PERSONAL:
        if name.startswith(prefix):
            return _folded(name.removeprefix(prefix))
    return name


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else normalize("NFKC", normalize("NFKC", name).casefold())


def subject_values(identity: Identity, attribute: str) -> Collection[str]:
    """Return the values an identity has for a subject key; what it lacks has none."""
    match attribute:
        case "role":
            return identity.roles
        case "id":
            return (identity.id,)
        case "group":
            return identity.groups
        case "scope":
            return identity.scopes
        case "auth":
            return (identity.auth.value,)
        case "org":
            return (identity.org,) if identity.org else ()
        case "issuer":
            return (identity.issuer,) if identity.issuer else ()
        case "workload":
            return (identity.workload,) if identity.workload else ()
        case _:
            return _claim_values(claim_at(identity.claims, attribute.removeprefix(CLAIM)))


def _claim_values(claim: object) -> tuple[str, ...]:
    items = claim if isinstance(claim, (list, tuple)) else (claim,)
    return tuple(as_text(item) for item in items if isinstance(item, (str, int, bool)))


def resource_value(resource: Resource, attribute: str) -> str | None:
    """Return the text of a resource's attribute; None when neither route nor catalog gives it."""
    if attribute == "type":
        return resource.type
    if attribute == "id":
        return resource.id
    if attribute == "version" and resource.version:
        return resource.version
    value = resource.attributes.get(attribute)
    return None if value is None else as_text(value)


def as_text(value: AttributeValue) -> str:
    """Return a value as a policy writes it: `true`, `false`, digits or the text itself."""
    if isinstance(value, str):
        return value
    return str(value) if not isinstance(value, bool) else "true" if value else "false"


def names_several(name: str) -> bool:
    """Whether a resource id stands for any of its type (`*`) or any below a name (`NAME/*`).

    CONTRACT section 3: such a request needs a grant on all of them, so a deny on one of them hits it.
    """
    return name == ANYTHING or name.endswith(BELOW)
