"""Which request headers an allow sets and strips before the upstream sees the request.

Law: a name that any configuration or policy can inject reaches the upstream
with our value or not at all; a name is never in both lists (Envoy removes
after it sets). Non-goal: protobuf (response.py).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple

from ext_authz.documents import nearest
from ext_authz.model import Access, Auth, Identity, RequestFacts
from ext_authz.query_tokens import occurrences
from ext_authz.template import MAX_RENDERED_BYTES, Lookup, Template, TemplateError, Value, claim_at

DECISION_ID: Final = "x-authz-decision-id"
TTL: Final = "x-authz-ttl"
VISIBLE: Final = "x-authz-visible"
"""On the allow of a listing: what the caller may see (policy/visible.py)."""
RESERVED_PREFIX: Final = "x-authz-"
DEFAULT_HEADERS: Final = {
    "x-authz-subject": "${subject.name}",
    "x-authz-auth": "${subject.auth}",
    "x-authz-roles": "${subject.roles}",
    "x-authz-policy": "${policy.id}",
}
MAX_HEADERS: Final = 32
MAX_TOTAL_BYTES: Final = 16 * 1024
MAX_NAME_BYTES: Final = 128

_PRINTABLE = re.compile(r"[ -~]+\Z")
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_|~-]+\Z")
_FORBIDDEN = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "x-request-id",
        DECISION_ID,
        TTL,
        VISIBLE,
    }
)
_OURS = frozenset({DECISION_ID, TTL, VISIBLE})
COOKIE: Final = "cookie"
MAX_COOKIE_BYTES: Final = 8 * 1024
"""Of what is left of a client's cookies; more than this is not passed on at all."""
_FORBIDDEN_PREFIXES = (":", "x-envoy-", "x-forwarded-", "grpc-")

_SUBJECT = frozenset(
    {
        "id",
        "name",
        "auth",
        "issuer",
        "roles",
        "groups",
        "org",
        "scopes",
        "mfa",
        "workload",
        "cert_fingerprint",
    }
)
_RESOURCE = frozenset({"type", "id", "version"})
_OTHERS = {
    "policy.id": "policy_id",
    "policy.revision": "revision",
    "action": "access.action",
    "decision_id": "decision_id",
}


def known_variable(name: str) -> bool:
    """Whether `name` may stand in a header template."""
    head, _, rest = name.partition(".")
    if head == "subject":
        return rest in _SUBJECT or (rest.startswith("claims.") and len(rest) > len("claims."))
    if head == "resource":
        return bool(rest) and "." not in rest
    return name in _OTHERS


def near_variable(name: str) -> str:
    """Return `, did you mean `x`?` for a variable that is none; a claim keeps its own name."""
    head, _, rest = name.partition(".")
    parts = {"subject": _SUBJECT, "resource": _RESOURCE}.get(head)
    if parts is None:
        near = nearest(name, [f"subject.{each}" for each in sorted(_SUBJECT)] + sorted(_OTHERS))
        return f", did you mean `${{{near}}}`?" if near else ""
    word, dot, claim = rest.partition(".")
    near = nearest(word, ["claims"] if dot else sorted(parts))
    return f", did you mean `${{{head}.{near}{dot}{claim}}}`?" if near and (not dot or head == "subject") else ""


def header_name_problem(name: str) -> str | None:
    """Say why the (lower-case) name cannot be injected, or None."""
    if not _NAME.match(name) or len(name) > MAX_NAME_BYTES:
        return f"`{name}` is not a lower-case header name"
    if name in _FORBIDDEN or name.startswith(_FORBIDDEN_PREFIXES):
        return f"`{name}` belongs to HTTP, Envoy or this sidecar and cannot be set"
    return None


