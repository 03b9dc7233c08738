"""CheckRequests as Envoy 1.40 writes them, and CheckResponses as tests read them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format

from ext_authz._pb import core_pb2, external_auth_pb2

Headers = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]

AT_NS = 1_795_428_000_000_000_000
"""2026-11-23T10:00:00Z, a Monday, in Unix nanoseconds."""

OVERWRITE = core_pb2.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD


def check_message(
    method: str = "GET",
    path: str = "/",
    host: str = "models.internal",
    headers: Headers = (),
    *,
    encoding: str = "raw",
    body: bytes = b"",
    size: int | None = None,
    partial: str | None = None,
    source: str = "10.1.2.3",
    principal: str = "",
    certificate: str = "",
    time_ns: int | None = AT_NS,
    context_extensions: Mapping[str, str] | None = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    route_metadata: Mapping[str, Mapping[str, Any]] | None = None,
    protocol: str = "HTTP/2",
    scheme: str = "https",
    sni: str = "",
    pseudo: bool = True,
) -> Any:
    """Return a CheckRequest message.

    `encoding` is `raw` (header_map, every line) or `map` (duplicates joined with ","). A body brings
    `x-envoy-auth-partial-body: false` along, as Envoy does; `partial` says otherwise. `size` defaults to the
    body's length. `source` "" is a Unix socket.
    """
    message = external_auth_pb2.CheckRequest()
    attributes = message.attributes
    if source:
        attributes.source.address.socket_address.address = source
        attributes.source.address.socket_address.port_value = 40000
    else:
        attributes.source.address.pipe.path = "/run/client.sock"
    attributes.source.principal = principal
    attributes.source.certificate = certificate
    attributes.destination.address.socket_address.address = "127.0.0.1"
    attributes.destination.address.socket_address.port_value = 8443
    if time_ns is not None:
        attributes.request.time.seconds, attributes.request.time.nanos = divmod(time_ns, 1_000_000_000)
    attributes.context_extensions.update(context_extensions or {})
    attributes.metadata_context.SetInParent()
    for namespace, values in (metadata or {}).items():
        attributes.metadata_context.filter_metadata[namespace].update(values)
    for namespace, values in (route_metadata or {}).items():
        attributes.route_metadata_context.filter_metadata[namespace].update(values)
    if sni:
        attributes.tls_session.sni = sni
    http = attributes.request.http
    http.SetInParent()
    http.id = "16894475742648742088"
    http.method, http.path, http.host, http.scheme, http.protocol = method, path, host, scheme, protocol
    http.raw_body = body
    http.size = len(body) if size is None else size
    lines = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if pseudo:
        own = [(":authority", host), (":method", method), (":path", path), (":scheme", scheme)]
        lines = [(name, value) for name, value in own if value] + lines
    if partial is None and body:
        partial = "false"
    if partial is not None:
        lines.append(("x-envoy-auth-partial-body", partial))
    add_headers(http, lines, encoding)
    return message


def add_headers(http: Any, lines: Iterable[tuple[str, str | bytes]], encoding: str) -> None:
    """Add header lines in one of Envoy's two encodings."""
    for name, value in lines:
        raw = value.encode() if isinstance(value, str) else value
        if encoding == "raw":
            http.header_map.headers.add(key=name, raw_value=raw)
        else:
            text = raw.decode("utf-8", "replace").replace("\ufffd", "!")
            earlier = http.headers.get(name)
            http.headers[name] = text if earlier is None else f"{earlier},{text}"


def check_request(*args: Any, **kwargs: Any) -> bytes:
    """Return the wire form of `check_message`."""
    return check_message(*args, **kwargs).SerializeToString()


def grpc_request(method: str, message: bytes = b"", headers: Headers = (), **kwargs: Any) -> bytes:
    """Return the check of a unary gRPC call (`method` is `/package.Service/Method`) with its framed message."""
    lines = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    lines = [("content-type", "application/grpc"), ("te", "trailers"), *lines]
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    return check_request("POST", method, headers=lines, body=body, **kwargs)


@dataclass(frozen=True)
class Reply:
    """A CheckResponse, judged as Envoy does: `status.code` alone decides.

    `kind` is `ok_response`, `denied_response`, `error_response` or None; `headers` are those set (of the request
    on an allow, of the answer on a denial).
    """

    allowed: bool
    kind: str | None
    http_status: int
    headers: dict[str, str]
    removed: tuple[str, ...]
    body: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return self.metadata["reason"]


def read_reply(data: bytes) -> Reply:
    """Parse a serialized CheckResponse; asserts what every answer owes: a status, safe actions, no name twice."""
    assert data, "an empty CheckResponse is an allow in Envoy"
    message = external_auth_pb2.CheckResponse.FromString(data)
    assert message.HasField("status")
    allowed = message.status.code == 0
    kind = message.WhichOneof("http_response")
    assert (kind == "ok_response") == allowed
    part = getattr(message, kind)
    names = [option.header.key for option in part.headers]
    assert len(names) == len(set(names))
    for option in part.headers:
        assert option.append_action == OVERWRITE
        assert option.header.value
        assert not option.header.raw_value
        assert option.header.key == option.header.key.lower()
    removed = tuple(part.headers_to_remove) if allowed else ()
    assert not {name.lower() for name in removed} & set(names)
    return Reply(
        allowed=allowed,
        kind=kind,
        http_status=200 if allowed else part.status.code,
        headers={option.header.key: option.header.value for option in part.headers},
        removed=removed,
        body="" if allowed else part.body,
        metadata=json_format.MessageToDict(message.dynamic_metadata),
    )
