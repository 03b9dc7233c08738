"""An `Outcome` to the bytes of a CheckResponse.

Law: never empty, always valid; `status.code` 0 is written for an allow that passed every check here and for
nothing else (Envoy reads an empty answer as an allow). Non-goal: choosing headers (headers.py). The bytes are put
together by hand at a third of protobuf's cost; tests hold every answer against protobuf's own reading.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from xml.sax.saxutils import escape

from ext_authz._pb import core_pb2 as core
from ext_authz._pb import external_auth_pb2 as auth
from ext_authz.model import Decision, Outcome, Reason, RequestFacts

DECISION_ID: Final = "x-authz-decision-id"
MAX_HEADERS: Final = 64
MAX_REMOVALS: Final = 1024
MAX_NAME: Final = 256
MAX_VALUE: Final = 8 * 1024
MAX_TOTAL: Final = 32 * 1024
MAX_METADATA_TEXT: Final = 1024

MESSAGES: Final[dict[Reason, str]] = {
    Reason.ALLOWED: "The request is allowed.",
    Reason.PUBLIC_ROUTE: "The request is allowed.",
    Reason.NO_CREDENTIALS: "This resource needs a credential, and the request carries none.",
    Reason.AMBIGUOUS_CREDENTIALS: "The request carries more than one credential; send exactly one.",
    Reason.INVALID_TOKEN: "The token is not valid here.",
    Reason.EXPIRED_TOKEN: "The token has expired.",
    Reason.TOKEN_NOT_BOUND: "The token is bound to a client certificate or key that was not proven.",
    Reason.INVALID_CERTIFICATE: "The client certificate is not valid here.",
    Reason.INVALID_API_KEY: "The API key is not valid here.",
    Reason.REVOKED: "The credential has been revoked.",
    Reason.NO_ROUTE: "Nothing is served under this host, method and path.",
    Reason.MALFORMED_REQUEST: "The request cannot be read.",
    Reason.AMBIGUOUS_PATH: "The path can be read in more than one way; send it in its plain form.",
    Reason.AMBIGUOUS_BODY: "The body can be read in more than one way, or is not all there.",
    Reason.NO_POLICY: "You may not do this.",
    Reason.CONDITIONS_NOT_MET: "You may not do this under the present conditions.",
    Reason.DENIED_BY_POLICY: "You may not do this.",
    Reason.QUARANTINED: "Your access is suspended.",
    Reason.AUDIT_UNAVAILABLE: "The decision could not be recorded; try again later.",
    Reason.NOT_READY: "Authorization is not ready yet; try again later.",
    Reason.OVERLOADED: "Authorization is overloaded; try again later.",
    Reason.INTERNAL_ERROR: "Authorization failed; try again later.",
}
"""What a caller is told: one sentence for each reason, nothing about others, policies or keys."""

_ALLOWS: Final = frozenset({Reason.ALLOWED, Reason.PUBLIC_ROUTE})
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+\Z")
_PARAMETER: Final = re.compile(r"[!-%'-<>-~]*\Z")
_REMOVABLE: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
# RFC 9110 5.5, without obs-text and tabs; Envoy lets both through.
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z")
_NEVER_SET: Final = frozenset(
    {"host", "connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_NEVER_SET_PREFIXES: Final = (":", "x-envoy-", "x-forwarded-")
_CACHED_BYTES: Final = 256
_PIECE_BYTES: Final = 2048

# google.rpc.Code
_RPC_CODE: Final = {400: 3, 401: 16, 403: 7, 503: 14}
_INVALID_ARGUMENT: Final = "3"


class UnsendableError(ValueError):
    """An allow that Envoy must not be sent: a header, a name to remove or a size is out of bounds."""


# --- protobuf's wire format: every field written here is length-delimited but two small integers.


def _tag(number: int, wire_type: int = 2) -> bytes:
    return bytes([number << 3 | wire_type])


def _varint(value: int) -> bytes:
    if value < 0x80:  # noqa: PLR2004
        return _BYTE[value]
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_BYTE: Final = [bytes([value]) for value in range(0x80)]


def _field(tag: bytes, payload: bytes) -> bytes:
    return tag + _varint(len(payload)) + payload


_KEY: Final = _tag(core.HeaderValue.KEY_FIELD_NUMBER)
_TEXT: Final = _tag(core.HeaderValue.VALUE_FIELD_NUMBER)
_HEADER: Final = _tag(core.HeaderValueOption.HEADER_FIELD_NUMBER)
# Named always: the default appends to what the client sent under the same name.
_OVERWRITE: Final = _tag(core.HeaderValueOption.APPEND_ACTION_FIELD_NUMBER, 0) + _varint(
    core.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
)
_OK_HEADERS: Final = _tag(auth.OkHttpResponse.HEADERS_FIELD_NUMBER)
_OK_REMOVE: Final = _tag(auth.OkHttpResponse.HEADERS_TO_REMOVE_FIELD_NUMBER)
_OK_PARAMETER: Final = _tag(auth.OkHttpResponse.QUERY_PARAMETERS_TO_REMOVE_FIELD_NUMBER)
_DENIED_STATUS: Final = _tag(auth.DeniedHttpResponse.STATUS_FIELD_NUMBER)
_DENIED_HEADERS: Final = _tag(auth.DeniedHttpResponse.HEADERS_FIELD_NUMBER)
_DENIED_BODY: Final = _tag(auth.DeniedHttpResponse.BODY_FIELD_NUMBER)
_STATUS: Final = _tag(auth.CheckResponse.STATUS_FIELD_NUMBER)
_OK: Final = _tag(auth.CheckResponse.OK_RESPONSE_FIELD_NUMBER)
_DENIED: Final = _tag(auth.CheckResponse.DENIED_RESPONSE_FIELD_NUMBER)
_ERROR: Final = _tag(auth.CheckResponse.ERROR_RESPONSE_FIELD_NUMBER)
_METADATA: Final = _tag(auth.CheckResponse.DYNAMIC_METADATA_FIELD_NUMBER)
# HttpStatus.code and google.rpc.Status.code
_CODE: Final = _tag(1, 0)
# Struct.fields, the entry's key and value, Value.string_value
_FIELDS, _ENTRY_KEY, _ENTRY_VALUE, _STRING = _tag(1), _tag(1), _tag(2), _tag(3)
# Value.bool_value, Value.list_value, ListValue.values
_BOOL, _LIST, _LIST_VALUES = _tag(4, 0), _tag(6), _tag(1)


# --- the answer


def write(outcome: Outcome, *, report_errors: bool = False) -> bytes:
    """Return the serialized CheckResponse of an outcome.

    `report_errors` sends 503s as `error_response`. A denial is never refused; raises UnsendableError for an allow
    with a header, a removal or a size out of bounds, so that what is recorded and what is sent stay one thing.
    """
    decision = outcome.decision
    if not decision.allowed:
        # A denial with an allow's reason is a bug, and no allow.
        reason = Reason.INTERNAL_ERROR if decision.reason in _ALLOWS else decision.reason
        return _denial(outcome, reason, report_errors=report_errors)
    if decision.reason not in _ALLOWS:
        raise UnsendableError(f"an allow with the reason `{decision.reason}`")
    headers = decision.headers
    pieces = decision.pieces
    if pieces is not None and pieces.headers is not None:
        start, removals = pieces.headers
        ok = start + _ok_header(*headers[-2]) + _known_ok_header(*headers[-1])
        if len(ok) > MAX_TOTAL:
            raise UnsendableError("the headers to set are too large")
        if decision.remove_parameters:
            removals += _parameter_removals(decision.remove_parameters)
        return _ALLOW + _field(_OK, ok + removals) + _metadata(outcome, "allow", decision.reason)
    ok = b"".join(
        [
            _known_ok_header(name, value)
            if len(value) <= _CACHED_BYTES and name != DECISION_ID
            else _ok_header(name, value)
            for name, value in headers
        ]
    )
    if len(ok) > MAX_TOTAL:
        raise UnsendableError("the headers to set are too large")
    removals = _removals(decision.remove_headers, tuple([name for name, _ in headers]))
    if pieces is not None:
        pieces.headers = ok[: len(ok) - sum(len(_ok_header(*header)) for header in headers[-2:])], removals
    ok += removals
    if decision.remove_parameters:
        ok += _parameter_removals(decision.remove_parameters)
    return _ALLOW + _field(_OK, ok) + _metadata(outcome, "allow", decision.reason)


_ALLOW: Final = _field(_STATUS, b"")


def _ok_header(name: str, value: str) -> bytes:
    """Return one OkHttpResponse.headers element. Raises UnsendableError."""
    size = len(value)
    if size > MAX_VALUE or not _VALUE.match(value):
        raise UnsendableError(f"the value of `{name}` is empty, too long or not printable ASCII")
    return _ok_header_start(name, size) + value.encode("ascii") + _OVERWRITE


_known_ok_header = lru_cache(maxsize=4096)(_ok_header)


@lru_cache(maxsize=4096)
def _ok_header_start(name: str, size: int) -> bytes:
    """Return all of an OkHttpResponse.headers element that stands before its value of `size` bytes."""
    if len(name) > MAX_NAME or not _NAME.match(name) or name in _NEVER_SET or name.startswith(_NEVER_SET_PREFIXES):
        raise UnsendableError("a header that may not be set")
    element = _field(_OK_HEADERS, _option(name, " " * size))
    return element[: len(element) - size - len(_OVERWRITE)]


def _option(name: str, value: str) -> bytes:
    header = _field(_KEY, name.encode("ascii")) + _field(_TEXT, value.encode("ascii"))
    return _field(_HEADER, header) + _OVERWRITE


@lru_cache(maxsize=1024)
def _removals(names: tuple[str, ...], kept: tuple[str, ...]) -> bytes:
    """Return OkHttpResponse.headers_to_remove beside the headers `kept`. Raises UnsendableError.

    Envoy removes after it sets and compares names without case: what is set is taken out here.
    """
    if len(set(kept)) != len(kept) or len(kept) > MAX_HEADERS:
        raise UnsendableError("a header is set twice, or too many are set")
    if len(names) > MAX_REMOVALS:
        raise UnsendableError("too many headers to remove")
    for name in names:
        if len(name) > MAX_NAME or not _REMOVABLE.match(name):
            raise UnsendableError("a header that cannot be removed")
    lowered = dict.fromkeys(name.lower() for name in names)
    return b"".join(_field(_OK_REMOVE, name.encode("ascii")) for name in lowered if name not in kept)


def _parameter_removals(names: tuple[str, ...]) -> bytes:
    """Return OkHttpResponse.query_parameters_to_remove. Raises UnsendableError."""
    if len(names) > MAX_REMOVALS or not all(len(name) <= MAX_NAME and _PARAMETER.match(name) for name in names):
        raise UnsendableError("query parameters that cannot be removed")
    return b"".join(_field(_OK_PARAMETER, name.encode("ascii")) for name in names)


def _denial(outcome: Outcome, reason: Reason, *, report_errors: bool) -> bytes:
    status = reason.http_status
    decision_id = outcome.decision_id if _VALUE.match(outcome.decision_id) else ""
    grpc = outcome.facts is not None and is_grpc(outcome.facts)
    headers = [("cache-control", "no-store")]
    if decision_id:
        headers.append((DECISION_ID, decision_id))
    if reason in _CHALLENGES:
        refusal = outcome.refusal
        challenge = refusal.challenge if refusal is not None and _VALUE.match(refusal.challenge) else ""
        headers.append(("www-authenticate", challenge or _CHALLENGES[reason]))
    if grpc:
        # Envoy takes the body for grpc-message and maps 401 and 403 itself (gRPC's HTTP mapping); 400 it would not.
        body = MESSAGES[reason]
        if status == 400:  # noqa: PLR2004
            headers.append(("grpc-status", _INVALID_ARGUMENT))
    else:
        content_type, shape = _SHAPES.get(outcome.error_shape, _SHAPES[""])
        headers.append(("content-type", content_type))
        body = shape(reason, decision_id)
    denied = (
        _field(_DENIED_STATUS, _CODE + _varint(status))
        + b"".join(_field(_DENIED_HEADERS, _option(name, value)) for name, value in headers)
        + _field(_DENIED_BODY, body.encode())
    )
    kind = _ERROR if report_errors and status == 503 else _DENIED  # noqa: PLR2004
    code = _CODE + _varint(_RPC_CODE[status])
    return _field(_STATUS, code) + _field(kind, denied) + _metadata(outcome, "deny", reason)


def is_grpc(facts: RequestFacts) -> bool:
    """Whether Envoy answers this caller in gRPC: `application/grpc` itself or with a `+suffix`."""
    content_type = facts.header("content-type") or ""
    return content_type == "application/grpc" or content_type.startswith("application/grpc+")


def _challenge(error: str = "", description: str = "") -> str:
    """Return a challenge of RFC 6750 section 3: no error attribute where no token was tried."""
    if not error:
        return 'Bearer realm="ext-authz"'
    return f'Bearer realm="ext-authz", error="{error}", error_description="{description}"'


_CHALLENGES: Final[dict[Reason, str]] = {
    Reason.NO_CREDENTIALS: _challenge(),
    Reason.AMBIGUOUS_CREDENTIALS: _challenge("invalid_request", "more than one credential"),
    Reason.INVALID_TOKEN: _challenge("invalid_token", "the token is not valid here"),
    Reason.EXPIRED_TOKEN: _challenge("invalid_token", "the token has expired"),
    Reason.TOKEN_NOT_BOUND: _challenge("invalid_token", "it is bound to a certificate or key that was not proven"),
    Reason.INVALID_CERTIFICATE: _challenge(),
    Reason.INVALID_API_KEY: _challenge(),
    Reason.REVOKED: _challenge("invalid_token", "the credential has been revoked"),
}


# --- dynamic metadata: the same names on every answer, so that access logs and later filters find them


def _metadata(outcome: Outcome, effect: str, reason: Reason) -> bytes:
    decision, identity, access, context = outcome.decision, outcome.identity, outcome.access, outcome.context
    risk = "" if context is None else "unknown" if context.risk is None else context.risk.value
    pieces = decision.pieces
    rest = pieces.metadata.get(risk) if pieces is not None else None
    if rest is None:
        rest = _metadata_rest(
            effect,
            reason.value,
            decision.policy_id,
            outcome.policy_revision,
            "" if identity is None else identity.id,
            "" if access is None else access.resource.type,
            "" if access is None else access.resource.id,
            "" if access is None else access.action,
            risk,
            ",".join([f"{match.policy_id}:{match.effect}" for match in decision.shadow]) if decision.shadow else "",
        )
        if pieces is not None and len(rest) <= _PIECE_BYTES:
            pieces.metadata[risk] = rest
    if decision.visible is not None and effect == "allow":
        protocol = "" if outcome.target is None else outcome.target.protocol
        rest += _visible(decision.visible, protocol, complete=decision.all_visible)
    return _field(_METADATA, _entry("decision_id", outcome.decision_id) + rest)


def _visible(patterns: tuple[str, ...], protocol: str, *, complete: bool) -> bytes:
    """Return the metadata of a listing: its patterns as a list, whether they are all, and whose names they are."""
    listed = b"".join(_field(_LIST_VALUES, _field(_STRING, pattern.encode("ascii"))) for pattern in patterns)
    return b"".join(
        _field(_FIELDS, _field(_ENTRY_KEY, name) + _field(_ENTRY_VALUE, value))
        for name, value in (
            (b"visible", _field(_LIST, listed)),
            (b"visible_complete", _BOOL + _varint(int(complete))),
            (b"protocol", _field(_STRING, protocol.encode("ascii"))),
        )
    )


_METADATA_NAMES: Final = (
    "decision",
    "reason",
    "policy_id",
    "policy_revision",
    "subject",
    "resource_type",
    "resource_id",
    "action",
    "risk",
    "shadow",
)


def _metadata_rest(*values: str) -> bytes:
    if sum(map(len, values)) <= 2 * _CACHED_BYTES:
        return _cached_entries(*values)
    return _entries(*values)


def _entries(*values: str) -> bytes:
    return b"".join(map(_entry, _METADATA_NAMES, values))


_cached_entries = lru_cache(maxsize=2048)(_entries)


def _entry(name: str, value: str) -> bytes:
    """Return one entry of a Struct. Lone surrogates (JSON can spell them) become `?`."""
    if len(value) > MAX_METADATA_TEXT:
        value = value[: MAX_METADATA_TEXT - 1] + "…"
    text = value.encode("utf-8", "replace")
    return _entry_start(name, len(text)) + text


@lru_cache(maxsize=1024)
def _entry_start(name: str, size: int) -> bytes:
    """Return all of a Struct's entry that stands before its text of `size` bytes."""
    text = _field(_ENTRY_VALUE, _field(_STRING, b" " * size))
    entry = _field(_FIELDS, _field(_ENTRY_KEY, name.encode()) + text)
    return entry[: len(entry) - size]


