"""Bytes of a CheckRequest to `RequestFacts`, or the refusal that they cannot be read.

Law: any bytes give one of the two, never an exception; where two places name
one thing (host, path, method, body, headers) they agree or the request is
malformed. Non-goal: believing any of it.
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from google.protobuf import json_format, struct_pb2
from google.protobuf.message import DecodeError

from ext_authz._pb import external_auth_pb2 as pb
from ext_authz.model import AttributeValue, Body, Reason, Refusal, RequestFacts, Source, SourceKind

MAX_HEADERS: Final = 512
MAX_FORGED: Final = 64
MAX_METHOD: Final = 64
MAX_NAME: Final = 256
MAX_TOLD: Final = 4096
PARTIAL_BODY: Final = "x-envoy-auth-partial-body"
RESERVED_PREFIX: Final = "x-authz-"

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_BYTES_FIELDS: Final = frozenset({"rawBody", "raw_body", "rawValue", "raw_value"})
_NESTED = re.compile(r"^(?:Failed to parse \w+ field: )+")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}\Z")
# RFC 9110 5.6.2
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_REG_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\Z")
_HOST: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?\Z")
# RFC 1035 2.3.4, the trailing dot and the port.
_MAX_HOST: Final = 253
_MAX_AUTHORITY: Final = _MAX_HOST + 7
_MAX_PORT: Final = 65535
_YEAR_10000: Final = 253_402_300_800
_NOTHING_TOLD: Final[Mapping[Source, AttributeValue | None]] = MappingProxyType({})
# Whole numbers beyond are not one number in a double.
_EXACT: Final = 2**53
_NO_TEXTS: Final[Mapping[str, str]] = MappingProxyType({})

_SECOND: Final = 1_000_000_000

# What a header name is to the reader.
_NOTHING, _KEPT, _ODD = 0, 1, 2
_REPEATING: Final = (":authority", "host", ":path", ":method")
_CACHED_NAMES: Final = 2048
_CACHED_NAME_BYTES: Final = 64


class _MalformedError(Exception):
    """The request cannot be read; the text becomes the refusal's detail."""


def read(
    data: bytes,
    header_names: frozenset[str],
    injected: frozenset[str] = frozenset(),
    sources: frozenset[Source] = frozenset(),
) -> RequestFacts | Refusal:
    """Read one serialized CheckRequest, keeping of its headers the (lower-case) `header_names` and `content-type`.

    Names that read as one of `injected` once `_` is taken for `-` count as forged. `sources` are read of
    Envoy's metadata.

    A refusal is always `malformed_request`.
    """
    try:
        return _read(data, header_names, injected, sources)
    except _MalformedError as error:
        return Refusal(Reason.MALFORMED_REQUEST, str(error))
    except DecodeError:
        return Refusal(Reason.MALFORMED_REQUEST, "not a CheckRequest, or text in it that is not UTF-8")


def from_json(text: str) -> bytes:
    """Return the wire form of a CheckRequest in proto JSON. Raises ValueError, saying what is wrong."""
    try:
        # protobuf's reader takes `[]` for an empty message.
        value = json.loads(text, object_pairs_hook=_strict_base64)
        message = json_format.Parse(text if isinstance(value, dict) else "", pb.CheckRequest())
    except RecursionError:
        raise ValueError("not a CheckRequest in proto JSON: nested too deeply") from None
    except (json_format.ParseError, ValueError) as error:
        reason = _NESTED.sub("", str(error)).partition("\n")[0].rstrip(".")
        raise ValueError(f"not a CheckRequest in proto JSON: {reason[:1].lower()}{reason[1:]}") from None
    return message.SerializeToString()


