"""One service behind one of the two transports, asked over gRPC; every answer comes with its audit event."""

import grpc
import running_service
from wire_requests import check_request, grpc_request, read_reply

from ext_authz.server.service import METHOD
from ext_authz.server.transport import ListenOptions, open_transport

KINDS = ("grpcio", "native")


class Asked:
    """Start a service with these routes and policies; `ask` sends a check as Envoy would."""

    def __init__(self, folder, kind: str, **files: str) -> None:
        self.running = running_service.start(folder, **files)
        address = f"unix:{folder}/t.sock"
        self.transport = open_transport(kind, self.running.service, ListenOptions((address,), 1024 * 1024))
        self.transport.start()
        self.transport.set_serving(serving=True)
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.call = self.channel.unary_unary(METHOD)

    def ask(self, *args, principal=running_service.SCORER, **rest):
        """Return (reply, event), whose decision and reason agree; arguments as of `check_request`."""
        return self._sent(check_request(*args, principal=principal, **rest))

    def ask_grpc(self, *args, principal=running_service.SCORER, **rest):
        """Do the same for the check of a gRPC call; arguments as of `grpc_request`."""
        return self._sent(grpc_request(*args, principal=principal, **rest))

    def _sent(self, message: bytes):
        reply = read_reply(self.call(message, timeout=20))
        event = self.running.events()[-1]
        assert event["decision_id"] == reply.headers["x-authz-decision-id"]
        assert event["decision"] == ("allow" if reply.allowed else "deny")
        assert event["reason"] == reply.reason
        return reply, event

    def close(self) -> None:
        self.channel.close()
        self.transport.stop(1)
        self.running.close()