# --- error bodies, in the words of the API that was called


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _ours(reason: Reason, decision_id: str) -> str:
    error = {"code": reason.http_status, "reason": reason.value, "message": MESSAGES[reason]}
    return _json({"error": error | {"decision_id": decision_id}})


def _flat(reason: Reason, _decision_id: str) -> str:
    return _json({"error": MESSAGES[reason]})


def _openai(reason: Reason, _decision_id: str) -> str:
    kind = _by_status(reason, "invalid_request_error", "authentication_error", "permission_error", "server_error")
    return _json({"error": {"message": MESSAGES[reason], "type": kind, "param": None, "code": reason.value}})


def _anthropic(reason: Reason, decision_id: str) -> str:
    kind = _by_status(reason, "invalid_request_error", "authentication_error", "permission_error", "api_error")
    if reason is Reason.OVERLOADED:
        kind = "overloaded_error"
    error = {"type": kind, "message": MESSAGES[reason]}
    return _json({"type": "error", "error": error, "request_id": decision_id})


def _mlflow(reason: Reason, _decision_id: str) -> str:
    code = _by_status(
        reason, "INVALID_PARAMETER_VALUE", "UNAUTHENTICATED", "PERMISSION_DENIED", "TEMPORARILY_UNAVAILABLE"
    )
    return _json({"error_code": code, "message": MESSAGES[reason]})


