"""The nouns every phase of a check speaks in.

Law: values here are frozen (those that each check makes, for the type
checker) and know nothing of wires, files or clocks; what is not yet trusted
is `RequestFacts`, what has been verified is `Identity`.
Non-goal: behaviour. A module that decides something lives elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple, TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def frozen(cls: type[_T]) -> type[_T]:
    """Make a value that each check makes anew: frozen for the type checker, which sees all who touch it.

    Keeping it so at run time as well would triple what a field costs, and a check fills some fifty.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


class Reason(StrEnum):
    """Why a check was answered as it was: log field, metric label, audit field and docs heading at once."""

    ALLOWED = "allowed"
    PUBLIC_ROUTE = "public_route"
    NO_CREDENTIALS = "no_credentials"
    AMBIGUOUS_CREDENTIALS = "ambiguous_credentials"
    INVALID_TOKEN = "invalid_token"  # noqa: S105  a reason, not a password
    EXPIRED_TOKEN = "expired_token"  # noqa: S105
    TOKEN_NOT_BOUND = "token_not_bound"  # noqa: S105
    INVALID_CERTIFICATE = "invalid_certificate"
    INVALID_API_KEY = "invalid_api_key"
    REVOKED = "revoked"
    NO_ROUTE = "no_route"
    MALFORMED_REQUEST = "malformed_request"
    AMBIGUOUS_PATH = "ambiguous_path"
    AMBIGUOUS_BODY = "ambiguous_body"
    NO_POLICY = "no_policy"
    CONDITIONS_NOT_MET = "conditions_not_met"
    DENIED_BY_POLICY = "denied_by_policy"
    QUARANTINED = "quarantined"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    NOT_READY = "not_ready"
    OVERLOADED = "overloaded"
    INTERNAL_ERROR = "internal_error"

    @property
    def http_status(self) -> int:
        """HTTP status a caller sees for this reason (CONTRACT section 5)."""
        return _STATUS[self]


_STATUS: dict[Reason, int] = {
    Reason.ALLOWED: 200,
    Reason.PUBLIC_ROUTE: 200,
    Reason.NO_CREDENTIALS: 401,
    Reason.AMBIGUOUS_CREDENTIALS: 401,
    Reason.INVALID_TOKEN: 401,
    Reason.EXPIRED_TOKEN: 401,
    Reason.TOKEN_NOT_BOUND: 401,
    Reason.INVALID_CERTIFICATE: 401,
    Reason.INVALID_API_KEY: 401,
    Reason.REVOKED: 401,
    Reason.NO_ROUTE: 403,
    Reason.MALFORMED_REQUEST: 400,
    Reason.AMBIGUOUS_PATH: 400,
    Reason.AMBIGUOUS_BODY: 400,
    Reason.NO_POLICY: 403,
    Reason.CONDITIONS_NOT_MET: 403,
    Reason.DENIED_BY_POLICY: 403,
    Reason.QUARANTINED: 403,
    Reason.AUDIT_UNAVAILABLE: 503,
    Reason.NOT_READY: 503,
    Reason.OVERLOADED: 503,
    Reason.INTERNAL_ERROR: 503,
}

ACTIONS: frozenset[str] = frozenset(
    {
        "infer",
        "generate",
        "embed",
        "explain",
        "rerank",
        "classify",
        "tokenize",
        "read_metadata",
        "list_models",
        "health",
        "deploy_model",
        "undeploy_model",
        "register_model",
        "update_model",
        "delete_model",
        "monitor_performance",
        "read_metrics",
        "submit_training_job",
        "read_job",
        "cancel_job",
        "read_data",
        "write_data",
        "delete_data",
        "list_data",
        "admin",
    }
)
"""Actions that built-in adapters produce; a route may name others of its own."""

Address = IPv4Address | IPv6Address
AttributeValue = str | int | bool


