"""The seam between HTTP/2 and `check(bytes) -> bytes | Wait`.

Law: a transport moves bytes, bounds them and drains; it decides nothing.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ext_authz.config.schema import TlsSettings
from ext_authz.response import FAIL_CLOSED
from ext_authz.server.service import Service, Wait

TOGETHER: Final = 32
"""Checks that share one write to the trail and leave together."""

Respond = Callable[[bytes], object]
"""Sends one call its answer, from any thread. Does not raise, whatever became of the caller."""


class BindError(Exception):
    """An address cannot be listened on; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Listener TLS: PEM files, re-read when they change; `client_names` are the SANs that may call."""

    certificate: Path
    private_key: Path
    client_ca: Path | None
    client_names: tuple[str, ...]


def tls_files(settings: TlsSettings | None) -> TlsFiles | None:
    """Return the files that a listener's settings name, None where it has no TLS."""
    if settings is None:
        return None
    return TlsFiles(settings.certificate, settings.private_key, settings.client_ca, tuple(settings.client_names))


TRACEPARENT: Final = "traceparent"


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """What a transport needs besides the service.

    `addresses` are `host:port` or `unix:/path`. `max_receive_bytes` bounds one
    serialized CheckRequest. `reuse_port`: several workers share each TCP port. `traced(message, traceparent)` joins
    a message with the `traceparent` of its call's metadata; None where nothing is traced.
    """

    addresses: tuple[str, ...]
    max_receive_bytes: int
    reuse_port: bool = False
    tls: TlsFiles | None = None
    socket_group: str = ""
    traced: Callable[[bytes, str | bytes | None], bytes] | None = None


class Transport(Protocol):
    """A listening gRPC server."""

    name: str

    def start(self) -> tuple[str, ...]:
        """Bind and serve; return the bound addresses. Raises BindError."""

    def set_serving(self, *, serving: bool) -> None:
        """Set what grpc.health.v1 answers."""

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let those under way finish for up to `grace_seconds`, close."""


def open_transport(kind: str, service: Service, options: ListenOptions) -> Transport:
    """Return the transport of `kind`: `grpcio`, `native`, or `auto` (native where it can serve and is installed).

    Raises BindError when `native` is asked for and cannot be had.
    """
    from ext_authz.server.transport.grpcio import GrpcioTransport

    why_not = _native_problem(options)
    if kind == "native" and why_not:
        raise BindError(f"transport `native` cannot be used: {why_not}")
    if kind == "grpcio" or why_not:
        return GrpcioTransport(service, options)
    from ext_authz.server.transport.native import NativeTransport

    return NativeTransport(service, options)


def _native_problem(options: ListenOptions) -> str:
    if options.tls is not None:
        return "it has no TLS"
    if not all(is_local(address) for address in options.addresses):
        return "it serves loopback and Unix sockets only"
    try:
        import pygrpc_native  # noqa: F401
    except ImportError:
        return "pygrpc-native is not installed (pip install 'ext-authz[native]')"
    return ""


def is_local(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _anyhow(_answers: int) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def answer(
    service: Service,
    checks: Sequence[tuple[bytes, Respond]],
    limit: int,
    leaving: Callable[[int], contextlib.AbstractContextManager[None]] = _anyhow,
) -> None:
    """Answer checks that have arrived together, those over `limit` bytes with a denial. Never raises.

    All are decided before the first leaves: an answer wakes whoever sends it, who may take the CPU from the others.
    `leaving(count)` is entered while they leave.
    """
    read = [(data, respond) for data, respond in checks if len(data) <= limit]
    try:
        answers = service.check_all([data for data, _ in read])
    except Exception as error:  # noqa: BLE001  everyone waits behind this thread: it must go on, and they be told
        service.failed(error)
        answers = [FAIL_CLOSED] * len(read)
    with leaving(len(answers)):
        for (_, respond), ready in zip(read, answers, strict=True):
            if isinstance(ready, Wait):
                service.commit(ready, respond)
            else:
                respond(ready)
    if len(read) < len(checks):
        for data, respond in checks:
            if len(data) > limit:
                respond(service.oversized())
