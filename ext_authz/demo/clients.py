"""Real clients over mutual TLS: httpx, and tritonclient over HTTP and gRPC.

Law: a client says what it saw, status and all, and judges nothing.
Non-goal: retries; a second try would hide the first answer.
"""

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from ext_authz.demo.files import Files
from ext_authz.demo.model_server import FEATURES

_Triton = Any  # tritonclient has no types

TIMEOUT_SECONDS: Final = 15.0
MODELS_HOST: Final = "models.internal"
TLS_REFUSED: Final = "TLS refused"
LAKE_HOST: Final = "lake.internal"
ROWS: Final = [[0.5, 1.0, -0.25, 2.0]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller saw: a label (`200`, `PERMISSION_DENIED`, `TLS refused`), body and, from the data lake, headers."""

    label: str
    milliseconds: float
    text: str = ""
    received: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Clients:
    """Callers of one running Envoy; `ports` maps its listeners to TCP ports."""

    files: Files
    ports: Mapping[str, int]
    _contexts: dict[str, ssl.SSLContext] = field(default_factory=dict)

    def http(
        self,
        method: str,
        host: str,
        target: str,
        *,
        caller: str = "notebook",
        headers: Mapping[str, str] | None = None,
        body: object = None,
        listener: str = "edge",
        source: str | None = None,
        http2: bool = False,
    ) -> Answer:
        """Send `target` byte for byte. `caller` "" shows no certificate; `source` is the address to bind."""
        transport = httpx.HTTPTransport(
            verify=self._context(caller), http2=http2, local_address=source, trust_env=False
        )
        url = f"https://127.0.0.1:{self.ports[listener]}/"
        with httpx.Client(transport=transport, timeout=TIMEOUT_SECONDS) as client:
            request = client.build_request(
                method,
                url,
                headers={"host": host, **(headers or {})},
                json=body,
                # httpx would tidy the path; an attacker does not.
                extensions={"target": target.encode()},
            )
            started = time.perf_counter()
            try:
                response = client.send(request)
            except httpx.TransportError as error:
                label = TLS_REFUSED if "ALERT" in str(error) else type(error).__name__
                return Answer(label, _since(started), str(error))
            taken = _since(started)
        return Answer(str(response.status_code), taken, response.text, _received(response.text))

    def triton_http(self, model: str, caller: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Infer with tritonclient.http."""
        import tritonclient.http as triton  # type: ignore[import-untyped]

        tensor = triton.InferInput("x", [1, FEATURES], "FP64")
        tensor.set_data_from_numpy(_rows(), binary_data=False)
        wanted = [triton.InferRequestedOutput("predict", binary_data=False)]

        def infer(client: _Triton) -> str:
            found = client.infer(model, [tensor], outputs=wanted, headers={"host": MODELS_HOST, **(headers or {})})
            return json.dumps(found.get_response())

        return self._triton_http(caller, infer)

    def deploy(self, model: str, headers: Mapping[str, str], caller: str = "notebook") -> Answer:
        """Load a model into the server with tritonclient.http."""

        def load(client: _Triton) -> str:
            client.load_model(model, headers={"host": MODELS_HOST, **headers})
            return ""

        return self._triton_http(caller, load)

    def _triton_http(self, caller: str, call: Callable[[_Triton], str]) -> Answer:
        import gevent.ssl  # type: ignore[import-untyped]
        import tritonclient.http as triton
        from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

        class Context(gevent.ssl.SSLContext):  # type: ignore[misc]
            """The client writes head and body apart; without this the body waits 40 ms for a delayed ACK."""

            def wrap_socket(self, sock: socket.socket, **options: object) -> object:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return super().wrap_socket(sock, **options)

        context = Context(ssl.PROTOCOL_TLS_CLIENT)
        self._load(context, caller)
        with contextlib.closing(
            triton.InferenceServerClient(
                f"127.0.0.1:{self.ports['edge']}",
                ssl=True,
                ssl_context_factory=lambda **_: context,
                connection_timeout=TIMEOUT_SECONDS,
                network_timeout=TIMEOUT_SECONDS,
            )
        ) as client:
            started = time.perf_counter()
            try:
                text = call(client)
            except InferenceServerException as error:
                return Answer(str(error.status() or "error"), _since(started), error.message())
            return Answer("200", _since(started), text)

    def triton_grpc(self, model: str, caller: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Infer with tritonclient.grpc."""
        import tritonclient.grpc as triton  # type: ignore[import-untyped]
        from tritonclient.utils import InferenceServerException

        tensor = triton.InferInput("x", [1, FEATURES], "FP64")
        tensor.set_data_from_numpy(_rows())
        pair = self.files.callers[caller]
        names = [("grpc.default_authority", MODELS_HOST), ("grpc.ssl_target_name_override", "localhost")]
        with contextlib.closing(
            triton.InferenceServerClient(
                f"127.0.0.1:{self.ports['edge']}",
                ssl=True,
                root_certificates=str(self.files.authority.certificate),
                private_key=str(pair.private_key),
                certificate_chain=str(pair.certificate),
                channel_args=[*names, ("grpc.enable_retries", 0)],
            )
        ) as client:
            started = time.perf_counter()
            try:
                client.infer(model, [tensor], headers=dict(headers or {}), client_timeout=TIMEOUT_SECONDS)
            except InferenceServerException as error:
                return Answer(str(error.status()).removeprefix("StatusCode."), _since(started), error.message())
            return Answer("OK", _since(started))

    def _context(self, caller: str) -> ssl.SSLContext:
        if caller not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._load(context, caller)
            self._contexts[caller] = context
        return self._contexts[caller]

    def _load(self, context: ssl.SSLContext, caller: str) -> None:
        context.load_verify_locations(self.files.authority.certificate)
        if caller:
            pair = self.files.callers[caller]
            context.load_cert_chain(pair.certificate, pair.private_key)


def inference(rows: object = ROWS) -> dict[str, object]:
    """Return an Open Inference Protocol request body."""
    return {"inputs": [{"name": "x", "shape": [1, FEATURES], "datatype": "FP64", "data": rows}]}


def _rows() -> "np.ndarray[Any, Any]":
    return np.array(ROWS)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _received(text: str) -> tuple[tuple[str, str], ...]:
    try:
        found = json.loads(text).get("received", [])
    except (ValueError, AttributeError):
        return ()
    return tuple((str(name), str(value)) for name, value in found)
