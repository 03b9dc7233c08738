"""Role bindings: which typed names hold a role besides what their credential grants.

Law: a member matches names of its own kind only; `group:` matches the groups of
JWT principals only (CONTRACT section 2). Non-goal: what a role may do (policies).
"""

from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import BeforeValidator

from ext_authz.authn.names import ANONYMOUS, PREFIXES, dns_name, typed
from ext_authz.authn.spiffe import SCHEME, trust_domain
from ext_authz.distinguished import canonical
from ext_authz.model import Auth, Identity
from ext_authz.settings import NonEmptyText, Settings, Some, mistake, shown

_GROUP: Final = "group:"
_DNS: Final = "dns:"
_X509: Final = "x509:"


def parse_member(value: object) -> str:
    """Return the typed member of what a user wrote; raises a mistake where it could match nothing or too much."""
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise mistake(f"{shown(value)} is not a member such as `sub:alice`, `group:data-science` or `spiffe://…`")
    for prefix in PREFIXES:
        if value.lower().startswith(prefix) and not value.startswith(prefix):
            raise mistake(f"{shown(value)} is of no kind, did you mean `{prefix}{value[len(prefix) :]}`?")
    if value.startswith((ANONYMOUS, "os:")):
        raise mistake(f"{shown(value)} cannot hold a role")
    member = typed(value)
    if "*" in member[:-1]:
        raise mistake(f"{shown(value)}: `*` stands at the end only")
    if member in PREFIXES:
        raise mistake(f"{shown(value)} names nobody")
    if member.startswith("spiffe:"):
        return _spiffe_member(member)
    if member.startswith(_DNS) and not member.endswith("*"):
        host = dns_name(member.removeprefix(_DNS))
        if host is None:
            raise mistake(f"{shown(value)} is not a DNS name")
        return _DNS + host
    if member.startswith(_X509) and not member.endswith("*"):
        try:
            return _X509 + canonical(member.removeprefix(_X509))
        except ValueError:
            raise mistake(f"{shown(value)} is not a distinguished name such as `x509:CN=trainer,O=ML`") from None
    return member


def _spiffe_member(member: str) -> str:
    # A wildcard inside the trust domain would match other domains that begin alike.
    whole = member if not member.endswith("*") else f"{member[:-1].rstrip('/')}/x"
    if not member.startswith(SCHEME) or "/" not in member.removeprefix(SCHEME) or trust_domain(whole) is None:
        raise mistake(f"{shown(member)} is not a SPIFFE ID such as `spiffe://ml.example/ns/research/sa/*`")
    return member


Member = Annotated[str, BeforeValidator(parse_member)]


class RoleBindingSettings(Settings):
    """One role and who holds it."""

    role: NonEmptyText
    """The role."""
    members: Some[Member]
    """Typed names, perhaps with a trailing `*`; without a type `sub:` is meant."""


class RoleBindings:
    """All bindings, indexed by exact name and by prefix; immutable."""

    __slots__ = ("_exact", "_prefixes")

    def __init__(self, bindings: Iterable[RoleBindingSettings] = ()) -> None:
        exact: dict[str, set[str]] = {}
        prefixes: dict[str, set[str]] = {}
        for binding in bindings:
            for member in binding.members:
                if member.endswith("*"):
                    prefixes.setdefault(member[:-1], set()).add(binding.role)
                else:
                    exact.setdefault(member, set()).add(binding.role)
        self._exact = {member: frozenset(roles) for member, roles in exact.items()}
        self._prefixes = tuple((prefix, frozenset(roles)) for prefix, roles in sorted(prefixes.items()))

    @property
    def roles(self) -> frozenset[str]:
        """Every role that some binding gives."""
        return frozenset().union(*self._exact.values(), *(roles for _, roles in self._prefixes))

    def of(self, identity: Identity) -> frozenset[str]:
        """Return the roles bound to a verified principal; its workload's name adds none."""
        if identity.auth is Auth.ANONYMOUS or not (self._exact or self._prefixes):
            return frozenset()
        names = [identity.id]
        if identity.auth is Auth.JWT:
            names += [_GROUP + group for group in identity.groups]
        found: set[str] = set()
        for name in names:
            found |= self._exact.get(name, frozenset())
            for prefix, roles in self._prefixes:
                if name.startswith(prefix):
                    found |= roles
        return frozenset(found)
