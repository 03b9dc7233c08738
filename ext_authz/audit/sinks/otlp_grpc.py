"""OTLP's gRPC transport, and what each status code means for the events.

Law: a channel is built again after a certificate was not trusted, with the files as they are then. Source: OTLP
specification 1.x, "OTLP/gRPC response": retryable codes and RetryInfo.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from ext_authz.audit.sinks import Hold, Retry, Split

_CODES: Final = grpc.StatusCode
_HOLD: Final = frozenset({_CODES.UNAUTHENTICATED, _CODES.PERMISSION_DENIED, _CODES.NOT_FOUND, _CODES.UNIMPLEMENTED})
_METHOD: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_PORT: Final = 4317
_MAX_ANSWER_BYTES: Final = 1024 * 1024


class GrpcSender:
    """OTLP/gRPC."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        seconds: float,
        compress: bool,
        ca_file: str | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self._parts = urlsplit(url)
        self._headers = tuple(headers.items())
        self._seconds = seconds
        self._compression = grpc.Compression.Gzip if compress else grpc.Compression.NoCompression
        self._ca_file = ca_file
        self._certificate = certificate
        self._channel: grpc.Channel | None = None

    def send(self, request: bytes) -> bytes:
        """Return the response's bytes. Raises Retry, Split and Hold by status code."""
        if self._channel is None:
            self._channel = self._connect()
        call = self._channel.unary_unary(_METHOD, request_serializer=None, response_deserializer=None)
        try:
            reply: bytes = call(request, timeout=self._seconds, metadata=self._headers, compression=self._compression)
        except grpc.RpcError as error:
            raise self._judged(error) from None
        return reply

    def close(self) -> None:
        """End the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _connect(self) -> grpc.Channel:
        port = self._parts.port or _PORT
        host = self._parts.hostname or ""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        options = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES))
        if self._parts.scheme == "http":
            return grpc.insecure_channel(address, options)
        try:
            authorities = Path(self._ca_file).read_bytes() if self._ca_file else None
            chain, key = [Path(path).read_bytes() for path in self._certificate or ()] or (None, None)
        except OSError as error:
            raise Hold(f"the CA file, client certificate or key cannot be read: {error.strerror}") from None
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities, key, chain), options)

    def _judged(self, error: Any) -> Exception:  # noqa: ANN401  an RpcError that is a Call too
        code = error.code()
        if code in _HOLD:
            return Hold(f"status {code.name}")
        if code is _CODES.INVALID_ARGUMENT:
            return Split(f"status {code.name}")
        if "CERTIFICATE_VERIFY_FAILED" in str(error.details()):
            self.close()
            return Hold("its certificate is not trusted")
        return Retry(f"status {code.name}", _delay(error.trailing_metadata() or ()))


def _delay(metadata: Any) -> float | None:  # noqa: ANN401  pairs of a name and text or bytes
    """Return the seconds of a google.rpc.RetryInfo in the status details."""
    for name, value in metadata:
        if name != "grpc-status-details-bin":
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    return float(info.retry_delay.seconds) + float(info.retry_delay.nanos) / 1e9
        except DecodeError:
            return None
    return None