def _torchserve(reason: Reason, _decision_id: str) -> str:
    kind = _by_status(
        reason, "BadRequestException", "InvalidKeyException", "InvalidKeyException", "ServiceUnavailableException"
    )
    return _json({"code": reason.http_status, "type": kind, "message": MESSAGES[reason]})


def _s3(reason: Reason, decision_id: str) -> str:
    code = _by_status(reason, "InvalidRequest", "AccessDenied", "AccessDenied", "ServiceUnavailable")
    message = escape(MESSAGES[reason])
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{escape(decision_id)}</RequestId></Error>"
    )


def _by_status(reason: Reason, bad: str, unauthenticated: str, forbidden: str, unavailable: str) -> str:
    return {400: bad, 401: unauthenticated, 403: forbidden, 503: unavailable}[reason.http_status]


_JSON_TYPE: Final = "application/json"
_SHAPES: Final[dict[str, tuple[str, Callable[[Reason, str], str]]]] = {
    "": (_JSON_TYPE, _ours),
    "open-inference": (_JSON_TYPE, _flat),
    "kserve-v1": (_JSON_TYPE, _flat),
    "tensorflow-serving": (_JSON_TYPE, _flat),
    "ollama": (_JSON_TYPE, _flat),
    "openai": (_JSON_TYPE, _openai),
    "anthropic": (_JSON_TYPE, _anthropic),
    "torchserve": (_JSON_TYPE, _torchserve),
    "mlflow": (_JSON_TYPE, _mlflow),
    "s3": ("application/xml", _s3),
}
ERROR_SHAPES: Final = frozenset(_SHAPES)
"""Values of `Outcome.error_shape` that have a body of their own; any other gets ours."""


def _fail_closed() -> bytes:
    nothing_known = Outcome(
        decision=Decision(allowed=False, reason=Reason.INTERNAL_ERROR), decision_id="", policy_revision="", now_ns=0
    )
    return write(nothing_known)


FAIL_CLOSED: Final = _fail_closed()
"""A finished denial (`internal_error`, 503) for when nothing else can be built."""