def cookies(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Return (name, value) of every cookie in the lines of a `cookie` header, as they stand (RFC 6265 4.2.1)."""
    return [(name, value) for name, _, value in _pairs(lines)]


def _pairs(lines: Iterable[str]) -> list[tuple[str, str, str]]:
    pairs = (pair.strip(" \t").partition("=") for line in lines for pair in line.split(";"))
    return [(name.strip(" \t"), equals, value.strip(" \t")) for name, equals, value in pairs]


@dataclass(frozen=True, slots=True)
class Assertion:
    """A signed statement to the upstream about a verified caller, in the header `name`.

    `sign(identity, audience, now_ns)` returns it; `now_ns` is Unix nanoseconds.
    """

    name: str
    audience: Template
    sign: Callable[[Identity, str, int], str]


@dataclass(frozen=True, slots=True)
class Steady:
    """An allow's headers but the decision's id and ttl, and what it removes when nothing was forged. `size`: bytes."""

    headers: tuple[tuple[str, str], ...]
    remove: tuple[str, ...]
    size: int

    def answered(self, decision_id: str, ttl: int) -> tuple[tuple[str, str], ...]:
        """Return the headers of one answer. Raises TemplateError as HeaderPlan.allow does."""
        seconds = str(ttl)
        if self.size + len(decision_id) + len(seconds) > MAX_TOTAL_BYTES:
            raise TemplateError("the injected headers are over their bounds")
        return (*self.headers, (DECISION_ID, decision_id), (TTL, seconds))


@dataclass(frozen=True, slots=True)
class HeaderPlan:
    """Compiled at load: what may be injected, what is always stripped.

    `templates` are the configured headers; `injectable` every name that the
    configuration or a loaded policy can set; `credentials` the headers that
    configured authenticators read; `bearers` those of them that may carry a
    token on under `forward_credentials`; `cookies` are cookies that hold tokens,
    `parameters` such parameters of the query.
    """

    templates: tuple[tuple[str, Template], ...]
    injectable: frozenset[str]
    remove: frozenset[str] = frozenset()
    credentials: frozenset[str] = frozenset()
    bearers: frozenset[str] = frozenset()
    forward_credentials: bool = False
    revision: str = ""
    assertion: Assertion | None = None
    cookies: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    _stripped: frozenset[str] = field(init=False, repr=False)
    _stripped_but_bearers: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Collect what every allow removes unless it sets it."""
        always = self.injectable | self.remove | _OURS
        object.__setattr__(self, "_stripped", always | self.credentials)
        object.__setattr__(self, "_stripped_but_bearers", always | (self.credentials - self.bearers))

    def allow(  # noqa: PLR0917  all that an answer is made of
        self,
        facts: RequestFacts,
        identity: Identity,
        access: Access,
        policy_id: str,
        policy_headers: Sequence[tuple[str, Template]],
        decision_id: str,
        ttl: int,
        now_ns: int = 0,
        visible: str = "",
    ) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        """Return (headers to set, names to remove) of an allow; `now_ns` (Unix nanoseconds) dates an assertion.

        `visible` is the value of the VISIBLE header of a listing.

        Raises TemplateError when a value, their number or their total size is over its bound.
        """
        lookup = _Allow(identity, access, policy_id, self.revision, decision_id).value
        rendered = self._rendered(policy_headers, lookup)
        # There is nobody to assert anything of where nobody was verified.
        if self.assertion is not None and identity.auth is not Auth.ANONYMOUS:
            audience = self.assertion.audience.render(lookup)
            rendered[self.assertion.name] = self.assertion.sign(identity, audience, now_ns)
            if len(rendered[self.assertion.name]) > MAX_RENDERED_BYTES:
                raise TemplateError("the assertion is over its bound")
        if visible:
            rendered[VISIBLE] = visible
        rendered[DECISION_ID] = decision_id
        rendered[TTL] = str(ttl)
        if len(rendered) > MAX_HEADERS or sum(map(len, rendered.values())) > MAX_TOTAL_BYTES:
            raise TemplateError("the injected headers are over their bounds")
        forwards = self.forward_credentials and identity.auth is Auth.JWT
        if self.cookies and not forwards:
            rendered.update(self._without_tokens(facts))
        return tuple(rendered.items()), self._removals(facts, tuple(rendered), forwards=forwards)

    def steady(
        self, identity: Identity, access: Access, policy_id: str, policy_headers: Sequence[tuple[str, Template]]
    ) -> Steady | None:
        """Return what of an allow's headers no request changes; None where an assertion, a cookie or an id does.

        Raises TemplateError as `allow` does.
        """
        forwards = self.forward_credentials and identity.auth is Auth.JWT
        templates = (*self.templates, *policy_headers)
        if (
            (self.assertion is not None and identity.auth is not Auth.ANONYMOUS)
            or (self.cookies and not forwards)
            or any("decision_id" in template.variables for _, template in templates)
        ):
            return None
        rendered = self._rendered(policy_headers, _Allow(identity, access, policy_id, self.revision, "").value)
        if len(rendered) + len((DECISION_ID, TTL)) > MAX_HEADERS:
            raise TemplateError("the injected headers are over their bounds")
        names = self._stripped_but_bearers if forwards else self._stripped
        return Steady(
            tuple(rendered.items()),
            _difference(names, (*rendered, DECISION_ID, TTL)),
            sum(map(len, rendered.values())),
        )

    def _rendered(self, policy_headers: Sequence[tuple[str, Template]], lookup: Lookup) -> dict[str, str]:
        rendered: dict[str, str] = {}
        for name, template in (*self.templates, *policy_headers) if policy_headers else self.templates:
            value = template.render(lookup)
            if value.strip():
                rendered[name] = value
            else:
                rendered.pop(name, None)
        return rendered

    def public(self, facts: RequestFacts, decision_id: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        """Return (headers, removals) for a public route: no identity, no credential."""
        headers = {DECISION_ID: decision_id, **(self._without_tokens(facts) if self.cookies else {})}
        return tuple(headers.items()), self._removals(facts, tuple(headers), forwards=False)

    def parameter_removals(self, facts: RequestFacts, identity: Identity | None) -> tuple[str, ...]:
        """Return the query parameters to remove, by the names that stand in the query; `identity` None: nobody's."""
        if self.forward_credentials and identity is not None and identity.auth is Auth.JWT:
            return ()
        found = (each.raw for name in self.parameters for each in occurrences(facts.path, name))
        return tuple(sorted(set(found)))

    def _without_tokens(self, facts: RequestFacts) -> dict[str, str]:
        """Return the `cookie` header less the cookies that hold tokens; nothing, so that it is removed, if none is.

        What cannot stand in a header that we set is left out too.
        """
        kept = [
            f"{name}={value}" if equals else name
            for name, equals, value in _pairs(facts.headers.get(COOKIE, ()))
            if name not in self.cookies
        ]
        rest = "; ".join(pair for pair in kept if pair and _PRINTABLE.match(pair))
        return {COOKIE: rest} if rest and len(rest) <= MAX_COOKIE_BYTES else {}

    def _removals(self, facts: RequestFacts, kept: tuple[str, ...], *, forwards: bool) -> tuple[str, ...]:
        names = self._stripped_but_bearers if forwards else self._stripped
        if facts.forged:
            return tuple(sorted(names.union(facts.forged).difference(kept)))
        return _difference(names, kept)


@lru_cache(maxsize=1024)
def _difference(names: frozenset[str], kept: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(names.difference(kept)))


class _Allow(NamedTuple):
    """What templates may name."""

    identity: Identity
    access: Access
    policy_id: str
    revision: str
    decision_id: str

    def value(self, variable: str) -> Value:
        return _reader(variable)(self)


@lru_cache(maxsize=1024)
def _reader(variable: str) -> Callable[[_Allow], Value]:
    """Return what reads a known variable."""
    head, _, rest = variable.partition(".")
    if head == "subject" and rest.startswith("claims."):
        path = rest.removeprefix("claims.")
        return lambda allow: _claim(allow.identity, path)
    if head == "subject":
        return attrgetter(f"identity.{rest}")
    if head == "resource" and rest not in _RESOURCE:
        return lambda allow: allow.access.resource.attributes.get(rest)
    if head == "resource":
        return attrgetter(f"access.resource.{rest}")
    return attrgetter(_OTHERS[variable])


def _claim(identity: Identity, path: str) -> Value:
    value = claim_at(identity.claims, path)
    if isinstance(value, list):
        return [str(item) for item in value if isinstance(item, (str, int))]
    return value if isinstance(value, (str, int, bool)) else None