@dataclass(frozen=True, slots=True)
class Body:
    """The request body as Envoy buffered it.

    `data` is empty when none was passed on. `partial` is the verbatim
    `x-envoy-auth-partial-body` value ("" when absent); `size` is
    `attributes.request.http.size`, -1 when the field was absent or negative.
    """

    data: bytes
    size: int
    partial: str


class SourceKind(StrEnum):
    """Who in Envoy tells something: a filter before the check, the route's metadata, the check's own settings."""

    METADATA = "metadata"
    ROUTE_METADATA = "route_metadata"
    EXTENSION = "extension"


class Source(NamedTuple):
    """One value that Envoy tells: `key` in a metadata `namespace`, or of the context extensions."""

    kind: SourceKind
    namespace: str
    key: str


@frozen
class RequestFacts:
    """What Envoy says of one request, bounded and typed, but not believed yet.

    `headers` holds only the (lower-case) names the snapshot asked for, each
    with every value in order of arrival, decoded as latin-1 so that no byte is
    lost. `forged` are the inbound names, verbatim, that read as `x-authz-*`
    once lower-cased and with `_` taken for `-`. `path` is `:path` verbatim,
    query included. `host` is canonical: lower case, no port, no trailing dot;
    IPv6 literals keep their brackets. `told` holds, of Envoy's metadata, the
    sources that the snapshot asked for; None is a value of no usable type.
    `time_ns` is `attributes.request.time` in Unix nanoseconds, None if absent.
    """

    method: str
    path: str
    host: str
    headers: Mapping[str, tuple[str, ...]]
    forged: tuple[str, ...]
    body: Body
    source_address: str
    source_principal: str
    source_certificate: str
    time_ns: int | None
    context_extensions: Mapping[str, str]
    http_protocol: str
    scheme: str = ""
    sni: str = ""
    told: Mapping[Source, AttributeValue | None] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        """Return the only value of `name`; None when it is absent or came more than once."""
        values = self.headers.get(name)
        return values[0] if values is not None and len(values) == 1 else None


@dataclass(frozen=True, slots=True)
class Question:
    """What only the issuer of a token can say: whether it is active. `key` (hex) names the question.

    `known`: it said so before, and that counts no longer; made-up tokens are never known.
    """

    issuer: str
    key: str
    token: str = field(repr=False)
    known: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A phase's "no". `detail` is for the audit trail and `explain`, never for the caller."""

    reason: Reason
    detail: str
    # What the bad credential claimed to be; evidence, never an identity.
    claimed_subject: str = ""
    # (issuer, key id) of a key that is not known here and may be in the issuer's newest key set.
    sought: tuple[str, str] | None = None
    # What the issuer of a token is to be asked before anything can be said.
    asks: Question | None = None
    # What the caller is told to prove itself with, in place of what its reason usually says (RFC 9110 11.6.1).
    challenge: str = ""


class Auth(StrEnum):
    """How the principal proved itself."""

    JWT = "jwt"
    API_KEY = "api_key"
    MTLS = "mtls"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified principal (and the workload whose connection carried it).

    `id` is the typed name (`sub:alice`, `key:batch-7`, `spiffe://…`, `dns:…`,
    `x509:…`, `anonymous:`), `name` the bare one. Groups are typed (`group:x`)
    only in role bindings; here they are bare, prefixed per issuer. Times are
    Unix seconds. `workload` is the typed certificate name beneath a token or
    key, and equals `id` for an mTLS principal; "" without a certificate.
    """

    id: str
    name: str
    auth: Auth
    issuer: str = ""
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    org: str = ""
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict)
    mfa: bool = False
    issued_at: int | None = None
    expires_at: int | None = None
    workload: str = ""
    cert_fingerprint: str = ""
    cert_serial: str = ""
    cert_issuer: str = ""
    token_id: str = ""
    key_id: str = ""
    via: str = ""
    # RFC 7638 thumbprint of the key that whoever presents the token proves with each request.
    proven_key: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """What is acted on. `type` and `id` are always known; other attributes only where route or catalog say so."""

    type: str
    id: str
    version: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Access:
    """One action on one resource; a request needs every one of its accesses allowed."""

    resource: Resource
    action: str


@dataclass(frozen=True, slots=True)
class Target:
    """What a request means. `attributes` are what the adapter found in it (`batch_size`, `max_tokens`, …)."""

    accesses: tuple[Access, ...]
    route: str
    protocol: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


class Risk(StrEnum):
    """Risk of a verified subject, ascending."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Approval:
    """One approval by a member of `group`. None means "any" and occurs only in tests and `explain`.

    Bound to a policy and its digest; to a subject (typed id) and optionally to
    one resource ("type/id"). `expires_at` is Unix seconds.
    """

    group: str
    approver: str
    expires_at: int | None = None
    policy: str | None = None
    policy_digest: str | None = None
    subject: str | None = None
    resource: str | None = None


