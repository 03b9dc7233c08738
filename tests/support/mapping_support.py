"""Builders for the mappers' tests: facts, tables, gRPC frames, protobuf by hand."""

from collections.abc import Mapping

from ext_authz.documents import load
from ext_authz.mappers.routes import RouteMatch, RouteTable, load_resources
from ext_authz.model import Body, Refusal, RequestFacts, Target

LIMIT = 1024 * 1024


def table(text: str, limit: int = LIMIT) -> RouteTable:
    return load_resources([(load(text, "routes.yaml"), "routes.yaml")], max_request_bytes=limit)


def facts(
    method: str = "GET",
    path: str = "/",
    host: str = "h",
    *,
    body: bytes = b"",
    headers: Mapping[str, str | tuple[str, ...]] | None = None,
    partial: str | None = None,
    size: int | None = None,
    extensions: Mapping[str, str] | None = None,
    protocol: str = "HTTP/2",
) -> RequestFacts:
    values = {name: (value,) if isinstance(value, str) else value for name, value in (headers or {}).items()}
    return RequestFacts(
        method=method,
        path=path,
        host=host,
        headers=values,
        forged=(),
        body=Body(body, len(body) if size is None else size, ("false" if body else "") if partial is None else partial),
        source_address="10.0.0.1",
        source_principal="",
        source_certificate="",
        time_ns=None,
        context_extensions=extensions or {},
        http_protocol=protocol,
    )


def grpc(path: str, message: bytes, host: str = "h", **more: object) -> RequestFacts:
    headers = {"content-type": "application/grpc", **more.pop("headers", {})}  # type: ignore[dict-item]
    return facts("POST", path, host, body=frame(message), headers=headers, **more)  # type: ignore[arg-type]


def frame(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def ask(routes: RouteTable, request: RequestFacts) -> Target | Refusal | RouteMatch | None:
    """The target; the match of a public route; a refusal; None for no route."""
    match = routes.match(request)
    if match is None or isinstance(match, Refusal) or match.public:
        return match
    return routes.target(match, request)


def meaning(routes: RouteTable, request: RequestFacts) -> object:
    """Compact: list of (type, id, version, action), the refusal's reason as text, or "no_route"."""
    asked = ask(routes, request)
    if asked is None:
        return "no_route"
    if isinstance(asked, Refusal):
        return asked.reason.value
    if isinstance(asked, RouteMatch):
        return "public"
    return [(a.resource.type, a.resource.id, a.resource.version, a.action) for a in asked.accesses]
