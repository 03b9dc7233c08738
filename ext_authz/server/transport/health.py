"""grpc.health.v1 and server reflection, the same on every transport."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ext_authz._pb import external_auth_pb2  # noqa: F401  reflection answers from the descriptor pool
from ext_authz.server.service import SERVICE


class Health:
    """The health of "" and of the Authorization service."""

    def __init__(self) -> None:
        self._servicer = health.HealthServicer()
        self.set_serving(serving=False)

    def add_to(self, server: grpc.Server) -> None:
        """Register health and reflection on `server`."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    def set_serving(self, *, serving: bool) -> None:
        """Answer SERVING or NOT_SERVING from now on."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            self._servicer.set(name, status)