@frozen
class Context:
    """What policies may ask for beyond subject, resource and action.

    `ip` None: the caller's address is unknown. `time_ns` is what time windows
    read, `now_ns` this machine's clock, both Unix nanoseconds. `risk` or
    `approvals` None: the state is too old to say.
    """

    ip: Address | None
    time_ns: int
    now_ns: int
    risk: Risk | None
    approvals: tuple[Approval, ...] | None
    method: str = ""
    host: str = ""
    path: str = ""
    protocol: str = ""
    request_id: str = ""
    bytes: int = 0


@frozen
class Query:
    """The question to the policy engine: whether `subject` may do `action` on `resource` in this `context`.

    `attributes` are the request's own (Target.attributes), read by `max` and CEL.
    """

    subject: Identity
    resource: Resource
    action: str
    context: Context
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShadowMatch:
    """A shadow policy that would have taken part."""

    policy_id: str
    effect: str


class Pieces:
    """Where those who write an allow keep what its repetitions share; never changed once set.

    Belongs to one (snapshot, identity, access, matching policies): whatever
    else an answer depends on (id, times, ttl, risk, the request's context) is no part of it.
    """

    __slots__ = ("event", "headers", "metadata")

    def __init__(self) -> None:
        self.headers: tuple[bytes, bytes] | None = None
        self.metadata: dict[str, bytes] = {}
        self.event: tuple[bytes, Sequence[str], object] | None = None


@frozen
class Decision:
    """The answer. `headers` and `remove_headers` are final; `ttl` is seconds, None on a denial.

    `remove_parameters` are query parameters by their undecoded names. `visible` are the patterns of what the answer to
    a listing may show (`policy/visible.py`), None where nothing is listed; `all_visible` False: more would be, but did
    not fit. With `pieces`, all headers but the last two (id and ttl), removals of headers and policies are the same in
    every decision that has the same.
    """

    allowed: bool
    reason: Reason
    policy_id: str = ""
    policies: tuple[str, ...] = ()
    shadow: tuple[ShadowMatch, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    remove_headers: tuple[str, ...] = ()
    ttl: int | None = None
    audit_logged: bool = False
    pieces: Pieces | None = field(default=None, compare=False, repr=False)
    remove_parameters: tuple[str, ...] = ()
    visible: tuple[str, ...] | None = None
    all_visible: bool = True


@frozen
class Outcome:
    """Everything one check learned: the audit event and the reply are both made from it.

    `path` is the canonical path without query. `access` is the access that the
    decision speaks of (the first one denied, or the first).
    `error_shape` names the error body of the protocol that was called; "" is ours.
    `ip` is the caller's address of a check refused before there was a context.
    """

    decision: Decision
    decision_id: str
    policy_revision: str
    now_ns: int
    facts: RequestFacts | None = None
    path: str = ""
    identity: Identity | None = None
    target: Target | None = None
    access: Access | None = None
    context: Context | None = None
    refusal: Refusal | None = None
    error_shape: str = ""
    ip: Address | None = None