def _strict_base64(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse bytes that are not base64: protobuf's own reader drops what it does not know."""
    for key, value in pairs:
        if key in _BYTES_FIELDS and isinstance(value, str) and not _BASE64.match(value):
            raise ValueError(f"`{key}` is not base64 (plain text goes into `body` or `value`)")
    return dict(pairs)


def _read(
    data: bytes, header_names: frozenset[str], injected: frozenset[str], sources: frozenset[Source]
) -> RequestFacts:
    attributes = pb.CheckRequest.FromString(data).attributes
    request = attributes.request
    if not request.HasField("http"):
        raise _MalformedError("no HTTP attributes")
    http = request.http
    method, authority, path = http.method, http.host, http.path
    if method not in _METHODS and (len(method) > MAX_METHOD or not _TOKEN.match(method)):
        raise _MalformedError("the method is not a token")
    host = canonical_host(authority)
    if host is None:
        raise _MalformedError("the host is empty or not one name or address")
    if http.query or http.fragment:
        raise _MalformedError("query or fragment outside the path")

    headers, forged = _gather(http, header_names, injected)
    for name, attribute in ((":authority", authority), ("host", authority), (":path", path), (":method", method)):
        values = headers.get(name)
        if values is not None:
            if len(values) != 1 or values[0] != (attribute if attribute.isascii() else _latin(attribute)):
                raise _MalformedError(f"`{name}` comes twice or differs from the attributes")
            if name not in header_names:
                del headers[name]
    partial = headers.get(PARTIAL_BODY, ())
    if partial and PARTIAL_BODY not in header_names:
        del headers[PARTIAL_BODY]

    source = attributes.source
    extensions = attributes.context_extensions
    return RequestFacts(
        method,
        path,
        host,
        headers,
        forged,
        _body(http, partial),
        source.address.socket_address.address,
        source.principal,
        source.certificate,
        _time_ns(request),
        dict(extensions) if extensions else _NO_TEXTS,
        http.protocol,
        http.scheme,
        attributes.tls_session.sni,
        _told(attributes, sources) if sources else _NOTHING_TOLD,
    )


def _told(attributes: pb.AttributeContext, sources: frozenset[Source]) -> dict[Source, AttributeValue | None]:
    """Return what Envoy's metadata holds of the sources, absent ones left out; None where it is of no usable type."""
    found: dict[Source, AttributeValue | None] = {}
    for source in sources:
        if source.kind is SourceKind.EXTENSION:
            continue
        filters = source.kind is SourceKind.METADATA
        context = attributes.metadata_context if filters else attributes.route_metadata_context
        # Looking a message up in a protobuf map by [] would create it.
        if source.namespace in context.filter_metadata:
            fields = context.filter_metadata[source.namespace].fields
            if source.key in fields:
                found[source] = _plain(fields[source.key])
    return found


def _plain(value: struct_pb2.Value) -> AttributeValue | None:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value if len(value.string_value) <= MAX_TOLD else None
    if kind == "bool_value":
        return value.bool_value
    number = value.number_value
    return int(number) if kind == "number_value" and number.is_integer() and abs(number) < _EXACT else None


def _gather(
    http: pb.AttributeContext.HttpRequest, header_names: frozenset[str], injected: frozenset[str]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return (kept headers, forged names), looking at each header once."""
    lines = http.header_map.headers
    texts = http.headers
    if lines and texts:
        raise _MalformedError("headers in both encodings")
    if len(lines) > MAX_HEADERS or len(texts) > MAX_HEADERS:
        raise _MalformedError(f"more than {MAX_HEADERS} headers")
    known = _names(header_names, injected)
    kinds = known.kinds
    found: dict[str, tuple[str, ...]] = {}
    odd: list[str] = []
    for line in lines:
        name = line.key
        kind = kinds.get(name)
        if kind is None:
            kind = known.classify(name)
        if kind:
            value = line.raw_value.decode("latin-1")
            text = line.value
            if text:
                value = _one_value(value, text)
            if kind == _ODD:
                odd.append(name)
                name = name.lower()
            found[name] = (*found[name], value) if name in found else (value,)
    for name in texts:
        kind = kinds.get(name)
        if kind is None:
            kind = known.classify(name)
        if kind:
            value = _latin(texts[name])
            if kind == _ODD:
                odd.append(name)
                name = name.lower()  # noqa: PLW2901
            found[name] = (*found[name], value) if name in found else (value,)
    return found, _forged(odd, found, known, header_names) if odd else ()


def _forged(
    odd: list[str], found: dict[str, tuple[str, ...]], known: "_Names", header_names: frozenset[str]
) -> tuple[str, ...]:
    """Return the names, each once, that upstream could take for ours; their values are dropped."""
    names = tuple(dict.fromkeys(name for name in odd if known.forges(name)))
    if len(names) > MAX_FORGED:
        raise _MalformedError(f"more than {MAX_FORGED} forged headers")
    for name in names:
        # A name that cannot be removed again could not be kept from the upstream.
        if len(name) > MAX_NAME or not _TOKEN.match(name):
            raise _MalformedError("a forged header's name is not a token")
        if name.lower() not in header_names:
            found.pop(name.lower(), None)
    return names


def reads_as_ours(name: str) -> bool:
    """Whether a header name reads as `x-authz-*`, lower-cased and with `_` taken for `-`."""
    return name.lower().replace("_", "-").startswith(RESERVED_PREFIX)


class _Names:
    """The names one snapshot asks for, and those (a bounded number) that were already classified for it."""

    __slots__ = ("folded", "injected", "kinds", "wanted")

    def __init__(self, wanted: frozenset[str], injected: frozenset[str]) -> None:
        self.injected = injected
        self.folded = frozenset(name.replace("_", "-") for name in injected)
        # The answer's form hangs on content-type, whatever the snapshot reads.
        self.wanted = wanted.union(_REPEATING, (PARTIAL_BODY, "content-type"))
        self.kinds: dict[str, int] = {}

    def forges(self, verbatim: str) -> bool:
        """Whether an upstream may take the name for one that the sidecar sets; its plain spelling is always removed."""
        name = verbatim.lower()
        return reads_as_ours(name) or (name.replace("_", "-") in self.folded and name not in self.injected)

    def classify(self, verbatim: str) -> int:
        """Return what a header name is to the reader, remembering it while there is room."""
        name = verbatim.lower()
        kind = _KEPT if name in self.wanted else _NOTHING
        if self.forges(verbatim) or (kind and name != verbatim):
            kind = _ODD
        if len(verbatim) <= _CACHED_NAME_BYTES and len(self.kinds) < _CACHED_NAMES:
            self.kinds[verbatim] = kind
        return kind


@lru_cache(maxsize=4)
def _names(header_names: frozenset[str], injected: frozenset[str]) -> _Names:
    return _Names(header_names, injected)


def _one_value(raw: str, text: str) -> str:
    """Return a header line's value where `value` is filled (gRPC's own clients), refusing two that differ."""
    value = _latin(text)
    if raw and raw != value:
        raise _MalformedError("a header with two values in one line")
    return value


def _latin(text: str) -> str:
    """Return text's UTF-8 bytes as latin-1, so that both encodings read alike."""
    return text if text.isascii() else text.encode().decode("latin-1")


def canonical_host(authority: str) -> str | None:
    """Return a host as routes compare it: lower case, no port, no trailing dot; None when it is no host.

    IPv6 literals keep their brackets and are compressed (RFC 5952).
    """
    return _canonical_host(authority) if len(authority) <= _MAX_AUTHORITY else None


@lru_cache(maxsize=1024)
def _canonical_host(authority: str) -> str | None:
    # Non-ASCII first: lower() would turn some of it into ASCII letters (KELVIN SIGN).
    match = _HOST.match(authority) if authority.isascii() else None
    if match is None or (match[2] is not None and int(match[2]) > _MAX_PORT):
        return None
    name = match[1].lower()
    if name.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(name[1:-1])}]" if "%" not in name else None
        except ValueError:
            return None
    name = name.removesuffix(".")
    return name if len(name) <= _MAX_HOST and _REG_NAME.match(name) else None


_NO_BODY: Final = Body(b"", 0, "")


def _body(http: pb.AttributeContext.HttpRequest, partial: tuple[str, ...]) -> Body:
    data, text, size = http.raw_body, http.body, http.size
    if text:
        if data:
            raise _MalformedError("a body in both encodings")
        data = text.encode()
    if not (data or size or partial):
        return _NO_BODY
    return Body(data, max(size, -1), ",".join(partial))


def _time_ns(request: pb.AttributeContext.Request) -> int | None:
    """Return the request's time in Unix nanoseconds, None when absent."""
    if not request.HasField("time"):
        return None
    time = request.time
    seconds, nanos = time.seconds, time.nanos
    if not (0 <= seconds < _YEAR_10000 and 0 <= nanos < _SECOND):
        raise _MalformedError("a time outside 1970 to 9999")
    return seconds * _SECOND + nanos
