"""Unary calls of one method, taken straight from grpcio's completion queue by one thread and answered whenever.

Law: nothing waits in that thread, and every call is answered once. `grpc.server` would give each call a thread for as
long as it lasts, which costs twice what the rest of grpcio does. What is used of grpcio's inside is not promised to
stay: `attach` says when it looks different. Non-goal: ports, TLS and other methods, which stay with `grpc.server`.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import grpc

from ext_authz.server.transport import TOGETHER

_AHEAD: Final = 16
"""Calls that grpcio may take in before it is asked for more."""
_NO_FLAGS: Final = 0
_AT_ONCE: Final = 0.0  # a deadline long past


class Call:
    """One call whose request is over: `message` is None where it was too large for the transport or never came.

    `deadline` is Unix seconds. May be answered from any thread.
    """

    __slots__ = ("_call", "_cygrpc", "deadline", "message", "metadata")

    def __init__(
        self,
        cygrpc: Any,  # noqa: ANN401
        call: Any,  # noqa: ANN401
        deadline: float,
        message: bytes | None,
        metadata: Sequence[tuple[str, str | bytes]],
    ) -> None:
        self._cygrpc = cygrpc
        self._call = call
        self.deadline = deadline
        self.message = message
        self.metadata = metadata

    def respond(self, answer: bytes) -> None:
        """Send the answer; a caller that has gone is not told of."""
        cygrpc = self._cygrpc
        self._finish((cygrpc.SendMessageOperation(answer, _NO_FLAGS),), cygrpc.StatusCode.ok, b"")

    def refuse(self, why: str) -> None:
        """End the call with PERMISSION_DENIED."""
        self._finish((), self._cygrpc.StatusCode.permission_denied, why.encode())

    def peer(self) -> Mapping[str, Sequence[bytes]]:
        """Return what TLS knows of the caller, as `ServicerContext.auth_context` does."""
        return {name.decode(): values for name, values in (self._cygrpc.auth_context(self._call) or {}).items()}

    def _finish(self, operations: tuple[Any, ...], code: Any, text: bytes) -> None:  # noqa: ANN401
        cygrpc = self._cygrpc
        # A call is only over for grpcio's core once its close was received; else it is reset at the end.
        batch = (
            cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
            *operations,
            cygrpc.SendStatusFromServerOperation((), code, text, _NO_FLAGS),
            cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),
        )
        with contextlib.suppress(Exception):
            self._call.start_server_batch(batch, _ignore)


class Calls:
    """The calls of `method` on a `grpc.server`; `answer` gets those that have arrived together and must not raise."""

    def __init__(self, cygrpc: Any, server: Any, method: str, answer: Callable[[Sequence[Call]], None]) -> None:  # noqa: ANN401
        self._cygrpc = cygrpc
        self._server = server
        self._method = method
        self._answer = answer
        self._queue = cygrpc.CompletionQueue()
        self._arrived: list[Call] = []
        self._thread = threading.Thread(target=self._serve, name="check", daemon=True)
        server.register_completion_queue(self._queue)
        server.register_method(method)

    @classmethod
    def attach(cls, server: grpc.Server, method: str, answer: Callable[[Sequence[Call]], None]) -> "Calls | None":
        """Take over `method` of a server that has not started; None where this grpcio cannot do it."""
        try:
            cygrpc = importlib.import_module("grpc._cython.cygrpc")
            inside = server._state.server  # type: ignore[attr-defined]  # noqa: SLF001
            if not all(hasattr(cygrpc, name) for name in _USED) or not hasattr(inside, "request_registered_call"):
                return None
            return cls(cygrpc, inside, method, answer)
        except (ImportError, AttributeError, TypeError, ValueError):
            return None

    def start(self) -> None:
        """Begin to take calls; the server has started."""
        for _ in range(_AHEAD):
            self._ask()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the server has stopped."""
        self._queue.shutdown()
        self._thread.join(1)

    def _ask(self) -> None:
        with contextlib.suppress(ValueError):  # it is shutting down
            self._server.request_registered_call(self._queue, self._queue, self._method, self._called)

    def _called(self, event: Any) -> None:  # noqa: ANN401
        if not event.success:
            return  # the server is shutting down
        self._ask()
        call, deadline, metadata = event.call, event.call_details.deadline, event.invocation_metadata

        def received(event: Any) -> None:  # noqa: ANN401
            message = event.batch_operations[0].message() if event.success else None
            self._arrived.append(Call(self._cygrpc, call, deadline, message, metadata))

        call.start_server_batch((self._cygrpc.ReceiveMessageOperation(_NO_FLAGS),), received)

    def _serve(self) -> None:
        poll, kinds = self._queue.poll, self._cygrpc.CompletionType
        event = poll()
        while event.completion_type != kinds.queue_shutdown:
            if event.completion_type != kinds.queue_timeout:
                with contextlib.suppress(Exception):  # one call's broken connection is not the others' affair
                    event.tag(event)
                if len(self._arrived) < TOGETHER:
                    event = poll(_AT_ONCE)
                    continue
            if self._arrived:
                arrived, self._arrived = self._arrived, []
                with contextlib.suppress(Exception):  # they fail closed at their deadlines
                    self._answer(arrived)
            # An event keeps its call alive, which must be gone before the queue is looked at again.
            event = None
            event = poll()


def _ignore(_event: object) -> None:
    """Nothing is to be done when an answer has been sent, or could not be."""


_USED: Final = (
    "CompletionQueue",
    "CompletionType",
    "ReceiveCloseOnServerOperation",
    "ReceiveMessageOperation",
    "SendInitialMetadataOperation",
    "SendMessageOperation",
    "SendStatusFromServerOperation",
    "StatusCode",
    "auth_context",
)
