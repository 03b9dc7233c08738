"""Services that come with any gRPC server: health, reflection, channelz.

Law: none of them names a model. Non-goal: the health service's own names of services.
"""

from typing import Final

from ext_authz.mappers.adapter import GRPC, Row
from ext_authz.mappers.places import SERVER

ROWS: Final = (
    Row(GRPC, "/grpc.health.v1.Health/Check", "health", SERVER, "server"),
    Row(GRPC, "/grpc.health.v1.Health/List", "health", SERVER, "server"),
    Row(GRPC, "/grpc.health.v1.Health/Watch", "health", SERVER, "server"),
    Row(GRPC, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "read_metadata", SERVER, "server"),
    Row(GRPC, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "read_metadata", SERVER, "server"),
    Row(GRPC, "/grpc.channelz.v1.Channelz/{call}", "admin", SERVER, "server"),
)
