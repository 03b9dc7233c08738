"""Bodies: is it whole, and then its JSON or its gRPC message.

Law: what is returned every parser behind us reads alike; the partial header is
never believed alone (Envoy 1.40 says `false` when the buffer fills exactly).
Non-goal: what the content means.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from ext_authz.mappers.strict_json import StrictError, parse
from ext_authz.model import Reason, Refusal, RequestFacts

HEADER_NAMES: Final = frozenset(
    {"content-type", "content-length", "content-encoding", "transfer-encoding", "grpc-encoding"}
)
FRAME_HEADER: Final = 5

_JSON_TYPE = re.compile(r"application/json[ \t]*(?:;[ \t]*charset[ \t]*=[ \t]*\"?utf-8\"?[ \t]*)?\Z", re.IGNORECASE)
_GRPC_TYPE = re.compile(r"application/grpc(?:\+proto)?[ \t]*(?:;.*)?\Z")
_DIGITS = re.compile(r"(?:0|[1-9][0-9]{0,17})\Z")


def refuse(why: str) -> Refusal:
    """Return the refusal `ambiguous_body`."""
    return Refusal(Reason.AMBIGUOUS_BODY, f"the body {why}")


def is_grpc(facts: RequestFacts) -> bool:
    """Whether the request is a gRPC call in its native framing (not gRPC-Web, not Connect)."""
    kind = facts.header("content-type")
    return kind is not None and facts.method == "POST" and _GRPC_TYPE.match(kind) is not None


def certainly_empty(facts: RequestFacts) -> bool:
    """Whether the request certainly has no body, as opposed to one we were not shown."""
    if facts.body.data or facts.body.size > 0 or facts.body.partial not in ("", "false"):
        return False
    if "transfer-encoding" in facts.headers:
        return False
    lengths = facts.headers.get("content-length")
    if lengths is not None:
        return lengths == ("0",)
    # RFC 9112 6.3: in HTTP/1 no length and no transfer coding is no body; HTTP/2 and 3 need not say.
    return facts.http_protocol in ("HTTP/1.1", "HTTP/1.0")


def whole(facts: RequestFacts, max_request_bytes: int) -> bytes | Refusal:
    """Return the whole, uncompressed body, or why there is none (CONTRACT section 3)."""
    body = facts.body
    if not body.data:
        return refuse("was not passed on, and the answer needs it")
    if body.partial not in ("", "false"):
        return refuse("is truncated")
    if body.size != len(body.data):
        return refuse("is not as long as Envoy says")
    if len(body.data) >= max_request_bytes:
        return refuse("fills the buffer, so more may follow")
    lengths = facts.headers.get("content-length")
    if lengths is not None and not (
        len(lengths) == 1 and _DIGITS.match(lengths[0]) and int(lengths[0]) == len(body.data)
    ):
        return refuse("is not as long as its content-length")
    codings = facts.headers.get("transfer-encoding")
    if codings is not None and [coding.lower() for coding in codings] != ["chunked"]:
        return refuse("has a transfer coding of its own")
    encodings = facts.headers.get("content-encoding")
    if encodings is not None and [encoding.lower() for encoding in encodings] != ["identity"]:
        return refuse("is compressed")
    return body.data


def grpc_message(facts: RequestFacts, max_request_bytes: int) -> bytes | Refusal:
    """Return the whole body of a unary gRPC call: one uncompressed frame, whose message begins at FRAME_HEADER."""
    data = whole(facts, max_request_bytes)
    if isinstance(data, Refusal):
        return data
    if len(data) < FRAME_HEADER:
        return refuse("is shorter than a gRPC frame")
    if data[0] != 0:
        return refuse("holds a compressed gRPC message")
    if len(data) != FRAME_HEADER + int.from_bytes(data[1:FRAME_HEADER], "big"):
        return refuse("is not exactly one gRPC message")
    return data


def json_body(facts: RequestFacts, max_request_bytes: int, *, typed: bool = True) -> dict[str, Any] | Refusal:
    """Return the whole body as a JSON object; `typed`: it must say `application/json`."""
    data = whole(facts, max_request_bytes)
    if isinstance(data, Refusal):
        return data
    if typed:
        kind = facts.header("content-type")
        if kind != "application/json" and (kind is None or not _JSON_TYPE.match(kind)):
            return refuse("does not say that it is JSON")
    return json_object(data)


def json_object(data: bytes) -> dict[str, Any] | Refusal:
    """Read one strict JSON object of bounded cost."""
    try:
        return parse(data)
    except StrictError as error:
        return refuse(str(error))


def case_variant(keys: Iterable[str], wanted: frozenset[str]) -> str | None:
    """Return a key that case-insensitive parsers (Go's) would take for one of `wanted` (lower case), or None."""
    for key in keys:
        if key not in wanted and key.casefold() in wanted:
            return key
    return None
